"""The records that travel through one iteration, and the names of the axes.

Axis glossary, used in every signature and docstring:

====  =====================================================================
B     rollouts in a batch
G     groups: the rollouts of one problem share a group
R     response tokens (padded); both views have the same R
S     context + response tokens (padded); differs between the views
N     active response tokens of a minibatch, all rollouts concatenated
K     support of a divergence: the kept tokens, plus the tail if there is one
V     vocabulary
H     width of the hidden states
====  =====================================================================

Every record is frozen. A field keeps one meaning for ever: an advantage is a new name, never a new value of
`reward`. Token ids are concatenated, never text that is tokenised again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from vpdlab.errors import whole_text

ASSISTANT = "assistant"
"""Role of the policy's own turns."""


@dataclass(frozen=True)
class Problem:
    """One problem as a task hands it out. Half a character in its texts becomes U+FFFD.

    Attributes:
        id: stable and unique within the task; the same problem has the same id in every run.
        prompt: what the student reads as the user turn.
        answer: the reference answer. Never shown to the student; a critic may see it.
        system: system turn of the student's prompt; empty for none.
        data: what the task itself needs to verify a response; plain JSON values.
        history: (role, text) of turns between the system turn and the prompt.
    """

    id: str
    prompt: str
    answer: str
    system: str = ""
    data: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    history: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name in ("id", "prompt", "answer", "system"):
            value = getattr(self, name)
            if isinstance(value, str) and not value.isascii():
                object.__setattr__(self, name, whole_text(value))


@dataclass(frozen=True)
class Outcome:
    """What the environment says of one response.

    Attributes:
        reward: score in [0, 1]; `success` is a reward of 1.
        notes: the environment's own words (the raw material of feedback), or None where it says nothing.
        answer: the answer that was read from the response, normalised (majority votes count equal answers);
            None where no answer could be read.
        right: whether the response is right, where that is not `reward` = 1: of a right answer that had its price.
        turn: the policy's turn, from 1, that the notes are about; None for the whole response.
    """

    reward: float
    notes: str | None = None
    answer: str | None = None
    right: bool | None = None
    turn: int | None = None

    @property
    def success(self) -> bool:
        """r of the paper: 1 for a verified response, 0 otherwise."""
        return self.reward >= 1.0 if self.right is None else self.right


@dataclass(frozen=True)
class Turn:
    """One turn of an episode: what the policy wrote, or what the environment replied.

    Attributes:
        role: "assistant" for the policy; "user" or "tool" for the environment.
        text: the turn as text, without the chat template's frame.
        start, end: its tokens in the response, `response_ids[start:end]`; of a reply the frame is included.
    """

    role: str
    text: str
    start: int
    end: int

    @property
    def own(self) -> bool:
        """Whether the policy wrote it."""
        return self.role == ASSISTANT


def conversation(turns: Iterable[tuple[str, str]]) -> str:
    """The (role, text) of turns as one text, each turn under its role.

    >>> conversation([("assistant", "7"), ("user", "Too low.")])
    '[assistant]\\n7\\n\\n[user]\\nToo low.'
    """
    return "\n\n".join(f"[{role}]\n{text}" for role, text in turns)


@dataclass(frozen=True)
class RolloutTokens:
    """A response as token ids, and which of them the policy wrote itself.

    Text that a tool or another turn of the conversation put into the response is read by both views, but takes no part
    in any loss: its mask is False.

    Attributes:
        ids: R token ids.
        mask: R booleans: True for the policy's own tokens.
        logps: R log-probabilities (nats) under the policy that sampled; without meaning where the mask is False.

    Raises:
        ValueError: where the three differ in length.
    """

    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    logps: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.mask) == len(self.logps):
            sizes = f"{len(self.ids)} ids, {len(self.mask)} mask values, {len(self.logps)} log-probabilities"
            raise ValueError(f"a response needs one mask value and one log-probability per token: {sizes}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def own_logps(self) -> tuple[float, ...]:
        """Log-probabilities of the policy's own tokens."""
        return tuple(logp for logp, own in zip(self.logps, self.mask, strict=True) if own)


@dataclass(frozen=True)
class Rollout:
    """One sampled response y to one problem x.

    Attributes:
        problem: the problem x.
        group: index of the problem in the batch; the rollouts of one problem share it.
        index: index of the rollout in its group.
        prompt_ids: token ids of the student's context (the chat template up to the assistant's turn).
        response_ids: token ids of the response, the end-of-turn token included where `finished`.
        logps: log-probability (nats) of each response token under the policy that sampled it.
        text: the decoded response without special tokens; of an episode the policy's last turn.
        finished: False where the response was cut at the token limit.
        outcome: what the environment said; None before verification.
        version: `Policy.version` of the weights that sampled it; None where that is not known.
        mask: which response tokens the policy wrote itself; () where it wrote all of them.
        turns: the turns of an episode, in order; () where the response is a single turn.
    """

    problem: Problem
    group: int
    index: int
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    logps: tuple[float, ...]
    text: str
    finished: bool
    outcome: Outcome | None = None
    version: int | None = None
    mask: tuple[bool, ...] = ()
    turns: tuple[Turn, ...] = ()

    @property
    def transcript(self) -> str:
        """The whole response as text: the text, or the turns of an episode, each under its role."""
        return conversation((turn.role, turn.text) for turn in self.turns) or self.text

    @property
    def own_tokens(self) -> int:
        """How many of the response's tokens the policy wrote itself."""
        return sum(self.mask) if self.mask else len(self.response_ids)

    def own_turn(self, number: int) -> tuple[int, int]:
        """The tokens [start, end) of the policy's turn `number`, from 1. Raises ValueError where there is none."""
        own = [turn for turn in self.turns if turn.own]
        if not self.turns and number == 1:
            return 0, len(self.response_ids)
        if not 1 <= number <= len(own):
            raise ValueError(f"turn {number} of problem {self.problem.id}: it has {len(own) or 1} turns of the policy")
        return own[number - 1].start, own[number - 1].end

    @property
    def tokens(self) -> RolloutTokens:
        """The response's ids, mask and log-probabilities side by side."""
        return RolloutTokens(self.response_ids, self.mask or (True,) * len(self.response_ids), self.logps)

    @property
    def verified(self) -> Outcome:
        """The outcome. Raises ValueError before verification."""
        if self.outcome is None:
            raise ValueError("this rollout was not verified yet: pass it through tasks.verify_all first")
        return self.outcome

    @property
    def success(self) -> bool:
        """Whether the rollout was verified as right. Raises ValueError before verification."""
        return self.verified.success


@dataclass(frozen=True)
class SampledText:
    """Text that the policy itself sampled, as the tokens that its gradient needs.

    Attributes:
        context_ids: token ids of the prompt.
        tokens: the sampled tokens.
    """

    context_ids: tuple[int, ...]
    tokens: RolloutTokens


@dataclass(frozen=True)
class Feedback:
    """C: feedback on one rollout, or the reason why there is none.

    Attributes:
        critique: words on the rollout (the environment's notes, a critic's sentences), or None.
        demonstration: a correct response of a sibling in the same group, or None.
        source: which sources spoke, joined by "+" ("verifier", "sibling", "verifier+sibling"); "" for none.
        reason: why there is no signal; "" where there is one.
        leaked: whether a critic's words give the answer away; None for words that are no critic's.
        noise: the kind of noise that changed these words; "" for none.
        turn: the policy's turn, from 1, that the feedback is about: it is distilled into the tokens of that turn alone;
            None for the whole response.
        sampled: the critique as the policy sampled it, where the policy is its own critic; else None.
    """

    critique: str | None = None
    demonstration: str | None = None
    source: str = ""
    reason: str = ""
    leaked: bool | None = None
    noise: str = ""
    turn: int | None = None
    sampled: SampledText | None = field(default=None, compare=False, repr=False)

    @property
    def signal(self) -> bool:
        """m of the paper: whether the rollout takes part in the E-step and the M-step."""
        return self.critique is not None or self.demonstration is not None


@dataclass(frozen=True)
class View:
    """One rollout seen through one context: the student's plain prompt or the teacher's feedback prompt.

    Attributes:
        context_ids: token ids of the context.
        response_ids: token ids of the response, equal in both views of a rollout.
        truncated: how many tokens of the context's inserted text were cut to fit; 0 for none.
        group: views with the same number are likely to begin alike, and what they have in common is read once; -1: a
            view that stands alone. It changes speed, not the result.
        mask: which response tokens the policy wrote itself; () where it wrote all of them.
    """

    context_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    truncated: int = 0
    group: int = -1
    mask: tuple[bool, ...] = ()

    def __len__(self) -> int:
        return len(self.context_ids) + len(self.response_ids)
