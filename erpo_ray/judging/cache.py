"""Verdicts kept on disk by what they depend on, so that nothing is paid for twice.

One SQLite file, which several processes may share: write-ahead log, one row a verdict, the first one stays. It must lie
on a local disk. Only read replies come in here, never a failure.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from pathlib import Path

from erpo_ray.errors import UsageError
from erpo_ray.judging.replies import Form, Values, misfit

_BUSY_S = 30.0
"""How long a process waits for another one that writes."""


def key(*parts: str) -> str:
    """The sha256 of its parts: kind of judge, model, content of the case. Different parts give different keys."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Cache:
    """A file of verdicts; threads may share one object.

    Raises UsageError when the file is something else, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # One statement a transaction, and the lock above for threads.
            self._file = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            self._write_ahead()
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._file.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, row TEXT NOT NULL)")
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def get(self, key: str, form: Form) -> Values | None:
        """What is kept under a key; UsageError when that does not fit the form."""
        try:
            with self._lock:
                row = self._file.execute("SELECT row FROM verdicts WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return None if row is None else self._values(row[0], form)

    def put(self, key: str, values: Values) -> None:
        """Keep the values, unless another process was faster."""
        try:
            with self._lock:
                self._file.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", (key, json.dumps(values)))
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        self._file.close()

    def _write_ahead(self) -> None:
        """Turn to a write-ahead log: of several processes that do so at once SQLite lets none wait for the other."""
        end = time.monotonic() + _BUSY_S
        while True:
            try:
                self._file.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
            time.sleep(0.02)

    def _values(self, row: str, form: Form) -> Values:
        try:
            values = json.loads(row)
        except ValueError as error:
            raise self._unusable(error) from error
        cause = misfit(values, form) if isinstance(values, dict) else "not_an_object"
        if cause:
            raise self._unusable(f"a row of {form.name} does not fit ({cause})")
        return values

    def _unusable(self, error: object) -> UsageError:
        return UsageError(f"{self._path}: no usable cache of verdicts ({error}); name another file or delete this one")
