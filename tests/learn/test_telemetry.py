"""`record_telemetry`: leaving the measurements out changes no weight, and what reads them is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from toy import equal, toy_run, weights

from vpdlab import UserError
from vpdlab.record import load_run


@pytest.mark.parametrize("method", ["vpd", "grpo", "distil", "pi-distill", "reweight"])
@pytest.mark.parametrize("support", ["full", "topk"])
def test_the_weights_are_the_same_and_the_columns_are_empty(tmp_path: Path, method: str, support: str) -> None:
    ends = []
    for telemetry in (True, False):
        out = str(tmp_path / str(telemetry))
        run = toy_run(record=True, method=method, support=support, top_k=7, record_telemetry=telemetry, out=out)
        rows = list(run.steps())
        ends.append(weights(run))
        assert all((row["entropy"] is not None) == telemetry for row in rows)
        assert any(row["kl"] is not None for row in rows) == (telemetry and method != "grpo")
    assert equal(*ends)
    kept = load_run(tmp_path / "False").rollouts(1)
    assert not any(row.get("kl") or row.get("student_entropy") for row in kept) and (
        method == "pi-distill" or any(row["student_logp"] for row in kept)
    )


@pytest.mark.parametrize(
    ("fields", "reader"),
    [({"kl_target": 0.1}, "kl_target"), ({"method": "sdar", "sdar_gate": "entropy"}, "sdar_gate entropy")],
)
def test_what_reads_them_is_refused(fields: dict[str, object], reader: str) -> None:
    with pytest.raises(UserError, match=re.escape(reader)):
        toy_run(record_telemetry=False, **fields)
