"""User-correctable errors, and short texts for messages.

Everything that a user can cause (a wrong option, a bad data file, a model that does not fit) raises `UserError` with
one line that states what is wrong and what to do. The command line prints that line and exits with status 2; anything
else is a bug in vpdlab and keeps its traceback.
"""

import re
import sys


class UserError(ValueError):
    """Invalid input; the message is one line: what is wrong, where (file, field, value), what to do."""


class RunFailed(RuntimeError):
    """A run cannot continue for a reason other than its input; the message is one line, exit status 1."""


class EnvironmentFailed(RunFailed):
    """An environment of episodes failed by itself; the message is one line: environment, problem, turn, cause."""


HANDED_IN = "handed-in:"
"""Prefix of the recorded name of a part (task, method, sampler, policy) that was passed to `Run.open` as an object."""


def part_name(recorded: object) -> str:
    """The name of a part as people know it: without `HANDED_IN`."""
    return str(recorded).removeprefix(HANDED_IN)


def refuse_handed_in(part: str, name: str) -> None:
    """Raises UserError for the recorded name of a part that was passed as an object: no command can build it again."""
    if name.startswith(HANDED_IN):
        raise UserError(
            f"this run's {part} ({part_name(name)!r}) was passed from Python and cannot be built from its"
            f" settings: open the run in Python with Run.open(config, {part}=...)"
        )


FAULTS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Errors that code which comes as data (a chat template, YAML's constructors) raises besides its own."""


def notice(text: str) -> None:
    """Print a note, which does not stop the command, as one line on standard error."""
    print(f"vpdlab: note: {text}", file=sys.stderr, flush=True)


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8: half a character (a lone surrogate) cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def whole_text(text: str) -> str:
    """Text with U+FFFD for each lone surrogate, half a character that no tokenizer takes and no file can hold.

    JSON can spell one ("\\ud83d"), so any text from outside may contain one.
    """
    return text if text.isascii() or is_text(text) else re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def in_one_line(error: object, most: int = 300) -> str:
    """A message of another library as one line, with white space collapsed, cut to `most` characters."""
    return " ".join(str(error).split())[:most]


def shown(value: object, most: int = 60) -> str:
    """A value as a message can quote it: its repr, cut to `most` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def reason(error: BaseException) -> str:
    """Why something failed, in one line: an OSError's message without the path, any other message collapsed."""
    return getattr(error, "strerror", None) or in_one_line(error) or type(error).__name__


def ended_by(error: BaseException) -> tuple[str, str]:
    """The state, "stopped" or "failed", and the reason of a run that an error has ended, for its status.json."""
    if isinstance(error, (GeneratorExit, KeyboardInterrupt)):
        return "stopped", "interrupted"
    return "failed", f"{type(error).__name__}: {error}"


def first_line(error: BaseException) -> str:
    """The first non-empty line of another library's message; the error's name if there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
