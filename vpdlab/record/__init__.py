"""The run folder: what happened, written as it happens, readable without torch and without the model.

runs/NAME/
  config.json        every setting
  environment.json   versions, revision, device, seeds, the task's own summary
  metrics.jsonl      one line an iteration
  eval.jsonl         one line an evaluation
  rollouts/          step-000012.parquet: every rollout of iteration 12
  checkpoints/       step-000040: all that the run goes on from (checkpoint.py)
  final/             the student as an ordinary Hugging Face folder
  status.json        how the run stands or ended: running, complete, stopped, failed
  lock               held while a process trains
"""

from vpdlab.record.folder import mark_stopped, prepare, refuse_links, writing
from vpdlab.record.reader import RunRecord, load_run, state_of
from vpdlab.record.schema import COLUMNS, LINES, METRICS, TOKEN_COLUMNS, plain
from vpdlab.record.writer import Recorder

__all__ = [
    "COLUMNS", "LINES", "METRICS", "TOKEN_COLUMNS", "Recorder", "RunRecord", "load_run", "mark_stopped", "plain",
    "prepare", "refuse_links", "state_of", "writing",
]  # fmt: skip
