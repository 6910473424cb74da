"""One SDPO step and one VPD step of vpdlab against a step of TRL's SDPOTrainer: same model, same work, same machine.

    python benchmarks/step.py                                   # smollm2-135m and the apprentice, on the CPU
    python benchmarks/step.py --models apprentice --quick
    python benchmarks/step.py --device cuda --shape qwen3-1.7b --precisions bfloat16 --prompts 16 --group 8

All three take turns, step after step, in one process: the steps of vpdlab are taken in TRL's `on_step_end`. Equal are
the weights, the problems, the feedback and the words around it, the number of rollouts, the support (top 20 and tail),
the divergence (reverse KL, a mean over responses), AdamW and its settings, one update a step, a live teacher and no
gradient checkpointing. Responses are of fixed length (no token ends one) or end by themselves (natural). A step is
split into its rollout (generation) and its update (all else). "of TRL" is the median over rounds of the ratio, by the
clock and by the processor's own seconds, which busy neighbours disturb less.

Tokens are those of one step, without padding: the student's prompt and response, the teacher's, and the responses. Use
is the update's share of the machine's limit, which is a large matrix product of the same type measured at the start:
FLOPs are 6 N a token that takes a gradient and 2 N a token that does not, N without the embeddings; the head counts at
response tokens alone, attention not at all. VPD's E-step counts as one pass with gradient.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import math
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common

TOP_K = 20
SETTINGS: dict[str, Any] = {"lr": 1e-5, "weight_decay": 0.01, "grad_clip": 1.0, "temperature": 1.0}
# Problems, rollouts a problem and longest response, where the command line does not say: those of the apprentice's
# tours, and what two cores can bear of a real model.
APPRENTICE = {"prompts": 16, "group": 8, "tokens": 12}
OTHERS = {"prompts": 4, "group": 4, "tokens": 32}
NATURAL = {"tokens": 48}


@dataclass
class Work:
    """Tokens of one step, without padding."""

    student: int
    teacher: int
    response: int

    def flops(self, body: int, head: int, e_step: bool) -> float:
        trained = self.student + (self.teacher if e_step else 0)
        responses = self.response * (14 if e_step else 8)  # student 6, teacher 2; the E-step 6 more
        return float(body) * (6 * trained + 2 * self.teacher) + float(head) * responses


@dataclass
class Times:
    """What each counted step of one contender took."""

    rollout: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)

    def add(self, rollout: float, whole: common.Seconds, work: Work) -> None:
        self.rollout.append(rollout)
        self.update.append(whole.clock - rollout)
        self.processor.append(whole.processor)
        self.work.append(work)

    @property
    def whole(self) -> list[float]:
        return [a + b for a, b in zip(self.rollout, self.update, strict=True)]


class Ours:
    """A run of vpdlab that takes SDPO's step or VPD's, whichever it is asked for."""

    def __init__(self, given: argparse.Namespace, model: str, precision: str, lengths: str, task: common.Drill) -> None:
        from vpdlab.learn.methods import get_method

        self.run = common.open_run(
            task, method="vpd", model=model, precision=precision, device=given.device, threads=given.threads,
            prompts=given.prompts, group=given.group, max_new_tokens=given.tokens, feedback=("verifier",), e_every=1,
            alpha=1.0, support="topk", top_k=TOP_K, tail="bucket", aggregate="sequence", **SETTINGS,
        )  # fmt: skip
        if lengths == "fixed":
            common.never_ends(self.run)
        self.methods = {name: get_method(name) for name in ("sdpo", "vpd")}
        self.work = Work(0, 0, 0)
        pack = self.run.pack

        def counted(*args: Any) -> Any:
            batch = pack(*args)
            self.work = Work(sum(map(len, batch.student)), sum(map(len, batch.teacher)), batch.response_tokens)
            return batch

        self.run.pack = counted  # type: ignore[method-assign]

    def step(self, name: str, number: int, device: str) -> tuple[float, common.Seconds, Work]:
        from vpdlab.run import iterate

        self.run.method = self.methods[name]
        rows: list[dict[str, Any]] = []
        whole = common.timed(lambda: rows.append(iterate(self.run, number)), device)
        row = rows[0]
        checked(name, row["m_loss"])
        if name == "vpd":
            checked("E-step", row["e_loss"])
        return row["seconds_rollout"], whole, self.work


def checked(what: str, loss: float | None) -> None:
    if loss is None or not math.isfinite(loss):
        raise SystemExit(f"{what}: the loss is {loss}: nothing was learned, so nothing was measured")


def trl_trainer(given: argparse.Namespace, model: str, precision: str, lengths: str, ours: Ours, scratch: str) -> Any:
    """TRL's trainer for the problems that `ours` meets, in the same order."""
    import torch
    import transformers
    from datasets import Dataset
    from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

    problems = [problem for step in range(1, given.rounds + 2) for problem in ours.run.problems(step)]
    data = Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": p.prompt}], "problem": place, "privileged_context": ""}
            for place, p in enumerate(problems)
        ]
    )
    rows = given.prompts * given.group
    words = ours.run.render.templates
    config = SDPOConfig(
        output_dir=scratch, max_steps=given.rounds + 1, per_device_train_batch_size=rows, num_generations=given.group,
        max_prompt_length=None, max_completion_length=given.tokens, shuffle_dataset=False, distillation_alpha=1.0,
        distillation_mode="topk_logits", distillation_topk=TOP_K, distillation_add_tail=True, distillation_is_clip=None,
        teacher_model_kind="live", use_successful_as_teacher=False, include_environment_feedback=True,
        reprompt_template=words.teacher.replace("{problem}", "{prompt}"),
        feedback_template=words.feedback.replace("{text}", "{feedback_raw}"),
        learning_rate=SETTINGS["lr"], weight_decay=SETTINGS["weight_decay"], max_grad_norm=SETTINGS["grad_clip"],
        temperature=SETTINGS["temperature"], lr_scheduler_type="constant", gradient_checkpointing=False,
        bf16=precision == "bfloat16-mixed", use_cpu=given.device == "cpu", dataloader_pin_memory=False,
        save_strategy="no", report_to="none", logging_steps=1, disable_tqdm=True, diagnostics_warning_interval=0,
    )  # fmt: skip
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    trainer = SDPOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype),
        reward_funcs=lambda completions, **_: [float(i % given.group % 2) for i in range(len(completions))],
        args=config,
        train_dataset=data,
        processing_class=transformers.AutoTokenizer.from_pretrained(model, padding_side="left"),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    if lengths == "fixed":  # no token ends a response there either: cheaper than forbidding the end token
        trainer.eos_token_ids = [-1]
        trainer.generation_config.eos_token_id = -1
    prepare = trainer._prepare_training_batch
    note = ours.run.task.note  # type: ignore[attr-defined]

    def told(rows: list[dict[str, Any]]) -> Any:
        """A data set has one feedback a problem; here each rollout is given its own, as vpdlab's are."""
        notes = [note(problems[row["problem"]], place % given.group) for place, row in enumerate(rows)]
        return prepare([{**row, "privileged_context": words} for row, words in zip(rows, notes, strict=True)])

    trainer._prepare_training_batch = told
    return trainer


def with_trl(given: argparse.Namespace, trainer: Any, ours: Ours) -> dict[str, Times]:
    """TRL trains; after each of its steps vpdlab takes one of SDPO and one of VPD."""
    import transformers

    times = {"TRL": Times(), "sdpo": Times(), "vpd": Times()}
    generated, batches = [0.0], []
    sample, prepare = trainer.sample_rollouts, trainer._prepare_training_batch

    def sample_rollouts(inputs: Any) -> Any:
        batch = []
        generated[0] = common.timed(lambda: batch.append(sample(inputs)), given.device).clock
        return batch[0]

    def prepared(inputs: Any) -> Any:
        batches.append(prepare(inputs))
        return batches[-1]

    trainer.sample_rollouts, trainer._prepare_training_batch = sample_rollouts, prepared

    class Turns(transformers.TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            common.synchronise(given.device)
            self.began = common.Seconds(time.perf_counter(), time.process_time())

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            common.synchronise(given.device)
            whole = common.Seconds(time.perf_counter() - self.began.clock, time.process_time() - self.began.processor)
            batch = batches.pop()
            response = int(batch["completion_mask"].sum())
            work = Work(
                int(batch["prompt_mask"].sum()) + response, int(batch["teacher_attention_mask"].sum()), response
            )
            del batch
            if state.global_step > 1:
                times["TRL"].add(generated[0], whole, work)
            for name in ("sdpo", "vpd"):
                taken = ours.step(name, state.global_step, given.device)
                if state.global_step > 1:
                    times[name].add(*taken)

    trainer.add_callback(Turns())
    trainer.train()
    for row in trainer.state.log_history:
        if "loss" in row:
            checked("TRL", row["loss"])
    return times


def alone(given: argparse.Namespace, ours: Ours) -> dict[str, Times]:
    """The same without TRL."""
    times = {"sdpo": Times(), "vpd": Times()}
    for number in range(1, given.rounds + 2):
        for name, found in times.items():
            taken = ours.step(name, number, given.device)
            if number > 1:
                found.add(*taken)
    return times


def weights(model: Any) -> Any:
    return model.get_decoder().layers[0].self_attn.q_proj.weight.detach().clone()


def measure(given: argparse.Namespace, name: str, precision: str, lengths: str, scratch: Path) -> list[list[str]]:
    """The rows of one setting."""
    folder = common.model_folder(name, scratch, given.device)
    given = argparse.Namespace(**vars(given))
    usual = APPRENTICE if name == "apprentice" else OTHERS | (NATURAL if lengths == "natural" else {})
    for setting, value in usual.items():
        setattr(given, setting, getattr(given, setting) or value)
    task = common.Drill(sums=name == "apprentice", count=max(64, given.prompts))
    ours = Ours(given, folder, precision, lengths, task)
    model = ours.run.learner.policy.model
    trainer = None if given.no_trl else trl_trainer(given, folder, precision, lengths, ours, str(scratch))
    learners = [model] if trainer is None else [model, trainer.model]
    before = [weights(learner) for learner in learners]
    times = alone(given, ours) if trainer is None else with_trl(given, trainer, ours)
    for old, learner in zip(before, learners, strict=True):
        if bool((old.to(learner.device) == weights(learner)).all()):
            raise SystemExit(f"{name}, {precision}: the weights have not changed, so nothing was measured")
    limit = common.matrix_limit(given.device, precision)
    body, head = common.body_parameters(model), model.get_output_embeddings().weight.numel()
    rows = [
        row(who, found, times.get("TRL"), limit, body, head, [name, precision, lengths]) for who, found in times.items()
    ]
    if "TRL" in times:
        share = statistics.median(common.ratios(times["sdpo"].whole, times["TRL"].whole))
        common.goal(given, f"SDPO step of TRL's, {name} {precision} {lengths}", share, 0.5)
    return rows


def row(
    who: str, found: Times, other: Times | None, limit: float, body: int, head: int, setting: list[str]
) -> list[str]:
    used = [
        work.flops(body, head, who == "vpd") / seconds / limit
        for work, seconds in zip(found.work, found.update, strict=True)
    ]
    compared = ["", ""]
    if other is not None and who != "TRL":
        compared = [
            common.spread(common.ratios(found.whole, other.whole)),
            f"{statistics.median(common.ratios(found.processor, other.processor)):.2f}",
        ]
    tokens = "/".join(
        f"{statistics.mean(getattr(work, kind) for work in found.work):.0f}"
        for kind in ("student", "teacher", "response")
    )
    clock = [common.spread(values) for values in (found.rollout, found.update, found.whole)]
    return [*setting, who, *clock, *compared, tokens, f"{statistics.median(used):.2f}"]


def main() -> None:
    parser = common.options(
        __doc__,
        models=dict(nargs="+", default=["smollm2-135m", "apprentice"]),
        shape=dict(choices=list(common.SHAPES), help="random weights of this shape in place of the models"),
        precisions=dict(nargs="+", default=["float32", "bfloat16"], help="float32, bfloat16 or bfloat16-mixed"),
        lengths=dict(nargs="+", default=["fixed", "natural"], choices=["fixed", "natural"]),
        rounds=dict(type=int, default=3, help="steps that count; one more goes before them"),
        prompts=dict(type=int, default=0, help="problems a step; 0: 4, and 16 for the apprentice"),
        group=dict(type=int, default=0, help="rollouts a problem; 0: 4, and 8 for the apprentice"),
        tokens=dict(type=int, default=0, help="longest response; 0: 32 or 48 (natural), and 12 for the apprentice"),
        no_trl=dict(action="store_true", help="vpdlab alone"),
    )
    given = parser.parse_args()
    if given.quick:
        given.models, given.precisions, given.rounds = ["apprentice"], ["float32"], 2
        given.prompts, given.group, given.tokens = 2, 2, 12
    common.pin(given)
    if importlib.util.find_spec("trl") is None:
        print("missing: trl, so vpdlab alone is measured")
        given.no_trl = True
    names = [given.shape] if given.shape else given.models
    print(common.machine(given, " ".join(given.precisions)) + "\n", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            for precision in given.precisions:
                for lengths in given.lengths:
                    rows += measure(given, name, precision, lengths, Path(scratch))
                    gc.collect()
    heads = ["model", "dtype", "lengths", "", "rollout s", "update s", "step s", "of TRL", "of TRL (CPU s)"]
    print()
    common.show([*heads, "tokens student/teacher/response", "use"], rows)


if __name__ == "__main__":
    main()
