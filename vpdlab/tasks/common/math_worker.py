"""Compares mathematical answers in a process of its own, a JSON line in, a JSON line out.

math-verify guards itself with SIGALRM: that works in a main thread only, disturbs whoever else uses that alarm, and
cannot stop a long computation in C (a power with a million digits). Here the process that asks keeps the clock, and
ends this one when the time is over. Model-written formulas are read here and nowhere else.
"""

from __future__ import annotations

import functools
import json
import logging
import resource
import signal
import sys
from typing import Any

FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.remove", "socket.connect", "subprocess.Popen")
LATEST = 30  # seconds after which the kernel ends this process, should nobody be there to do it
MEMORY = 2 * 2**30  # bytes of address space; sympy itself takes a quarter of one GiB
SHOWN = 200  # characters of an answer as it was read


@functools.lru_cache(maxsize=4096)
def expressions(text: str) -> list[Any]:
    """What math-verify reads in the words of a boxed answer; empty where it reads nothing."""
    from math_verify import parse

    return parse(f"\\boxed{{{text}}}", parsing_timeout=None)  # type: ignore[arg-type]


def compare(gold: str, answer: str) -> dict[str, Any]:
    """Whether the two are equal.

    Returns:
        {"right": bool, "read": the answer in a normal form, or None where it could not be read,
        "gold": whether the reference could be read}.
    """
    from math_verify import verify

    wanted, found = expressions(gold), expressions(answer)
    right = bool(wanted and found) and verify(wanted, found, timeout_seconds=None) and not far(wanted[0], found[0])
    return {"right": bool(right), "read": str(found[0])[:SHOWN] if found else None, "gold": bool(wanted)}


def far(wanted: Any, found: Any) -> bool:
    """Whether two numbers differ in their first four digits, although math-verify, which rounds to six decimals, calls
    them equal. A percentage is left to it."""
    from sympy import Expr, N, UnevaluatedExpr

    if not all(isinstance(one, Expr) and one.is_number and not one.has(UnevaluatedExpr) for one in (wanted, found)):
        return False
    try:
        first, second = complex(N(wanted)), complex(N(found))
        return abs(first - second) > 1e-4 * max(abs(first), abs(second))
    except (ArithmeticError, TypeError, ValueError):  # too large for a float, or no number after all
        return False


def forbid(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: comparing formulas needs no other program, no network, and no file to write."""
    if event in FORBIDDEN or (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
        raise PermissionError(f"{event} while comparing answers")


def main() -> None:
    """Answer until the input ends."""
    if sys.platform == "linux":  # others know the limit but do not keep it
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.WARNING)  # math-verify warns that it keeps no clock
    sys.dont_write_bytecode = True
    sys.addaudithook(forbid)
    sys.set_int_max_str_digits(10_000)
    for line in sys.stdin:
        asked = json.loads(line)
        signal.alarm(LATEST)  # without a handler: it ends a computation in C, too
        said: dict[str, Any] = {"right": False, "read": None, "gold": True}
        try:
            said = compare(asked["gold"], asked["answer"])
        except (ArithmeticError, LookupError, MemoryError, OSError, RecursionError, TypeError, ValueError) as error:
            said["error"] = type(error).__name__
        signal.alarm(0)
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
