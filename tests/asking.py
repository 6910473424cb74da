"""What the tests of the critic behind an address share: failed rollouts, a critic, a question to it."""

from __future__ import annotations

from typing import Any

from vpdlab.feedback import Context
from vpdlab.feedback.endpoint import Budget, EndpointCritic
from vpdlab.sampling import Sampling
from vpdlab.types import Outcome, Problem, Rollout

SECRET = "sk-very-secret-123"


def critic(server: Any, render, **fields) -> EndpointCritic:
    url = server if isinstance(server, str) else server.url
    given = {"seconds": 20.0, "budget": Budget(100, 10**6), "jobs": 4, "cache": None} | fields
    return EndpointCritic(url, "judge", render, Sampling(0.7, 1.0, 32), **given)


def failures(count: int = 1) -> list[Rollout]:
    return [
        Rollout(Problem(f"p{i}", f"{i}+{i}?", "7"), i, 0, (1,), (2,), (0.0,), f"It is {i}.", True, Outcome(0.0))
        for i in range(count)
    ]


def ask(judge: EndpointCritic, count: int = 1) -> list:
    return judge(failures(count), Context((), step=1))
