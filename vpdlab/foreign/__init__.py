"""Rollouts that something else has written: your own files, and what TRL, verl and prime-rl leave behind.

reading: rows of JSON lines and parquet files, bounded, each with its place. rows: one row as a rollout, checked field
by field. formats: the layouts of other trainers, and what each of them does not record.
"""

from vpdlab.foreign.formats import FORMATS, PLAIN, Format, Sources, find_sources, missing
from vpdlab.foreign.reading import read_rows
from vpdlab.foreign.rows import Row, read_row

__all__ = ["FORMATS", "PLAIN", "Format", "Row", "Sources", "find_sources", "missing", "read_row", "read_rows"]
