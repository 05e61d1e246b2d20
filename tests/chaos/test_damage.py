"""Files of a run directory that were cut, flipped, emptied, removed, swapped or doubled: none is used unnoticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random

import msgspec
import pytest
from crash_disk import Disk, PowerCut
from rundir_driver import CONFIG, INPUTS, drive, outcome

from erpo_ray.errors import EnvironmentFault, ErpoError, UsageError
from erpo_ray.rundir import Ledger, ledger, lines, run
from erpo_ray.rundir import stage as stage_module
from erpo_ray.rundir.fingerprint import fingerprint
from erpo_ray.rundir.stage import StageDir
from erpo_ray.types import Candidate, Verdict

ROOT = Path("/runs/one")
MINE = fingerprint(CONFIG, INPUTS)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "config_yaml", lambda config: b"name: driven\n")
    monkeypatch.setattr(run, "environment", lambda: {"python": "3"})
    monkeypatch.setattr(run, "fingerprint", lambda config, inputs: MINE)


def played(cut_at: int = 0) -> Disk:
    """A run that ended, or the disk of one whose driver was killed after so many operations."""
    disk = Disk(cut_at=cut_at)
    try:
        drive(disk, ROOT)
    except PowerCut:
        pass
    return Disk(disk.live, disk.data)


@cache
def ended() -> Disk:
    return played()


@cache
def interrupted() -> Disk:
    """Stage 00 sealed, stage 01 with its samples and without its pairs."""
    return _before("01-prefer/.pairs.jsonl.tmp")


@cache
def unsealed() -> Disk:
    """All of stage 01 there but its seal."""
    return _before("01-prefer/.stage.json.tmp")


def _before(name: str) -> Disk:
    whole = Disk()
    drive(whole, ROOT)
    return played(next(at for at, done in enumerate(whole.log, 1) if done.endswith(name)))


def disks() -> tuple[Disk, ...]:
    return ended(), interrupted(), unsealed()


def damages(data: bytes, random: Random, cuts: int, flips: int) -> Iterator[tuple[str, bytes | None]]:
    yield "missing", None
    yield "empty", b""
    yield "doubled", data * 2
    yield "zeros", bytes(len(data))
    rows = data.splitlines(keepends=True)
    yield "last line twice", data + rows[-1]
    yield "first line gone", b"".join(rows[1:])
    yield "lines reversed", b"".join(reversed(rows))
    for _ in range(cuts):
        at = random.randrange(len(data))
        yield f"cut at {at}", data[:at]
    for _ in range(flips):
        at, bit = random.randrange(len(data)), random.randrange(8)
        yield f"bit {bit} of byte {at}", data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def damaged(disk: Disk, cuts: int, flips: int) -> Iterator[tuple[str, Disk]]:
    """Each file of a run with each damage, but links, which hold no data, and weights that no seal covers yet."""
    random = Random(0)
    paths = [path for path, node in disk.live.items() if isinstance(node, int) and disk.data[node]]
    stages = [Path(path).parent for path in paths if path.endswith("stage.json")]
    paths = [path for path in paths if "policy" not in Path(path).parts or any(map(Path(path).is_relative_to, stages))]
    for path in paths:
        node = disk.live[path]
        assert isinstance(node, int)
        others = [("another file", disk.read(Path(random.choice([other for other in paths if other != path]))))]
        for what, data in (*damages(disk.data[node], random, cuts, flips), *others):
            # Facts of a stage without a seal cannot be told from another table of numbers.
            if data == disk.data[node] or (what == "another file" and path.endswith("policy_facts.json")):
                continue
            live, content = dict(disk.live), dict(disk.data)
            if data is None:
                del live[path]
            else:
                content[node] = data
            yield f"{path}: {what}", Disk(live, content)


def result(disk: Disk) -> tuple[dict[str, object], set[object]]:
    """What a run amounts to: artefacts, rows of ledgers by id, and apart from them the rows of metrics.

    A ledger may tell a row twice, or in another order: that is read as if it did not.
    """
    found = outcome(disk, ROOT)
    del found["metrics"]
    for name, kind in (("candidates.jsonl", Candidate), ("verdicts.jsonl", Verdict)):
        rows = Ledger(disk, ROOT / "stages" / "01-prefer" / name, kind, read_only=True)
        found[name] = sorted(map(str, rows))
    return found, set(disk.read(ROOT / "metrics.jsonl").splitlines())


@cache
def _want() -> tuple[dict[str, object], set[object]]:
    return result(ended())


def _same(disk: Disk) -> bool:
    """A row of metrics under the name of a stage that the run does not have tells of nothing."""
    found, rows = result(disk)
    want, told = _want()
    return found == want and told <= rows


def silent(disk: Disk, cuts: int, flips: int) -> Iterator[tuple[str, str]]:
    """For each damage what became of it: refused, made good, or used."""
    for what, bad in damaged(disk, cuts, flips):
        try:
            drive(bad, ROOT)
        except ErpoError as error:
            kind = (
                "refused" if isinstance(error, UsageError | EnvironmentFault) and str(ROOT) in str(error) else "vague"
            )
            yield kind, f"{what}: {error}"
            continue
        yield "made good" if _same(bad) else "used", what


def test_no_damaged_file_is_used(scale: Callable[[int, int], int], promise: Callable[[str], None]) -> None:
    cuts, flips = scale(4, 32), scale(8, 64)
    found = [entry for disk in disks() for entry in silent(disk, cuts, flips)]
    assert [what for kind, what in found if kind in ("used", "vague")] == []
    refused = sum(kind == "refused" for kind, _ in found)
    promise(f"damaged files: {len(found):,}  refused {refused:,}  made good {len(found) - refused:,}  used 0")


@pytest.mark.parametrize(
    "name",
    ["00-imitate/stage.json", "01-prefer/evaluation.json", "01-prefer/outcome.json", "01-prefer/policy_facts.json"],
)
def test_a_file_without_its_only_row_is_refused(name: str) -> None:
    """As `left_out.jsonl` is when nothing was left out: whole, but not what belongs there."""
    disk, path = unsealed(), ROOT / "stages" / name
    node = disk.live[str(path)]
    assert isinstance(node, int)
    with pytest.raises(UsageError, match=rf"{name}, line 1: 0 rows where one belongs"):
        drive(Disk(dict(disk.live), dict(disk.data) | {node: lines.artefact([])}), ROOT)


def _trusting(line: bytes, seed: int = 0) -> tuple[lines.Line, int] | None:
    try:
        return msgspec.json.decode(line, type=lines.Line), 0
    except msgspec.DecodeError:
        return None


def _uncounted(stream, kind, path):
    for number, raw in enumerate(stream, 1):
        if (verified := _trusting(raw)) and verified[0].of:
            yield lines.typed(verified[0], kind, path, number)


MUTANTS: dict[str, tuple[object, str, Callable]] = {
    "checksums of artefacts not compared": (lines, "verify", _trusting),
    "checksums of ledgers not compared": (ledger, "verify", _trusting),
    "rows of an artefact not counted": (stage_module, "artefact_rows", _uncounted),
    "seals not compared": (StageDir, "_verify", lambda self, seal: None),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_damage_is_noticed_by_each_safeguard_alone(
    name: str, monkeypatch: pytest.MonkeyPatch, promise: Callable[[str], None]
) -> None:
    sound = disks()
    place, attribute, replacement = MUTANTS[name]
    monkeypatch.setattr(place, attribute, replacement)

    def used() -> Iterator[bool]:
        for disk in sound:
            try:
                yield any(kind == "used" for kind, _ in silent(disk, 4, 12))
            except (LookupError, ValueError):
                yield True

    assert any(used())
    promise(f"safeguard removed and missed: {name}")


def test_edits_of_a_sealed_stage_are_all_seen(promise: Callable[[str], None]) -> None:
    """Lines altered, dropped, moved or doubled by someone who makes the checksums fit."""
    random, stage = Random(0), ROOT / "stages" / "01-prefer"
    for _ in range(1000):
        name = random.choice(("candidates.jsonl", "verdicts.jsonl", "pairs.jsonl", "policy_facts.json"))
        bad = Disk(ended().live, ended().data)
        node = bad.live[str(stage / name)]
        assert isinstance(node, int)
        rows = [line[line.index(b'"row":') + 6 : -1] for line in bad.data[node].splitlines()]
        sound, at = list(rows), random.randrange(len(rows))
        match random.randrange(4):
            case 0:
                rows[at] = rows[at].replace(b"0.5", b"0.9").replace(b"answer", b"forged")
            case 1:
                rows[at : at + 1] = [rows[at]] * 2
            case 2:
                del rows[at]
            case _:
                random.shuffle(rows)
        if rows == sound:
            rows.append(rows[0])
        bad.data[node] = lines.artefact(rows) if name in ("pairs.jsonl", "policy_facts.json") else _as_ledger(rows)
        with pytest.raises(UsageError, match=f"{stage}/{name} has .* but was sealed with"):
            drive(bad, ROOT)
    promise("edits of sealed ledgers, checksums made to fit: 1,000  seen 1,000")


def _as_ledger(rows: list[bytes]) -> bytes:
    return b"".join(lines.ledger_line(row, 1) for row in rows)
