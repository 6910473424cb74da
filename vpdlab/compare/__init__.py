"""Several methods and seeds on the same problems. runs: plan and run them. standings: table and figure of the
result."""

from vpdlab.compare.runs import Cell, default_jobs, plan, run_all, state

__all__ = ["Cell", "default_jobs", "plan", "run_all", "state"]
