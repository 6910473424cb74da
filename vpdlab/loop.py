"""The loop: `iterate` is one iteration on a page, `Run` holds what it acts on.

run = Run.open(RunConfig.make("tour-common"))
for row in run.steps():          # writes runs/..., row is a line of metrics.jsonl
    print(row["step"], row["success_rate"])
"""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from vpdlab import observe, processes
from vpdlab.checkpoint import Saved
from vpdlab.config import RunConfig, read_values
from vpdlab.critics import Criticism
from vpdlab.critics.make import make_criticism
from vpdlab.diagnose import Diagnosis
from vpdlab.environment import describe
from vpdlab.errors import RunFailed, UserError, notice
from vpdlab.evaluate import average_at_k, interval, summarise
from vpdlab.feedback import give_feedback
from vpdlab.identity import handed_in_name
from vpdlab.interrupt import Interrupt
from vpdlab.learner import Batch, EStep, Learner, MStep
from vpdlab.m_step import Method, m_step
from vpdlab.methods import check, get_method
from vpdlab.noise import shares, with_noise
from vpdlab.policy import Policy, pick_device
from vpdlab.prompts import Checked, Renderer, Templates, views
from vpdlab.record import Recorder, plain, prepare
from vpdlab.resume import Keeper, find, locked, recorded, settings
from vpdlab.samplers import Sampler, Sampling, sample
from vpdlab.samplers.make import check_sampler, make_sampler
from vpdlab.tasks import HANDED_IN, Task, make_task, verify_all
from vpdlab.teacher import Copy, Teacher
from vpdlab.tracker import check_tracker, tracked
from vpdlab.types import Feedback, Outcome, Problem, Rollout


def iterate(run: Run, step: int) -> dict[str, Any]:
    """One iteration: rollout, feedback, E-step where it is due, M-step. Returns its line of metrics."""
    config, learner, clock = run.config, run.learner, observe.Clock()
    learner.step, lr, beta = step, learner.policy.warm_up(step), learner.beta
    learner.mismatch = None

    with clock("rollout"):
        rollouts = run.verify(run.rollouts(step))

    with clock("feedback"):
        notes = run.feedback(rollouts, step)  # C, or the reason why there is none
        batch = run.pack(rollouts, notes)  # two contexts, one response axis

    e = EStep()
    if run.method.e_step is not None and config.e_every and step % config.e_every == 0:
        with clock("e"):
            e = run.method.e_step(learner, batch)  # train the teacher on outcomes, inside the trust region

    kept = config.record_tokens if run.recording else 0  # nobody would read them
    watch = observe.TokenWatch(learner.policy.tokenizer, kept, config.record_top, config.logit_mib)
    with clock("m"):
        m = m_step(learner, batch, run.method, watch)  # distil it into the student, token by token
        learner.after_iteration(e, m)
        critic_loss = run.reinforce_critic(batch, m) if config.critic_learns else None
        watch.share()

    row = observe.metrics_row(step, beta, rollouts, notes, batch, e, m, lr, clock, learner.mismatch, critic_loss)
    if run.recorder is not None:
        records = observe.rollout_records(step, rollouts, notes, batch, m, watch, run.render, beta)
        run.recorder.rollouts(step, records)
    return row


@dataclass
class Run:
    """Everything that one run acts on. Open one with `Run.open`.

    Attributes:
        config, task, method, learner (policy and teacher), render, sampler, criticism (where asked for): the parts.
        record: whether the run leaves a folder behind.
        recorder: writes that folder, from the first step on; of several processes, the main one has it.
        resumed: the checkpoint that the run goes on from; None for one from its start.
        rows, evals: the lines of metrics and evaluations so far.
        checked: what a pass over all student prompts has shown when the run was opened.
        diagnosis: names what goes wrong, iteration by iteration.
    """

    config: RunConfig
    task: Task
    method: Method
    learner: Learner
    render: Renderer
    sampler: Sampler
    criticism: Criticism | None = None
    record: bool = True
    recorder: Recorder | None = None
    resumed: Saved | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    checked: Checked | None = None
    started: bool = False
    diagnosis: Diagnosis = field(default_factory=Diagnosis)

    @classmethod
    def open(cls, config: RunConfig, record: bool = True, task: Task | None = None) -> Run:
        """Load task and model; the run's folder is written from the first step on (unless `record` is False).

        Args:
            task: a task of your own, in place of the one that the config names; the record says so, and no command
                will score the run against another.

        Raises:
            UserError: for anything in the config that does not fit what it names.
        """
        if task is not None:  # the folder keeps the name that the caller's config gives it
            config = replace(config, task=handed_in_name(task), out=str(config.folder))
        pick_device(config.device)  # a bad name is told before a model is loaded; several processes meet here
        resumed = processes.by_main(lambda: find(config)) if record and config.resumes else None
        if record and resumed is None:
            processes.by_main(lambda: prepare(config.folder))  # before the minutes that loading a model may take
        check_tracker(config.tracker)
        check_sampler(config)
        if config.threads:
            torch.set_num_threads(config.threads)
        method = get_method(config.method)
        check(method, config)
        task = task or make_task(config.task, **config.task_options())
        templates = Templates.read(config.templates) if config.templates else Templates()
        policy = Policy.load(config)
        if policy.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(policy.device)
        if record:
            policy.rehearse(config.folder)  # what would fail at the end fails now
        context = config.max_context or policy.longest - config.max_new_tokens
        render = Renderer(policy.tokenizer, templates, context, read_values(config.chat_args))
        learner = Learner(
            config, policy,
            teacher=Teacher(policy, "shared" if method.views == "student" else config.teacher),
            anchor=Copy(policy) if config.anchor == "fixed" and method.e_step else None,
        )  # fmt: skip
        sampler = make_sampler(config, policy, render.max_context)
        learner.exact = sampler.exact
        criticism = make_criticism(config, policy, render, sampler) if "critique" in config.feedback else None
        run = cls(config, task, method, learner, render, sampler, criticism, record, resumed=resumed)
        if config.prompts > len(task.load("train")):
            raise UserError(
                f"prompts is {config.prompts}, but the task has {len(task.load('train'))} training problems"
            )
        if config.eval_every >= 0 and not task.load("test"):
            raise UserError(f"task {config.task} has no held-out problems: set eval_every to -1")
        run.check_prompts()
        if resumed is not None:
            run.rows, run.evals = processes.by_main(lambda: recorded(config.folder, resumed))
            run.keeper().load(resumed)
        return run

    def check_prompts(self) -> None:
        """Render every prompt now, not after an hour, and say what of them is lost on their way to the model.

        Raises:
            UserError: for a prompt that is too long, in either view, or cannot be rendered.
        """
        problems = [*self.task.load("train"), *self.held_out]
        self.checked = checked = self.render.check(problems)
        for line in checked.lines if processes.main() else ():
            notice(line)
        order = sorted(range(len(problems)), key=lambda place: checked.lengths[place])
        for place in order[-8:]:  # the teacher's frame adds about the same to each
            self.render.teacher(problems[place], Feedback())
            if self.criticism is not None:
                self.render.critic(problems[place], "")

    @property
    def held_out(self) -> list[Problem]:
        """The held-out problems of every evaluation: all of them, or as many as `eval_problems` says, drawn by
        `eval_seed` and in the order of the file. They are the same in every run on the same data."""
        found, count = self.task.load("test"), self.config.eval_problems
        if len(found) <= count:
            return list(found)
        chosen = np.random.default_rng([self.config.eval_seed, len(found)]).choice(len(found), count, replace=False)
        return [found[place] for place in sorted(chosen.tolist())]

    # -- the pieces of an iteration --------------------------------------------------------------------------
    def problems(self, step: int) -> list[Problem]:
        """The problems of iteration `step` (from 1): all of them in a shuffled order, then again in another."""
        train, count = self.task.load("train"), self.config.prompts
        places = range((step - 1) * count, step * count)
        return [
            train[shuffled(self.config.seed, place // len(train), len(train))[place % len(train)]] for place in places
        ]

    def rollouts(self, step: int) -> list[Rollout]:
        """Sampled responses to the problems of an iteration, not verified yet."""
        config = self.config
        sampling = Sampling(config.temperature, 1.0, config.max_new_tokens)
        version = self.learner.policy.version
        return self._sample(self.problems(step), config.group, sampling, step=step, version=version)

    def verify(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """The rollouts with their outcomes; of several processes, each judges its share."""

        def judge(part: Sequence[Rollout]) -> list[Outcome]:  # outcomes travel: a problem's data need not be picklable
            return [rollout.verified for rollout in verify_all(self.task, part)]

        outcomes = processes.spread(judge, rollouts)
        return [replace(rollout, outcome=outcome) for rollout, outcome in zip(rollouts, outcomes, strict=True)]

    @property
    def recording(self) -> bool:
        """Whether what happens now is recorded, by this process or by the main one."""
        return self.record and self.started

    def feedback(self, rollouts: Sequence[Rollout], step: int, purpose: str = "train") -> list[Feedback]:
        """C of each rollout, from the config's sources; noise on it, where the config asks for some.

        Where a critic is asked, the rollouts of a training step are on disk before.
        """
        config, more = self.config, {}
        if self.criticism is not None:
            if self.recorder is not None and purpose == "train":
                self.recorder.rollouts(step, observe.sampled_records(step, rollouts, self.render), wait=True)
            self.criticism.ask(self._silent(rollouts), seed=config.seed, purpose=purpose, step=step)
            more = {"critique": self.criticism.source}
        notes = give_feedback(rollouts, config.feedback, config.feedback_mode, more)
        seed = (config.seed, zlib.crc32(f"noise {purpose}".encode()), step)
        return with_noise(rollouts, notes, shares(config), seed) if purpose == "train" else notes

    def _silent(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """The rollouts that a critic is asked about: in mode "first", those of which no earlier source speaks."""
        config = self.config
        if config.feedback_mode == "all":
            return list(rollouts)
        earlier = config.feedback[: config.feedback.index("critique")]
        said = give_feedback(rollouts, earlier)
        return [rollout for rollout, note in zip(rollouts, said, strict=True) if not note.signal]

    def reinforce_critic(self, batch: Batch, m: MStep) -> float | None:
        """Reinforce the critiques that lowered the teacher's belief in the batch's failures (an experiment)."""
        if self.criticism is None or m.teacher_logp is None or m.student_logp is None:
            return None
        spoken = torch.tensor([note.source == "critique" and not note.noise for note in batch.notes])
        rows = (spoken.to(batch.success.device) & ~batch.success).nonzero()[:, 0].tolist()
        drop = (m.student_logp - m.teacher_logp)[rows] / batch.lengths[rows]
        return self.criticism.learn(self.learner, [batch.rollouts[row] for row in rows], drop)

    def pack(self, rollouts: Sequence[Rollout], notes: Sequence[Feedback]) -> Batch:
        """The rollouts that the method learns from, in the views that it looks at."""
        if self.method.views == "both":
            kept = [row for row, note in enumerate(notes) if note.signal]
            rollouts, notes = [rollouts[row] for row in kept], [notes[row] for row in kept]
        student, teacher = views(rollouts, notes, self.render)
        device = self.learner.policy.device
        return Batch(
            rollouts, notes, student, teacher if self.method.views != "student" else [],
            success=torch.tensor([rollout.success for rollout in rollouts], dtype=torch.bool, device=device),
            signal=torch.tensor([note.signal for note in notes], dtype=torch.bool, device=device),
        )  # fmt: skip

    # -- the whole run ---------------------------------------------------------------------------------------
    def steps(self) -> Iterator[dict[str, Any]]:
        """Train: yields each iteration's line of metrics once it is on disk; ends with the final evaluation.

        However it ends, status.json says so: complete, stopped (interrupt, or the caller left the loop), failed.
        """
        if self.started:
            raise UserError("this run has begun already: open a new one with Run.open to train again")
        self.started = True
        with contextlib.ExitStack() as held:
            if self.record:
                processes.by_main(lambda: held.enter_context(locked(self.config.folder)))
            processes.agree("the settings", self.config.to_dict)
            processes.agree("the weights", self.learner.policy.probe)
            keeper = self._open_record() if self.record else None
            with tracked(self.config.tracker, self.recorder, settings(self.config), len(self.rows)):
                yield from self._recorded(keeper)

    def keeper(self) -> Keeper:
        """What saves this run's checkpoints."""
        learner = self.learner
        handed_in = self.config.task.startswith(HANDED_IN)
        environment = describe(self.config, self.task, learner.policy, handed_in)
        prompts = self.checked.digest if self.checked is not None else ""
        return Keeper(self.config, learner, self.criticism, self.task, self.render, environment, prompts)

    def _open_record(self) -> Keeper:
        keeper, marks = self.keeper(), None
        processes.agree("problems or templates", lambda: keeper.inputs)
        if self.resumed is None:
            keeper.begin()
        else:
            keeper.go_on(self.resumed)
            marks = self.resumed.state["record"]

        def begin() -> None:
            self.recorder = Recorder(self.config.folder, settings(self.config), keeper.environment, marks)

        processes.by_main(begin)
        return keeper

    def _recorded(self, keeper: Keeper | None) -> Iterator[dict[str, Any]]:
        state, reason = "failed", ""
        interrupt = Interrupt()
        try:
            with interrupt.armed():
                yield from self._train(interrupt, keeper)
            state, reason = ("stopped", "interrupted") if interrupt else ("complete", "")
        except (GeneratorExit, KeyboardInterrupt):
            state, reason = "stopped", "interrupted"
            raise
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            if self.recorder is not None:
                self.recorder.close(state, reason)

    def _train(self, interrupt: Interrupt, keeper: Keeper | None) -> Iterator[dict[str, Any]]:
        config, every = self.config, self.config.checkpoint_every
        if config.eval_every >= 0 and not self.rows and not self.evals:  # else it goes on from there
            self.evaluate(0)
        for step in range(len(self.rows) + 1, config.steps + 1):
            if interrupt:
                break
            row = plain(self._iterated(step, keeper))
            processes.agree("the weights", self.learner.policy.probe)
            self.rows.append(row)
            row["warnings"] = self.diagnosis(self.rows)
            if self.recorder is not None:
                self.recorder.metrics(row)
            last = step == config.steps or bool(interrupt)
            if config.eval_every >= 0 and (last or (config.eval_every and step % config.eval_every == 0)):
                self.evaluate(step)
            if keeper is not None and every and step % every == 0:
                keeper.save(step, self.recorder)
            yield row
            if all(row["skipped"] for row in self.rows[-config.max_skipped :]) and step >= config.max_skipped:
                raise RunFailed(
                    f"{config.max_skipped} iterations in a row had a loss or gradient that was not finite: lower lr"
                )
        if keeper is not None:
            if every or interrupt:
                keeper.save(len(self.rows), self.recorder)
            with self.recorder.final() if self.recorder is not None else contextlib.nullcontext():
                self.learner.policy.save(config.folder / "final")

    def _iterated(self, step: int, keeper: Keeper | None) -> dict[str, Any]:
        """`iterate`; where it fails before it has changed any weight (a judge or the sandbox, say), what was learned
        until then is saved, so that the run can be resumed once the cause is mended."""
        policy = self.learner.policy
        before = policy.updates
        try:
            return iterate(self, step)
        except (UserError, RunFailed):
            # With several processes the others may be anywhere: they cannot be asked for their shares.
            if keeper is not None and self.rows and policy.updates == before and processes.count() == 1:
                try:
                    keeper.save(len(self.rows), self.recorder)
                    notice(f"{self.config.folder} is saved as of step {len(self.rows)}: mend the cause, then resume it")
                except RunFailed as error:  # the disk, most likely: the first error is the one to raise
                    notice(str(error))
            raise

    def evaluate(self, step: int) -> dict[str, Any]:
        """Sample held-out problems, and the teacher on those that failed; the line of eval.jsonl."""
        config, started = self.config, time.perf_counter()
        problems = self.held_out
        if not problems:
            raise UserError(f"task {config.task} has no held-out problems to evaluate on")
        sampling = Sampling(config.eval_temperature, config.eval_top_p, config.max_new_tokens)
        rollouts = self.verify(self._sample(problems, config.eval_samples, sampling, purpose="eval"))
        groups: dict[int, list[Outcome]] = {}  # by place, not by id: two problems are two, whatever they are called
        for rollout in rollouts:
            groups.setdefault(rollout.group, []).append(rollout.verified)
        row = {"step": step} | summarise(groups) | {"length": float(np.mean([len(r.response_ids) for r in rollouts]))}
        row["by_problem"] = [average_at_k(outcomes) for outcomes in groups.values()]  # the same problems in every run
        row |= {"problem_ids": [problem.id for problem in problems], "held_out": len(self.task.load("test"))}
        row |= self._teacher_accuracy(rollouts, sampling, step) if config.eval_teacher else {}
        row["seconds"] = time.perf_counter() - started
        self.evals.append(row)
        if self.recorder is not None:
            self.recorder.evaluation(row)
        return row

    def _teacher_accuracy(self, rollouts: Sequence[Rollout], sampling: Sampling, step: int) -> dict[str, Any]:
        """One sample of the M-step's teacher for the first failure of each held-out problem that has feedback."""
        notes = self.feedback(rollouts, step, "eval")
        failed: dict[int, tuple[Rollout, Feedback]] = {}
        for rollout, note in zip(rollouts, notes, strict=True):
            if not rollout.success and note.signal:
                failed.setdefault(rollout.group, (rollout, note))
        if not failed:
            return {"teacher_accuracy": None, "teacher_problems": 0}
        problems = [rollout.problem for rollout, _ in failed.values()]
        contexts = [self.render.teacher(rollout.problem, note)[0] for rollout, note in failed.values()]
        with self.learner.teacher.playing():
            answers = self._sample(problems, 1, sampling, purpose="eval teacher", contexts=contexts)
        values = [float(rollout.success) for rollout in self.verify(answers)]
        low, high = interval(values)
        return {
            "teacher_accuracy": float(np.mean(values)),
            "teacher_accuracy_low": low,
            "teacher_accuracy_high": high,
            "teacher_problems": len(values),
        }

    def _sample(self, problems: Sequence[Problem], n: int, sampling: Sampling, **how: Any) -> list[Rollout]:
        tokenizer = self.learner.policy.tokenizer
        return sample(self.sampler, self.render, tokenizer, problems, n, sampling, seed=self.config.seed, **how)


@lru_cache(maxsize=8)
def shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of `count` problems in one epoch: a function of the seed, so that any step can be asked for."""
    return np.random.default_rng([seed, epoch]).permutation(count)
