"""Train a run from its next step to its end: record, evaluate, save, and report how it ended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vpdlab import processes
from vpdlab.errors import RunFailed, UserError, ended_by, first_line, notice
from vpdlab.learn.iterate import iterate
from vpdlab.model.determinism import settle
from vpdlab.record import Recorder, plain
from vpdlab.run.checkpoint import random_states
from vpdlab.run.interrupt import Interrupt
from vpdlab.run.keeper import Keeper
from vpdlab.run.lock import locked
from vpdlab.run.observe import TokenWatch, metrics_row, rollout_records, sampled_records
from vpdlab.run.resume import settings
from vpdlab.run.tracker import tracked
from vpdlab.run.waking import wake
from vpdlab.types import Rollout

if TYPE_CHECKING:
    from vpdlab.run.run import Run


def steps(run: Run) -> Iterator[dict[str, Any]]:
    """Lines of metrics, each once it is on disk (`Run.steps`)."""
    if run.started:
        raise UserError("this run has started already: open a new one with Run.open to train again")
    run.started = True
    try:
        yield from _opened(run)
    except BaseException as error:  # also one before the first iteration, or of the record's last writes
        run.control.ended(*ended_by(error))
        raise


def _opened(run: Run) -> Iterator[dict[str, Any]]:
    """Train under the lock of the run's folder, once all processes agree on what they train."""
    settle(run.config.deterministic, run.config.device)
    with contextlib.ExitStack() as held:
        held.callback(settle, False, run.config.device)
        if run.record:
            processes.by_main(lambda: held.enter_context(locked(run.config.folder)))
        processes.agree("the settings", run.config.to_dict)
        processes.agree("the weights", run.policy.probe)
        wake(run)
        keeper = _open_record(run) if run.record else None
        with tracked(run.config.tracker, run.recorder, settings(run.config), len(run.rows)):
            yield from _with_status(run, keeper)


def _open_record(run: Run) -> Keeper:
    keeper, marks = run.keeper(), None
    processes.agree("problems or templates", lambda: keeper.inputs)
    if run.resumed is None:
        keeper.begin()
    else:
        keeper.go_on(run.resumed)
        marks = run.resumed.state["record"]

    def begin() -> None:
        run.recorder = Recorder(run.config.folder, settings(run.begun), keeper.environment, marks)
        for change in run.unwritten:
            run.recorder.change(change)

    processes.by_main(begin)
    return keeper


def _with_status(run: Run, keeper: Keeper | None) -> Iterator[dict[str, Any]]:
    """Train, and record in status.json how it ended."""
    state, reason, interrupt = "failed", "", Interrupt()
    try:
        with interrupt.armed():
            yield from _train(run, interrupt, keeper)
        state, reason = ("stopped", "interrupted") if interrupt else ("complete", "")
    except BaseException as error:
        state, reason = ended_by(error)
        raise
    finally:
        if run.recorder is not None:
            run.recorder.close(state, reason)
        run.control.ended(state, reason)


def _train(run: Run, interrupt: Interrupt, keeper: Keeper | None) -> Iterator[dict[str, Any]]:
    config = run.config
    if run.record and not run.rows and run.following.step < 0:
        run.following.draw()
        run.score_followed(0)
    due = run.resumed is not None and run.resumed.state.get("unevaluated", False)
    if config.eval_every >= 0 and (due or not (run.rows or run.evals)):  # else it was evaluated before it was resumed
        _evaluated(run, keeper)
        run.score_followed(len(run.rows))
    for step in range(len(run.rows) + 1, config.steps + 1):
        run.control.between(interrupt, keeper)
        if interrupt:
            break
        settle(config.deterministic, config.device)  # another run may have opened since the last step
        row = _recorded_step(run, step, keeper)
        last = step == config.steps or bool(interrupt)
        evaluates = config.eval_every >= 0 and (last or _due(step, config.eval_every))
        saves = keeper is not None and _due(step, config.checkpoint_every)
        if evaluates:
            _evaluated(run, keeper)
        if evaluates or saves or last or _due(step, config.follow_every):
            run.score_followed(step)
        if keeper is not None and saves:
            keeper.save(step, run.recorder)
        yield row
        _refuse_divergence(run.rows, config.max_skipped)
    _look_at_the_end(run, keeper)
    run.control.after_all(keeper)
    if keeper is not None:
        if config.checkpoint_every or interrupt:
            keeper.save(len(run.rows), run.recorder)
        with run.recorder.final() if run.recorder is not None else contextlib.nullcontext():
            run.policy.save(config.folder / "final")


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _look_at_the_end(run: Run, keeper: Keeper | None) -> None:
    """Evaluate a run that was stopped between two iterations, while it was paused."""
    ended = len(run.rows)
    if ended:
        run.score_followed(ended)
    if run.config.eval_every >= 0 and ended and not any(row["step"] == ended for row in run.evals):
        _evaluated(run, keeper)


def _evaluated(run: Run, keeper: Keeper | None) -> None:
    """Evaluate after the last iteration; a run that is resumed after a failure here begins with this evaluation."""
    with _kept(run, keeper, unevaluated=True):
        run.evaluate(len(run.rows))


def _refuse_divergence(rows: Sequence[dict[str, Any]], most: int) -> None:
    if len(rows) >= most and all(row["skipped"] for row in rows[-most:]):
        raise RunFailed(f"{most} iterations in a row had a loss or gradient that was not finite: lower lr")


def _recorded_step(run: Run, step: int, keeper: Keeper | None) -> dict[str, Any]:
    """One iteration; its line of metrics and its rollouts are handed to the recorder."""
    config, recorder = run.config, run.recorder

    def sampled(step: int, rollouts: Sequence[Rollout]) -> None:
        if recorder is not None and run.critic is not None:  # on disk before a critic is asked, which may fail
            recorder.rollouts(step, sampled_records(step, rollouts, run.render), wait=True)

    kept = config.record_tokens if run.record else 0  # no other reader
    watch = TokenWatch(run.policy.tokenizer, kept, config.record_top, config.logit_mib, sampled)
    with _kept(run, keeper):
        iteration = iterate(run, step, watch)
    row = plain(metrics_row(iteration))
    if recorder is not None:
        recorder.rollouts(step, rollout_records(iteration, watch, run.render, config))
    processes.agree("the weights", run.policy.probe)
    run.rows.append(row)
    row["warnings"] = run.diagnosis(run.rows)
    if recorder is not None:
        recorder.metrics(row)
    return row


@contextlib.contextmanager
def _kept(run: Run, keeper: Keeper | None, unevaluated: bool = False) -> Iterator[None]:
    """Within the block, a failure that comes before any weight was changed (of a judge, the sandbox, or a part of the
    user's own) saves a checkpoint, so that the run can be resumed once the cause is fixed.

    KeyboardInterrupt and SystemExit ask to end at once, and save nothing.

    Args:
        unevaluated: whether the block is the evaluation of the last iteration.
    """
    learner = run.learner
    before, random = (run.policy.updates, learner.beta, learner.shift), random_states(run.policy.device)
    try:
        yield
    except Exception:
        same = (run.policy.updates, learner.beta, learner.shift) == before
        # Other ranks may be at any point: they cannot contribute their shards.
        if keeper is not None and (run.rows or run.evals) and same and processes.count() == 1:
            _save_before_failing(run, lambda: keeper.save(len(run.rows), run.recorder, random, unevaluated))
        raise


def _save_before_failing(run: Run, save: Callable[[], None]) -> None:
    try:
        save()
        notice(f"{run.config.folder} is saved as of step {len(run.rows)}: fix the cause, then resume it")
    except Exception as error:  # noqa: BLE001 (the disk, most likely; the first error is the one to raise)
        notice(f"no checkpoint could be saved: {first_line(error)}")
