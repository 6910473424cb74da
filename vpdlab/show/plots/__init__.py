"""Plotly figures from the plain rows of a run. Backgrounds are transparent, so a figure takes the theme of its page.

style: colours, labels and layout that every figure shares. runs: metrics over iterations. comparing: several runs.
rollouts: one batch or one response. probes: what the task measured at each evaluation, belief above all. methods: what
each method asks of the same tokens. discovery: attempts to a first success. paper: lines at the width of a paper's
column, with matplotlib, in vector form.
"""

from vpdlab_widgets.palette import tinted

from vpdlab.show.plots.comparing import compare_figure
from vpdlab.show.plots.discovery import discovery_figure
from vpdlab.show.plots.methods import likeness_figure, move_figure, push_figure
from vpdlab.show.plots.paper import PaperFigure, paper_figure
from vpdlab.show.plots.probes import belief_figure
from vpdlab.show.plots.rollouts import implicit_reward_figure, token_figure, top_figure
from vpdlab.show.plots.runs import lines_figure, training_figure
from vpdlab.show.plots.style import GREY, MODE_BAR, RIGHT, STUDENT, TEACHER, WRONG, label, labels, number, numbers

__all__ = [
    "training_figure", "compare_figure", "discovery_figure", "lines_figure", "belief_figure", "implicit_reward_figure",
    "token_figure", "top_figure", "push_figure", "likeness_figure", "paper_figure", "PaperFigure", "move_figure",
    "label", "labels", "number", "numbers", "STUDENT", "TEACHER", "RIGHT", "WRONG", "GREY", "MODE_BAR", "tinted",
]  # fmt: skip
