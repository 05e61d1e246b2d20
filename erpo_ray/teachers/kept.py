"""What a teacher behind an endpoint said in a stage: kept as it comes, so that no call is paid for twice."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

from erpo_ray.rundir import Ledger, StageDir
from erpo_ray.types import identity

FILE = "teacher.jsonl"


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to what was asked for a prompt, the last where the first was ill-formed."""

    id: str
    prompt_id: str
    text: str

    @staticmethod
    def id_of(prompt_id: str, answer: str | None) -> str:
        """A trace for another answer is another question."""
        return identity("reply", prompt_id) if answer is None else identity("reply", prompt_id, answer)


class Replies:
    """The replies of a stage, for use from several threads. The ledger is opened with the first question."""

    def __init__(self, s: StageDir) -> None:
        self._s, self._lock = s, Lock()
        self._ledger: Ledger[Reply] | None = None
        self._texts: dict[str, str] = {}

    def get(self, id: str) -> str | None:
        """The text of a reply that is there."""
        with self._lock:
            self._opened()
            return self._texts.get(id)

    def add(self, reply: Reply) -> None:
        """Write it down."""
        with self._lock:
            self._opened().append(reply)
            self._texts[reply.id] = reply.text

    def _opened(self) -> Ledger[Reply]:
        if self._ledger is None:
            self._ledger = self._s.ledger(FILE, Reply)
            self._texts = {reply.id: reply.text for reply in self._ledger}
        return self._ledger
