"""Feedback: C for each rollout of a batch, and the reason where there is none.

A source is a function ``(rollouts, context) -> list[Feedback]`` over the whole batch; `sources` has them and
`give_feedback` combines them. A critic is a source like any other: `critics` has the policy as its own critic,
`endpoint` one behind a server, `reply` what may be used of a server's reply. `noise` corrupts feedback for studies.
"""

from vpdlab.feedback.sources import (
    SOURCES,
    Context,
    Source,
    give_feedback,
    reference,
    sibling,
    verifier,
    without_thoughts,
)

__all__ = [
    "SOURCES", "Context", "Source", "give_feedback", "reference", "sibling", "verifier", "without_thoughts",
]  # fmt: skip
