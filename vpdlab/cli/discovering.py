"""The command that counts attempts to a first success: discover."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from vpdlab.cli.options import (
    OF_A_RUN,
    SETTINGS,
    as_options,
    note_unread,
    of_groups,
    parse_preset,
    parsed,
    parser,
    path,
    refuse_single,
)
from vpdlab.errors import UserError


def options() -> argparse.ArgumentParser:
    """The command's own options."""
    found = parser(
        "discover",
        "Searches single problems until a first success: by sampling alone, in a conversation, or with an update from"
        " the feedback on each batch of attempts. What is already there is not searched again. Every other option of"
        " `vpdlab train` sets a field for all searches; `group` is the size of a batch.",
    )
    found.add_argument("--methods", nargs="+", default=["best-of-k", "conversation", "sdpo", "vpd"],
                       help="best-of-k, conversation, or methods that learn")  # fmt: skip
    found.add_argument("--problems", type=int, default=20, help="problems, drawn by each seed; default: 20")
    found.add_argument("--limit", type=int, default=256, help="most attempts at a problem; default: 256")
    found.add_argument("--seed", "--seeds", nargs="+", type=int, default=[0], dest="seeds")
    found.add_argument("--out", type=path, default=Path("runs/discover"), help="folder of discover.jsonl, the table"
                       " and the page")  # fmt: skip
    return found


def discover(args: Sequence[str]) -> int:
    """attempts to a first success, learning from each: vpdlab discover --preset words-two --problems 20"""
    chosen, rest = parsed(options(), args)
    for what, named in (("methods", chosen.methods), ("seeds", chosen.seeds)):
        if len(set(named)) < len(named):
            raise UserError(f"discover: {what} has one of the same name twice: {' '.join(map(str, named))}")
    words = as_options(rest)
    refuse_single("discover", words, ["method"])
    config = parse_preset("vpdlab discover", words)[0]
    reads = set(SETTINGS) - OF_A_RUN - of_groups("evaluation") - {"prompts"}
    note_unread("discover", words, reads | ({"steps"} if "reweight" in chosen.methods else set()))

    from vpdlab.study import discover as study

    searches = study.discover(config, chosen.methods, problems=chosen.problems, limit=chosen.limit, seeds=chosen.seeds,
                              out=chosen.out)  # fmt: skip
    total = chosen.problems * len(chosen.seeds)
    print(f"{len(chosen.methods)} methods x {total} searches; results in {chosen.out}", flush=True)
    for number, one in enumerate(searches, start=1):
        end = f"{one.attempts} attempts" if one.attempts else f"unsolved in {chosen.limit} attempts"
        print(f"{number}: {one.method}, problem {one.problem}, seed {one.seed}: {end}, {one.seconds:.1f} s", flush=True)
    found = study.Results(chosen.out, study.settings(config, chosen.limit)).of(chosen.methods, chosen.seeds)
    page = study.write_page(found, chosen.limit, chosen.out, f"vpdlab discover {shlex.join(args)}")
    print(f"\n{study.markdown(study.standings(found, chosen.limit))}\n\n{page}")
    return 0
