"""A stand-in for the dashboard of a Ray cluster: what Ray's own client asks of it about jobs, behind a token."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "0123456789abcdef" * 4


class DashboardServer(ThreadingHTTPServer):
    """Keeps the jobs it was given and the packages that came with them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.jobs: list[dict[str, Any]] = []
        self.packages: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self) -> dict[str, bytes]:
        """All files of all packages."""
        out: dict[str, bytes] = {}
        for package in self.packages.values():
            with zipfile.ZipFile(io.BytesIO(package)) as archive:
                out |= {name: archive.read(name) for name in archive.namelist()}
        return out


class _Handler(BaseHTTPRequestHandler):
    server: DashboardServer

    def do_GET(self) -> None:
        if self.path == "/api/version":
            self._answer({"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""})
        elif self.path == "/api/jobs/":
            self._answer(self.server.jobs)
        elif self.path.endswith("/logs"):
            self._answer({"logs": "rollouts: 0/480\nrollouts: 120/480, 3.1/s, 1:56 left\n"})
        else:
            self._answer({}, 200 if self.path in self.server.packages else 404)

    def do_PUT(self) -> None:
        self.server.packages[self.path] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        job = json.loads(self._body())
        if any(other["submission_id"] == job["submission_id"] for other in self.server.jobs):
            self._answer({"error": "already exists"}, 500)
            return
        given = {"type": "SUBMISSION", "status": "RUNNING", "message": "at work", "start_time": len(self.server.jobs)}
        self.server.jobs.append(job | given)
        self._answer({"job_id": job["submission_id"], "submission_id": job["submission_id"]})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, value: Any, status: int = 200) -> None:
        if TOKEN not in (self.headers.get("Authorization") or ""):
            status, value = 401, {"error": "Unauthorized"}
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[DashboardServer]:
    with DashboardServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
