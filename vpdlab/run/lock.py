"""One writer per run folder."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vpdlab.errors import UserError
from vpdlab.record import refuse_links


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within the block no other process, and no other run of this process, may write the run in `folder`.

    The operating system releases the lock when the process dies, however it dies.

    Raises:
        UserError: where another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{folder} is being written by process {file.read().strip() or '?'}: wait for it") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            print(f"{folder}: this file system has no locks: never start two runs in this folder", file=sys.stderr)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
