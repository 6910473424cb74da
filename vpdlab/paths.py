"""Paths given by the user."""

from __future__ import annotations

from pathlib import Path

from vpdlab.errors import UserError, is_text, reason, shown


def user_path(what: str, place: str | Path) -> Path:
    """Expand ~ in a path given by the user.

    Raises:
        UserError: for what is neither text nor a path, a name that is not valid UTF-8 (it could not be recorded), or
            one that is not a valid path.
    """
    if not isinstance(place, str | Path):
        raise UserError(f"{what} is {shown(place)}, but must be the text of a path")
    text = str(place)
    if not is_text(text):
        raise UserError(f"{what} is {shown(text)}, a name that is not UTF-8: rename the file")
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user's home, a NUL
        raise UserError(f"{what} is {shown(text)}: {reason(error)}") from error
    return path
