"""Several methods and seeds on the same problems. runs: plan and run them. standings: table and curves of the result.
page: both on a page. paper: both for a figure of a paper. studies: many conditions and the claims that they test, from
a file. claims: what their runs say of these. forecasts: what could be said before them."""

from vpdlab.compare.runs import Cell, default_jobs, plan, run_all, state

__all__ = ["Cell", "default_jobs", "plan", "run_all", "state"]
