"""The end of a command: whatever it raises becomes one message on stderr and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

import typer

from erpo_ray import stopping
from erpo_ray.endings import ending, known
from erpo_ray.errors import ErpoError
from erpo_ray.terminal import clean

PIPE_CLOSED = 141
"""As a shell tells of a program whose reader has gone, such as `head`."""


def guarded(work: Callable[[], int | None], command: str = "") -> int:
    """Do the work; what it raises becomes one message on stderr and an exit code, a crash also a traceback.

    `command` is what goes on when it is interrupted.
    """
    try:
        code = work() or 0
        sys.stdout.flush()
        return code
    except typer.TyperException as error:
        _say(f"{error.format_message()} (see erpo --help)")
        return error.exit_code
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BrokenPipeError:
        # What is left in the buffer would be tried again at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except BaseException as raised:
        error = known(raised)
        if not isinstance(error, ErpoError):
            traceback.print_exc()
        end = ending(error)
        _say(stopping.message(command) if command and end.state == "interrupted" else end.message)
        return end.exit_code


def _say(message: str) -> None:
    print(f"erpo: {clean(message)}", file=sys.stderr)
