"""The command line. commands: what each command does. comparing: those that run many trainings, worker: where they run.
discovering: attempts at single problems. bringing: rollouts from elsewhere. following: responses scored at a run's
checkpoints. options: parsing a command's options. headless: notebooks without a browser. lab: notebooks in JupyterLab.
doctor: what is installed. fitting: what fits into memory.

Exit status: 0 success; 1 the run or the command failed; 2 invalid input (explained in one line); 130 interrupted.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence

from vpdlab import net, processes
from vpdlab.cli.commands import COMMANDS, names
from vpdlab.cli.options import as_options, one_line, parse_preset, parse_run
from vpdlab.errors import RunFailed, UserError

__all__ = ["COMMANDS", "as_options", "main", "names", "one_line", "parse_preset", "parse_run"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):  # text that the terminal cannot show must not end a command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with processes.quiet():
            status = _main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has exited, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's last flush
        return 1
    return status


def _main(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print("usage: vpdlab COMMAND ...\n")
        for name, command in COMMANDS.items():
            print(f"  {name:10}{command.__doc__}")
        print("\n`vpdlab COMMAND --help` lists the options of a command.")
        return 0 if args else 2
    if args[0] == "--version":
        from vpdlab import __version__

        print(f"vpdlab {__version__}")
        return 0
    try:
        for word in args:
            if "\0" in word:
                raise UserError(f"the argument {word!r} holds a NUL character")
        if args[0] not in COMMANDS:
            raise UserError(f"unknown command {args[0]!r}: choose one of {', '.join(COMMANDS)}")
        if args[0] != "train" and processes.launched() > 1:
            raise UserError(f"vpdlab {args[0]} is for one process: call it without a launcher")
        status = COMMANDS[args[0]](args[1:])
        processes.leave()
        return status
    except BrokenPipeError:
        raise
    except OSError as error:  # a name that is too long, a folder without permission: the error names it
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        what = error.filename or "the output cannot be written"
        print(f"vpdlab: {net.printable(f'{what}: {error.strerror}')}", file=sys.stderr)
        return 1
    except (UserError, RunFailed) as error:
        if processes.speaks(error):
            # A message may quote a data set or a server: one line, and nothing that steers the terminal.
            print(f"vpdlab: {processes.words()}{net.printable(str(error), 4000)}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print("vpdlab: interrupted", file=sys.stderr)
        return 130
