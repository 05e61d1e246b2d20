"""vLLM's OpenAI-compatible server behind our door: `python -m erpo_ray.engines.server`, with vLLM's own options.

The terms come by stdin, and so stand in no command line and in no environment, neither of this process nor of those
that vLLM starts.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, ClassVar

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from erpo_ray.engines.door import App, Door, Terms

HEAD_S = 10.0
"""Seconds for the head of a request; an idle connection has vLLM's VLLM_HTTP_TIMEOUT_KEEP_ALIVE, 5 by default."""
HEAD_BYTES = 2**15
_SPARE = 64
"""Connections beyond the requests at once: those that still send, that get a refusal, and that ask for health."""


class Entrance(Door):
    """What vLLM makes of a class that it is told of by name, and given nothing but the app."""

    terms: ClassVar[Terms]

    def __init__(self, app: App) -> None:
        super().__init__(app, self.terms)


class Impatient(H11Protocol):
    """uvicorn's connection, and an end to it when the head of a request takes long: uvicorn itself waits for ever."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()

    def _look(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_S, self.transport.abort)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def main() -> None:
    """Serve as the command line says until SIGTERM."""
    terms = msgspec.json.decode(sys.stdin.buffer.read(), type=Terms)
    # By this name vLLM imports it: under `python -m` the one of this module is another.
    from erpo_ray.engines import server

    server.Entrance.terms = terms
    sys.argv += [
        f"--middleware={server.__name__}.{Entrance.__name__}",
        f"--h11-max-incomplete-event-size={HEAD_BYTES}",
    ]
    _run(http=server.Impatient, ws="none", limit_concurrency=terms.requests + _SPARE)


def _run(**uvicorn: Any) -> None:
    """What vLLM's own `main` does, with what it does not pass on."""
    import uvloop
    from vllm.entrypoints.launchers.api_server.entry import run_server
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    arguments: Any = make_arg_parser(FlexibleArgumentParser()).parse_args()
    configure_logging_from_args(arguments)
    validate_parsed_serve_args(arguments)
    uvloop.run(run_server(arguments, **uvicorn))


if __name__ == "__main__":
    main()
