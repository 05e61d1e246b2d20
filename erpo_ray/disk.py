"""Files that cannot be written or reached: what the system says of it, as one sentence with path and remedy."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from erpo_ray.errors import EnvironmentFault

_FULL = "free space there"
_SHUT = "make the folder writable"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: _SHUT,
    errno.EACCES: _SHUT,
    errno.EPERM: _SHUT,
}


def remedy(error: OSError, instead: str) -> str:
    """What to do about it: mend it, or do `instead`."""
    known = _REMEDIES.get(error.errno or 0)
    return f"{known} or {instead}" if known else "check the disk"


def fault(error: OSError) -> EnvironmentFault | None:
    """The error as one of the machine; None when it is not known to be."""
    known = _REMEDIES.get(error.errno or 0)
    if known is None:
        return None
    place = str(error.filename2 or error.filename or "a file")
    return EnvironmentFault(f"cannot write {place}: {error.strerror}; {known} and start the same command again")


@contextmanager
def writing(place: Path, instead: str) -> Iterator[None]:
    """What is written into `place`. EnvironmentFault that names it, with `instead` as the other way out."""
    try:
        yield
    except shutil.Error as error:
        # Of a tree: a list of (from, to, why), the first of which stands for all.
        _, path, why = error.args[0][0]
        raise EnvironmentFault(f"cannot write {path}: {why}; {_FULL} or {instead}") from error
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write {error.filename2 or error.filename or place}: {error.strerror}; {remedy(error, instead)}"
        ) from error
