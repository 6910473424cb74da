"""A worker process that compares mathematical answers: one JSON line in, one JSON line out.

math-verify's own timeout uses SIGALRM, which works only in a main thread, interferes with other users of the alarm, and
cannot interrupt a long computation in C (a power with a million digits). Here the calling process keeps the time, and
kills this one on timeout. Model-written formulas are parsed only here.
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
LATEST = 30  # seconds after which the kernel kills this process, if the caller is gone
MEMORY = 2 * 2**30  # bytes of address space; sympy itself takes a quarter of one GiB
SHOWN = 200  # characters of the parsed answer


@functools.lru_cache(maxsize=4096)
def expressions(text: str) -> list[Any]:
    """math-verify's parse of a boxed answer; empty if it cannot parse it."""
    from math_verify import parse

    return parse(f"\\boxed{{{text}}}", parsing_timeout=None)  # type: ignore[arg-type]


def compare(gold: str, answer: str) -> dict[str, Any]:
    """Whether the two are equal.

    Returns:
        {"right": bool, "read": the answer in a normal form, or None if it could not be parsed,
        "gold": whether the reference could be parsed}.
    """
    from math_verify import verify

    expected, given = expressions(gold), expressions(answer)
    right = bool(expected and given) and verify(expected, given, timeout_seconds=None)
    right = right and not far(expected[0], given[0])
    return {"right": bool(right), "read": str(given[0])[:SHOWN] if given else None, "gold": bool(expected)}


def far(expected: Any, given: Any) -> bool:
    """Whether two numbers differ in their first four digits, although math-verify, which rounds to six decimals,
    considers them equal. Percentages are left to math-verify."""
    from sympy import Expr, N, UnevaluatedExpr

    if not all(isinstance(one, Expr) and one.is_number and not one.has(UnevaluatedExpr) for one in (expected, given)):
        return False
    try:
        first, second = complex(N(expected)), complex(N(given))
        return abs(first - second) > 1e-4 * max(abs(first), abs(second))
    except (ArithmeticError, TypeError, ValueError):  # too large for a float, or not a number after all
        return False


def forbid(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook that blocks other programs, the network and writing files, which comparing never needs."""
    if event in FORBIDDEN or (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
        raise PermissionError(f"{event} while comparing answers")


def main() -> None:
    """Answer until the input ends."""
    if sys.platform == "linux":  # other systems do not enforce this limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.WARNING)  # math-verify warns that its timeout is off
    sys.dont_write_bytecode = True
    sys.addaudithook(forbid)
    sys.set_int_max_str_digits(10_000)
    for line in sys.stdin:
        request = json.loads(line)
        signal.alarm(LATEST)  # without a handler, so that it interrupts a computation in C too
        result: dict[str, Any] = {"right": False, "read": None, "gold": True}
        try:
            result = compare(request["gold"], request["answer"])
        except (ArithmeticError, LookupError, MemoryError, OSError, RecursionError, TypeError, ValueError) as error:
            result["error"] = type(error).__name__
        signal.alarm(0)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
