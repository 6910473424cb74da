"""The one error that means "the user can fix this".

Everything that a person can cause (a wrong option, a bad data file, a model that does not fit) raises
`UserError` with one line that says what was wrong and what to do. The command line prints that line and
exits with status 2; anything else is a bug of ours and keeps its traceback.
"""

import sys


class UserError(ValueError):
    """Bad input, told in one line: what was wrong, where (file, field, value), what to do."""


class RunFailed(RuntimeError):
    """A run could not go on (not the input's fault): told in one line, exit status 1."""


HANDED_IN = "handed-in:"
"""Begins the recorded name of a part (task, method, sampler, policy) that was given to `Run.open` as an object."""


def refuse_handed_in(part: str, name: str) -> None:
    """Raises UserError for the recorded name of a part that was given as an object: no command can build it again."""
    if name.startswith(HANDED_IN):
        raise UserError(
            f"this run's {part} ({name.removeprefix(HANDED_IN)!r}) was passed from Python and cannot be built from its"
            f" settings: open the run in Python with Run.open(config, {part}=...)"
        )


FAULTS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What a program that comes as data (a chat template, YAML's constructors) raises beside its own errors."""


def notice(text: str) -> None:
    """Say something that the user should know and that stops nothing: one line on standard error."""
    print(f"vpdlab: note: {text}", file=sys.stderr, flush=True)


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8: half a character (a lone surrogate) cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def in_one_line(error: object, most: int = 300) -> str:
    """A message of another library as one line, white space folded and cut."""
    return " ".join(str(error).split())[:most]


def shown(value: object, most: int = 60) -> str:
    """A value as a message can quote it: its repr, cut to `most` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def reason(error: BaseException) -> str:
    """Why something failed, in one line: an OSError's own words without the path, any other message folded."""
    return getattr(error, "strerror", None) or in_one_line(error) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of another library's message that says something; the error's name where none does."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
