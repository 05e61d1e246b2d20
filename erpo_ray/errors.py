"""The errors a user can meet, each with the exit code the command line ends with."""

from __future__ import annotations


class ErpoError(Exception):
    """Base: `exit_code` is what the process returns, the message is one sentence that names the remedy."""

    exit_code = 1


class RunFailed(ErpoError):
    """The run cannot go on: zero pairs, a saturated judge, NaN loss, weights that differ from the policy."""


class UsageError(ErpoError):
    """Wrong command line, configuration or data."""

    exit_code = 2


class EnvironmentFault(ErpoError):
    """The machine lacks something: a package, a device, space, a permission."""

    exit_code = 3


class Interrupted(ErpoError):
    """Stopped by a signal; the same command continues."""

    exit_code = 75


class GateFailed(ErpoError):
    """No stage passed its gate: the base model is still the best."""

    exit_code = 100
