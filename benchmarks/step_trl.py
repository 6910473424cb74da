"""TRL's side of step.py: an SDPOTrainer for the problems of a run of vpdlab, which steps whenever it is told to."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

import common
from step_work import SETTINGS, TOP_K, Times, Work, checked

from vpdlab.types import Problem


def trl_trainer(given: argparse.Namespace, model: str, precision: str, lengths: str, run: Any, scratch: str) -> Any:
    """TRL's trainer for the same problems as a run of vpdlab, in the same order."""
    import torch
    import transformers
    from datasets import Dataset
    from trl.experimental.sdpo import SDPOTrainer

    problems = [problem for step in range(1, given.rounds + 2) for problem in run.problems(step)]
    data = [
        {"prompt": [{"role": "user", "content": p.prompt}], "problem": index, "privileged_context": ""}
        for index, p in enumerate(problems)
    ]
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    trainer = SDPOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype),
        reward_funcs=lambda completions, **_: [float(i % given.group % 2) for i in range(len(completions))],
        args=trl_config(given, precision, run.render.templates, scratch),
        train_dataset=Dataset.from_list(data),
        processing_class=transformers.AutoTokenizer.from_pretrained(model, padding_side="left"),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    if lengths == "fixed":  # no token ends a response, as in vpdlab: cheaper than suppressing the end token
        trainer.eos_token_ids = [-1]
        trainer.generation_config.eos_token_id = -1
    give_feedback(trainer, problems, run.task, given.group)
    return trainer


def trl_config(given: argparse.Namespace, precision: str, templates: Any, scratch: str) -> Any:
    """TRL's settings for the same work as vpdlab's run."""
    from trl.experimental.sdpo import SDPOConfig

    return SDPOConfig(
        output_dir=scratch, max_steps=given.rounds + 1, gradient_accumulation_steps=given.accumulate,
        per_device_train_batch_size=given.prompts * given.group // given.accumulate,
        num_generations=given.group, max_prompt_length=None, max_completion_length=given.tokens, shuffle_dataset=False,
        distillation_alpha=1.0, distillation_mode="topk_logits", distillation_topk=TOP_K, distillation_add_tail=True,
        distillation_is_clip=None, teacher_model_kind="live", use_successful_as_teacher=False,
        include_environment_feedback=True,
        reprompt_template=templates.teacher.replace("{problem}", "{prompt}"),
        feedback_template=templates.feedback.replace("{text}", "{feedback_raw}"),
        learning_rate=SETTINGS["lr"], weight_decay=SETTINGS["weight_decay"], max_grad_norm=SETTINGS["grad_clip"],
        temperature=SETTINGS["temperature"], lr_scheduler_type="constant", gradient_checkpointing=False,
        bf16=precision == "bfloat16-mixed", use_cpu=given.device == "cpu", dataloader_pin_memory=False,
        save_strategy="no", report_to="none", logging_steps=1, disable_tqdm=True, diagnostics_warning_interval=0,
    )  # fmt: skip


def give_feedback(trainer: Any, problems: Sequence[Problem], task: Any, group: int) -> None:
    """Give each rollout its own feedback, as in vpdlab; a data set of TRL has one feedback per problem."""
    prepare = trainer._prepare_training_batch

    def with_feedback(rows: list[dict[str, Any]]) -> Any:
        texts = [task.note(problems[row["problem"]], index % group) for index, row in enumerate(rows)]
        return prepare([{**row, "privileged_context": text} for row, text in zip(rows, texts, strict=True)])

    trainer._prepare_training_batch = with_feedback


def train(given: argparse.Namespace, trainer: Any, turns: Iterator[None]) -> dict[str, Times]:
    """Train with TRL, a step a turn; the first turn is not counted."""
    times = Times()
    trainer.add_callback(paced(given, trainer, turns, times))
    trainer.train()
    next(turns, None)  # the last step is done
    for row in trainer.state.log_history:
        if "loss" in row:
            checked("TRL", row["loss"])
    return {"TRL": times}


def paced(given: argparse.Namespace, trainer: Any, turns: Iterator[None], times: Times) -> Any:
    """A callback that starts each step at a turn and times it."""
    import transformers

    generated, batches = measured_batches(given, trainer)

    class Paced(transformers.TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            next(turns)
            common.synchronise(given.device)
            self.began = common.Seconds(time.perf_counter(), time.process_time())

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            common.synchronise(given.device)
            whole = common.Seconds(time.perf_counter() - self.began.clock, time.process_time() - self.began.processor)
            work = work_of(batches.pop())
            if state.global_step > 1:
                times.add(generated[0], whole, work)

    return Paced()


def measured_batches(given: argparse.Namespace, trainer: Any) -> tuple[list[float], list[Any]]:
    """Two lists that the trainer updates: the seconds of its last generation, and its prepared batches."""
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
    return generated, batches


def work_of(batch: Any) -> Work:
    """Tokens of one of TRL's batches."""
    response = int(batch["completion_mask"].sum())
    return Work(int(batch["prompt_mask"].sum()) + response, int(batch["teacher_attention_mask"].sum()), response)
