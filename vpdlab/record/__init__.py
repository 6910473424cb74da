"""The run folder: written during the run, readable without torch and without the model.

runs/NAME/
  config.json        all settings
  environment.json   schema of the record, versions, revision, device, seeds, summary of the task
  metrics.jsonl      one line per iteration
  events.jsonl       one line per setting that was changed while the run went on (changes.py)
  eval.jsonl         one line per evaluation; its `probes` are what the task measured of the policy
  rollouts/          all rollouts: step-000130.parquet, steps-000001-000128.parquet (rollouts.py)
  followed/          some responses, scored again and again as the run goes on; the layout of rollouts/
  influence.jsonl    of rollouts that were scored: which sentence of the critique moved which token
  checkpoints/       step-000040: everything that resuming needs (checkpoint.py)
  final/             the student as a Hugging Face folder
  status.json        running, complete, stopped or failed
  lock               held while a process trains

schema.py names the columns and keys, checks.py validates values, reader.py opens a run, writer.py writes one, folder.py
begins one safely, rollouts.py lays out rollouts/, changes.py has changed settings and the origin of a branch,
whole.py says what a copy lacks, diagnose.py warns of what goes wrong in a run, influence.py checks the influence of
critiques.
"""

from vpdlab.record.changes import EVENTS, Change, Origin, changed, differences
from vpdlab.record.folder import (
    holds_settings,
    mark_stopped,
    prepare,
    refuse_links,
    refuse_taken,
    refuse_within,
    writing,
)
from vpdlab.record.reader import RunRecord, load_run, refuse_newer, state_of
from vpdlab.record.schema import (
    COLUMNS,
    FOLLOWED,
    LINES,
    METRICS,
    ROLLOUTS,
    SCHEMA,
    SCORED,
    TOKEN_COLUMNS,
    UNRECORDED,
    flat,
    kind_of,
    plain,
)
from vpdlab.record.whole import lacks, lost_rollouts
from vpdlab.record.writer import Recorder

__all__ = [
    "COLUMNS", "EVENTS", "FOLLOWED", "LINES", "METRICS", "ROLLOUTS", "SCHEMA", "SCORED", "TOKEN_COLUMNS",
    "UNRECORDED", "Change", "Origin", "Recorder", "RunRecord", "changed", "differences", "flat", "holds_settings",
    "kind_of", "lacks", "load_run", "lost_rollouts", "mark_stopped", "plain", "prepare", "refuse_links",
    "refuse_newer", "refuse_taken", "refuse_within", "state_of", "writing",
]  # fmt: skip
