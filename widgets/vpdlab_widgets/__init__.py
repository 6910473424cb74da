"""Notebook widgets for vpdlab: plain data in, a selection out.

Every widget takes lists and dicts, gives its choice in the `selected` trait, and writes itself as one offline page
with `to_html()`. The package needs neither torch nor vpdlab, so a laptop without either can open a recorded run.
"""

from vpdlab_widgets.base import LabWidget
from vpdlab_widgets.em_timeline import EMTimeline

__all__ = ["EMTimeline", "LabWidget"]
