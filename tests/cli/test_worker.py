"""The process that trains the runs of a comparison one after another."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from vpdlab import compare
from vpdlab.compare import runs
from vpdlab.config import RunConfig


@pytest.mark.slow
def test_runs_in_one_process_equal_runs_of_their_own_and_a_failure_does_not_end_it(tmp_path, capfd) -> None:
    base = RunConfig.make(
        "tour-common", steps=1, prompts=2, group=2, eval_problems=2, eval_samples=1, checkpoint_every=0
    )
    together = compare.plan({"base": base}, ["sdpo", "vpd:model=nowhere", "vpd"], [0], tmp_path / "together")
    worker = runs.Worker(jobs=1)
    codes = [runs._run(cell, worker) for cell in together]
    process = worker.process
    assert codes == [0, 2, 0]
    assert "nowhere" in runs._log(together[1]).read_text()
    assert process is not None and process.poll() is None
    worker.close()
    assert process.returncode == 0
    (alone,) = compare.plan({"base": base}, ["vpd"], [0], tmp_path / "alone")
    assert runs._run(alone, other := runs.Worker(jobs=1)) == 0
    other.close()
    one, two = (load_file(cell.folder / "final" / "model.safetensors") for cell in (together[2], alone))
    assert all((one[name] == two[name]).all() for name in one)
    assert "held-out accuracy" in runs._log(together[2]).read_text()
    assert capfd.readouterr().out == ""


def test_a_worker_that_dies_is_a_failed_run_and_the_next_one_gets_another(tmp_path, monkeypatch) -> None:
    cell, after = compare.plan({"base": RunConfig()}, ["vpd", "sdpo"], [0], tmp_path)
    monkeypatch.setattr(runs.sys, "executable", "/bin/false")
    worker = runs.Worker(jobs=1)
    assert runs._run(cell, worker) == 1
    assert worker.process is None
    assert runs._run(after, worker) == 1
