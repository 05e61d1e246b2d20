"""A port of one's own for a server that a test starts in another process."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

HOST = "127.0.0.1"


@contextmanager
def reserved() -> Iterator[int]:
    """A port of this machine that nobody else is given while the block runs, and that a server can listen on.

    A port that was looked up and let go may be somebody's before the server gets there. This one stays bound by a
    socket that does not listen: Linux gives it to no one who asks for any free port, while a server that names it and
    sets SO_REUSEADDR, as all here do, may bind beside it.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((HOST, 0))
        yield held.getsockname()[1]
