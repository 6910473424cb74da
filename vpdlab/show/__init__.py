"""What people see of a run, without torch.

summary: a run in words. opening: what a record is, a run or rollouts from elsewhere. probes: what the task measured at
each evaluation. tables: tables and lines for notebooks, untrusted text made safe. strips: the tokens of an episode.
plots: figures. widget_data: records as plain dicts for the widgets. exploring: timeline, table and lens over one run.
causes: the rollouts behind a warning. slices: those that a query finds. page: an executed notebook as one offline page.
markup: safe Markdown and HTML. said: sentences of a notebook, checked against its numbers.
"""

from vpdlab.show.strips import token_strip
from vpdlab.show.tables import Shown, heading, plain, table

__all__ = ["Shown", "heading", "plain", "table", "token_strip"]
