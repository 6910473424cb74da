"""A whole run. `run` has `Run`: the parts of `learn` and their record; `train` drives it, `evaluate`, `measures` and
`probing` score it, `observe` turns iterations into rows and records. `keeper`, `checkpoint`,
`resume` and `lock` make it survive interruptions, `control` pauses and changes it, `playing` trains it on a thread,
`branch` begins it with another run's checkpoint, `imported` and `scored` record rollouts from elsewhere, of which
`scorable` finds those that a model can read, `scoring` scores responses without training on them, `following` some of
them again and again, `following_up` does so at the checkpoints of a run that has ended, `waking` makes a GPU ready,
`export` writes students, `trust` guards against other people's settings, `environment` describes the machine, `tracker`
and `interrupt` connect it to the outside."""

from vpdlab.learn.iterate import Iteration, iterate
from vpdlab.run.run import Run

__all__ = ["Iteration", "Run", "iterate"]
