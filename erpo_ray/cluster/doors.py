"""What keeps a cluster of this machine's own to this machine: all of it listens on loopback and asks for a token."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from erpo_ray.environment import LOOPBACK, ON_LOOPBACK

_GIVEN_TOKEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@contextmanager
def shut() -> Iterator[str]:
    """Within the block Ray starts a cluster that no other host reaches; gives the address for its node.

    The processes started meanwhile inherit what they need to know; this one is afterwards as it was, but for the token.
    """
    from ray._private import ray_constants

    _ask_for_token()
    before = {name: os.environ.get(name) for name in ON_LOOPBACK}
    os.environ |= ON_LOOPBACK
    # Ray takes a node's loopback address for a mistake, except where it supports no clusters; it keeps to the address
    # that it is told then, and every server of its own listens there only.
    clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield LOOPBACK
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def forget_token() -> None:
    """Ray reads a token once in a process; what it read before may be another's, or none."""
    from ray import _raylet

    compiled: Any = _raylet
    compiled.AuthenticationTokenLoader.instance().reset_cache()


def token_file() -> Path:
    """Where Ray looks for the token that no variable gives."""
    return Path.home() / ".ray" / "auth_token"


def _ask_for_token() -> None:
    """Token authentication, whatever the environment says: loopback is open to every user of the machine.

    Ray makes a missing token itself, for everybody to read.
    """
    from ray._private.authentication import authentication_token_setup

    if not any(os.environ.get(name) for name in _GIVEN_TOKEN):
        _keep(token_file())
        forget_token()
    # Set already, the variable would only be read by processes to come.
    os.environ.pop(authentication_token_setup.AUTH_MODE_ENV_VAR, None)
    authentication_token_setup.enable_token_auth_by_default()


def _keep(path: Path) -> None:
    """A token in a file of mode 0600: the one there is, or a new one. Of two runs that make one the first counts."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
        made.touch(0o600, exist_ok=False)
        made.write_text(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(made, path)
        made.unlink()
    path.chmod(0o600)
