"""Discovery at test time: one hard problem, attempts in batches, and how many it takes to the first success.

    for found in discover(RunConfig.make("words-two"), ("best-of-k", "sdpo"), problems=20, limit=256, out=folder):
        print(found)

The learning methods make an update from each batch's feedback before the next one (SDPO, arXiv 2601.20802, on learning
at test time). best-of-k never updates; conversation puts the verifier's words into the next turn instead. All start
from the same weights, at each problem again.

search: one problem, one method. results: the lines of discover.jsonl. standings: tables and curves. page: the report.
"""

from vpdlab.study.discover.page import write_page
from vpdlab.study.discover.results import Found, Results
from vpdlab.study.discover.search import BEST, CONVERSATION, METHODS, discover, drawn, settings
from vpdlab.study.discover.standings import curves, markdown, standings

__all__ = [
    "BEST", "CONVERSATION", "METHODS", "Found", "Results", "curves", "discover", "drawn", "markdown", "settings",
    "standings", "write_page",
]  # fmt: skip
