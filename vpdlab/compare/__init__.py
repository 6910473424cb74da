"""Several methods and seeds on the same problems. runs: plan and run them. standings: table and figure of the result.
studies: many conditions and the claims that they test, from a file. claims: what their runs say of these."""

from vpdlab.compare.runs import Cell, default_jobs, plan, run_all, state

__all__ = ["Cell", "default_jobs", "plan", "run_all", "state"]
