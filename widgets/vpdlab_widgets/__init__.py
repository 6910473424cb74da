"""Notebook widgets for vpdlab: plain data in, a selection out.

Every widget takes lists and dicts, reports its selection in the `selected` trait, and writes itself as one offline page
with `to_html()`. The package needs neither torch nor vpdlab, so a laptop without either can open a recorded run.
"""

from vpdlab_widgets.base import LabWidget, write_page
from vpdlab_widgets.critique_influence import CritiqueInfluence
from vpdlab_widgets.em_timeline import EMTimeline
from vpdlab_widgets.rollout_table import RolloutTable
from vpdlab_widgets.run_compare import RunCompare
from vpdlab_widgets.token_lens import TokenLens

__all__ = ["CritiqueInfluence", "EMTimeline", "LabWidget", "RolloutTable", "RunCompare", "TokenLens", "write_page"]
