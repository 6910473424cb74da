"""The run folder: what happened, written as it happens, readable without torch and without the model.

runs/NAME/
  config.json        every setting
  environment.json   versions, the record's schema among them; revision, device, seeds, the task's own summary
  metrics.jsonl      one line an iteration
  eval.jsonl         one line an evaluation
  rollouts/          every rollout: step-000012.parquet of iteration 12, steps-000001-000128.parquet of finished ones
  checkpoints/       step-000040: all that the run goes on from (checkpoint.py)
  final/             the student as an ordinary Hugging Face folder
  status.json        how the run stands or ended: running, complete, stopped, failed
  lock               held while a process trains
"""

from vpdlab.record.folder import mark_stopped, prepare, refuse_links, writing
from vpdlab.record.reader import RunRecord, load_run, refuse_newer, state_of
from vpdlab.record.schema import COLUMNS, LINES, METRICS, SCHEMA, TOKEN_COLUMNS, plain
from vpdlab.record.writer import Recorder

__all__ = [
    "COLUMNS", "LINES", "METRICS", "SCHEMA", "TOKEN_COLUMNS", "Recorder", "RunRecord", "load_run", "mark_stopped",
    "plain", "prepare", "refuse_links", "refuse_newer", "state_of", "writing",
]  # fmt: skip
