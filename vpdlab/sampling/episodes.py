"""Episodes: conversations of a policy with an environment, sampled in batches.

All episodes at the same turn decode together, and ended ones leave; where the sampler keeps what it has read for the
next turn (`sampling.conversation`), as many are played at a time as it keeps. Token ids are concatenated, never
tokenised again; those of the environment have the mask False. The first turn of an episode has the random stream that a
single response has (`sampling.stream`), so an environment of one turn samples the same tokens as none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from vpdlab.prompts import Renderer
from vpdlab.sampling import Completion, Jobs, Sampler, Sampling, conversation
from vpdlab.tasks.common.episodes import Episode, Reply
from vpdlab.tasks.environments import Environment, answers, ended
from vpdlab.types import ASSISTANT, Outcome, Problem, Rollout, Turn


@dataclass(frozen=True)
class Limits:
    """How long an episode may be.

    Attributes:
        turns: most turns of the policy.
        turn_tokens: longest of them, in tokens; 0: as long as the whole response may be (`Sampling.max_new_tokens`,
            the environment's replies included).
    """

    turns: int = 1
    turn_tokens: int = 0


@dataclass
class _Playing:
    """An episode while it is sampled.

    Attributes:
        prompt: token ids of its context.
        stream: random stream of its first turn.
        ids, logps, mask: of the response so far, as in `RolloutTokens`.
        outcome: None until it has ended.
    """

    episode: Episode
    prompt: tuple[int, ...]
    stream: tuple[int, ...]
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    outcome: Outcome | None = None

    @property
    def next_stream(self) -> tuple[int, ...]:
        played = self.episode.attempts
        return (*self.stream, played) if played else self.stream

    def add(self, role: str, text: str, done: Completion) -> None:
        """Append a turn."""
        start = len(self.ids)
        self.ids += done.ids
        self.logps += done.logps
        self.mask += done.mask or [role == ASSISTANT] * len(done.ids)
        self.episode.turns.append(Turn(role, text, start, len(self.ids)))


@dataclass(frozen=True)
class Played:
    """An episode that has ended, in plain values; see `Rollout`."""

    tokens: Completion
    turns: tuple[Turn, ...]
    outcome: Outcome


@dataclass(frozen=True)
class Player:
    """Plays episodes.

    Attributes:
        sampler, render, environment: the policy's side, the chat template, and the other side.
    """

    sampler: Sampler
    render: Renderer
    environment: Environment
    limits: Limits

    def play(
        self, problems: Sequence[Problem], n: int, sampling: Sampling, *, seed: int, purpose: str = "train",
        step: int = 0, contexts: Sequence[Sequence[int]] | None = None, version: int | None = None,
    ) -> list[Rollout]:  # fmt: skip
        """n episodes of each problem, group by group, with their outcomes.

        Args:
            sampling: `max_new_tokens` bounds the whole response, replies included.
            seed, purpose, step, contexts, version: as in `sampling.sample`.

        Raises:
            EnvironmentFailed: where the environment fails, rather than the policy.
        """
        jobs = Jobs(self.render, problems, n, (seed, purpose, step), contexts)
        found = jobs.shared(self.sampler, lambda part: self._played(part, jobs, sampling))
        return [
            jobs.rollout(
                pair, one.tokens, one.turns[-1].text, version, outcome=one.outcome,
                turns=one.turns if len(one.turns) > 1 else (),
            )
            for pair, one in zip(jobs.pairs, found, strict=True)
        ]  # fmt: skip

    def _played(self, part: Sequence[tuple[int, int]], jobs: Jobs, sampling: Sampling) -> list[Played]:
        playing = [
            _Playing(Episode(jobs.problems[group], index), jobs.prompts[group], jobs.stream(group, index))
            for group, index in part
        ]
        with conversation(self.sampler) as most:
            size = most or max(1, len(playing))
            for start in range(0, len(playing), size):
                self._play(playing[start : start + size], sampling)
        return [_ended(one) for one in playing]

    def _play(self, playing: Sequence[_Playing], sampling: Sampling) -> None:
        """All turns of some episodes."""
        for turn in range(1, self.limits.turns + 1):
            live = [one for one in playing if one.outcome is None]
            if not live:
                break
            self._write(live, sampling)
            for one, answer in zip(live, answers(self.environment, [one.episode for one in live]), strict=True):
                one.outcome = answer if isinstance(answer, Outcome) else None
                if isinstance(answer, Reply):
                    one.outcome = self._reply(one, answer, sampling, last=turn == self.limits.turns)

    def _write(self, live: Sequence[_Playing], sampling: Sampling) -> None:
        """One turn of the policy in each episode."""
        rooms = [self._room(one, sampling) for one in live]
        done = self.sampler.generate(
            [(*one.prompt, *one.ids) for one in live],
            [one.next_stream for one in live],
            replace(sampling, max_new_tokens=max(rooms)),
        )
        for one, completion, room in zip(live, done, rooms, strict=True):
            completion = _cut(completion, room)
            text = self.render.tokenizer.decode(completion.ids, skip_special_tokens=True).strip()
            one.episode.finished = completion.finished
            one.add(ASSISTANT, text, completion)

    def _room(self, one: _Playing, sampling: Sampling) -> int:
        """Tokens that the next turn may have."""
        left = sampling.max_new_tokens - len(one.ids)
        return min(left, self.limits.turn_tokens or left)

    def _reply(self, one: _Playing, reply: Reply, sampling: Sampling, last: bool) -> Outcome | None:
        """Append a reply; the outcome, where a limit ends the episode before it."""
        if last:
            return ended(self.environment, one.episode, f"The episode ended at its limit of {self.limits.turns} turns.")
        ids = self.render.turns.after(one.ids, reply.role, reply.text)
        if len(one.ids) + len(ids) >= sampling.max_new_tokens:
            why = f"The episode ended at its limit of {sampling.max_new_tokens} tokens."
            return ended(self.environment, one.episode, why)
        one.add(reply.role, reply.text, Completion(ids, (0.0,) * len(ids), True))
        return None


def _cut(done: Completion, room: int) -> Completion:
    """A completion of at most `room` tokens."""
    if len(done.ids) <= room:
        return done
    return Completion(done.ids[:room], done.logps[:room], False, done.mask[:room])


def _ended(one: _Playing) -> Played:
    assert one.outcome is not None  # the last turn has one
    mask = () if all(one.mask) else tuple(one.mask)
    tokens = Completion(tuple(one.ids), tuple(one.logps), one.episode.finished, mask)
    return Played(tokens, tuple(one.episode.turns), one.outcome)
