"""The push of a loss on episodes, and the formulas of all methods, filled in from a run's record, against autograd."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT
from toy import toy_model, toy_run

from vpdlab.config import RunConfig
from vpdlab.learn.iterate import Iteration
from vpdlab.learn.m_step import m_step, survey
from vpdlab.learn.methods import METHODS
from vpdlab.learn.results import EStep
from vpdlab.learn.state import Batch
from vpdlab.run import Run
from vpdlab.run.observe import TokenWatch, rollout_records
from vpdlab.show.widget_data import lens_records
from vpdlab.study.anatomy import pushes
from vpdlab.types import Outcome


def test_only_the_policys_own_tokens_of_an_episode_are_pushed() -> None:
    config = RunConfig.make(
        model=toy_model(), task="arithmetic", environment="retry", environment_args=("about=last",), method="sdpo",
        support="full", prompts=2, group=2, max_new_tokens=90, turn_tokens=5, max_turns=2, max_context=160,
        eval_every=-1,
    )  # fmt: skip
    run = Run.open(config, record=False)
    batch = run.batch(1)
    found = pushes(run.learner, batch, run.method)
    assert any(len(rollout.turns) == 3 for rollout in batch.rollouts)
    for push, rollout in zip(found, batch.rollouts, strict=True):
        own = [token for token, mine in zip(rollout.response_ids, rollout.tokens.mask, strict=True) if mine]
        assert push.tokens.tolist() == own and len(push.logits) == len(own)
        if rollout.turns:
            assert len(own) < len(rollout.response_ids)
            assert push.size[-1] > 0
            # The verifier speaks of the last attempt: the first one is not pushed.
            torch.testing.assert_close(push.size[: rollout.turns[0].end], torch.zeros(rollout.turns[0].end))


# -- the formulas of all methods, from a record --------------------------------------------------------------------

SHOWN = """
import {{ load }} from {load};
const lens = await load("mathematics", "formulas", "token_lens");
const read = JSON.parse(await (await import("node:fs/promises")).readFile({items}, "utf-8"));
const found = read.map((item) => {{
  const record = {{ ...item, meta: item, turns: lens.turnsOf(item) }};
  return item.tokens.map((_, i) => Object.fromEntries(Object.keys(lens.LOSSES).map((method) => {{
    const {{ loss, push, weight, why }} = lens.explained(record, i, method);
    return [method, why ? {{ why }} : {{ loss: lens.valueOf(loss), push: lens.valueOf(push), weight }}];
  }})));
}});
console.log(JSON.stringify(found));
"""


def shown(items: list[dict[str, Any]], tmp_path: Path) -> list[list[dict[str, Any]]]:
    """What the widget's formulas give for each token of each record: method -> loss, push, weight, or why not."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("missing: node")
    script, data = tmp_path / "shown.mjs", tmp_path / "items.json"
    data.write_text(json.dumps(items), encoding="utf-8")
    load = (ROOT / "widgets/tests/load.mjs").as_uri()
    script.write_text(SHOWN.format(load=json.dumps(load), items=json.dumps(str(data))), encoding="utf-8")
    done = subprocess.run([node, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class SomeSilent:
    """Right where the ids add up to an even number; the third rollout of each problem hears nothing."""

    name, summary = "some-silent", "some rollouts have no feedback"

    def __init__(self, task: Any) -> None:
        self.load = task.load

    def verify(self, rollout: Any) -> Outcome:
        right = sum(rollout.response_ids) % 2 == 0
        return Outcome(float(right), None if rollout.index == 2 else f"Digit {rollout.index} is wrong.", "x")


def recorded(method: str, **fields: Any) -> tuple[Run, Batch, list[dict[str, Any]]]:
    """An iteration's batch, and its records as a run writes them. The sampler's probabilities are shifted, so that
    importance weights differ from 1."""
    run = toy_run(method=method, record_tokens=99, prompts=2, max_new_tokens=5, **fields)
    run.task = SomeSilent(run.task)
    policy, c = run.learner.policy, run.config
    with torch.no_grad():  # distributions with peaks; the reference, where there is one, stays behind
        for weights in policy.parameters:
            weights.mul_(2.0)
    shifts = [-0.4, 0.0, 0.3, 0.05]
    rollouts = [replace(one, version=-1) for one in run.verify(run.rollouts(3))]  # of other weights
    moved = [replace(one, logps=tuple(x + shifts[i % 4] for i, x in enumerate(one.logps))) for one in rollouts]
    feedback = run.feedback(moved, 3)
    batch = run.pack(moved, feedback, 3)
    watch = TokenWatch(policy.tokenizer, 99, 5, c.logit_mib)
    policy.update = lambda role: 1.0
    m = m_step(run.learner, batch, run.method, watch.tokens)
    policy.fresh()
    it = Iteration(3, moved, feedback, batch, EStep(), m, c.lr, c.beta, None, {})
    return run, batch, rollout_records(it, watch, run.render, c)


def check_formulas(run: Run, batch: Batch, records: list[dict[str, Any]], tmp_path: Path, names: list[str]) -> None:
    """Of each method: the push of each token, and the sum of all tokens' terms, against autograd and the loss."""
    items = [item for item in lens_records(records, config=run.config.to_dict()) if item["tokens"] is not None]
    found = shown(items, tmp_path)
    assert len(found) == len(batch)
    for name in names:
        method = METHODS[name]
        rows = batch.signal if method.views == "both" else torch.ones_like(batch.signal)
        part = batch.select(rows)
        told = method.prepare(run.learner, part, method) if method.prepare else {}
        with torch.no_grad():
            loss = sum(method.loss(seen).item() for seen, *_ in survey(run.learner, part, method, told))
        total = sum(
            token[name]["weight"] * token[name]["loss"] for row in found for token in row if "loss" in token[name]
        )
        assert total == pytest.approx(loss, rel=1e-4, abs=1e-7), name
        kept = [row for row, chosen in zip(found, rows.tolist(), strict=True) if chosen]
        for push, row in zip(pushes(run.learner, part, method), kept, strict=True):
            here = torch.tensor([token[name]["weight"] * token[name]["push"] for token in row], dtype=torch.float)
            torch.testing.assert_close(here, push.weight / part.response_tokens, rtol=1e-2, atol=1e-8)


SETTINGS: list[dict[str, Any]] = [
    {"support": "full", "alpha": 0.5},
    {"support": "full", "alpha": 0.0, "aggregate": "sequence", "advantage": "std", "sdar_gate": "either"},
    {"support": "full", "alpha": 1.0, "is_clip": 1.02, "opsd_clip": 0.002, "temperature": 0.8, "sdar_gate": "entropy"},
    {"support": "topk", "top_k": 5, "alpha": 0.5, "distil_discount": 0.5, "reweight_alpha": 0.5, "reweight_steps": 10},
    {"support": "topk", "top_k": 5, "alpha": 1.0, "tail": "renormalise", "clip_low": 0.001, "clip_high": 0.001},
    {"support": "sampled", "alpha": 1.0},
]


@pytest.mark.parametrize("fields", SETTINGS, ids=str)
def test_the_formulas_of_all_methods_agree_with_autograd(fields: dict[str, Any], tmp_path: Path) -> None:
    run, batch, records = recorded("joint", **fields)
    names = [name for name in METHODS if name not in ("rltf", "pi-distill")]
    if fields["support"] == "sampled":
        names = [name for name in names if METHODS[name].measure is None]
    check_formulas(run, batch, records, tmp_path, names)


@pytest.mark.parametrize(
    ("method", "fields"), [("grpo", {"kl_coef": 0.5}), ("distil", {"distil_baseline": True, "support": "full"})]
)
def test_what_only_a_method_s_own_run_measures_is_in_its_formula(method: str, fields: dict[str, Any], tmp_path) -> None:
    run, batch, records = recorded(method, **fields)
    check_formulas(run, batch, records, tmp_path, [method])
