"""A full or shut disk at the command line: one sentence with path and remedy, exit code 3, no traceback."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from erpo_ray import disk
from erpo_ray.commands.guarded import PIPE_CLOSED, guarded
from erpo_ray.errors import EnvironmentFault


def raised(code: int, path: str | None) -> OSError:
    return OSError(code, os.strerror(code), path)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "No space left on device; free space there"),
        (errno.EDQUOT, "Disk quota exceeded; free space there"),
        (errno.EROFS, "Read-only file system; make the folder writable"),
        (errno.EACCES, "Permission denied; make the folder writable"),
    ],
)
def test_what_the_disk_refuses_is_one_sentence(code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise raised(code, "/full/a.json")

    assert guarded(work) == 3
    expected = f"erpo: cannot write /full/a.json: {said} and start the same command again\n"
    assert capsys.readouterr().err == expected


def test_another_fault_of_the_system_stays_a_crash(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise raised(errno.EIO, "/a")

    assert guarded(work) == 1
    assert "Traceback" in capsys.readouterr().err


def test_writing_names_the_place_where_the_system_does_not() -> None:
    with pytest.raises(EnvironmentFault) as error, disk.writing(Path("out.html"), "name another file with -o"):
        raise raised(errno.ENOSPC, None)
    told = "cannot write out.html: No space left on device; free space there or name another file with -o"
    assert str(error.value) == told
    with pytest.raises(EnvironmentFault, match="cannot write to/b: full"), disk.writing(Path("x"), "y"):
        raise shutil.Error([("from/b", "to/b", "full")])


def test_a_reader_that_goes_ends_the_command_quietly() -> None:
    code = "from erpo_ray.commands.guarded import guarded; import sys; sys.exit(guarded(lambda: print('x' * 10**6)))"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    assert (child.wait(), child.stderr.read()) == (PIPE_CLOSED, b"")
