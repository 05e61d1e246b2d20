"""The ports that tests give to their servers."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest
from ports import HOST, reserved


def test_a_reserved_port_is_for_the_server_that_names_it_and_for_nobody_else() -> None:
    with reserved() as port, ExitStack() as others:
        asked = [others.enter_context(socket.create_server((HOST, 0))).getsockname()[1] for _ in range(300)]
        assert port not in asked
        with socket.socket() as stranger, pytest.raises(OSError):
            stranger.bind((HOST, port))
        with socket.create_server((HOST, port)) as server, socket.create_connection((HOST, port), 5) as client:
            accepted, address = server.accept()
            with accepted:
                assert address == client.getsockname()
        with socket.create_server((HOST, port)):  # a server that starts again
            pass
