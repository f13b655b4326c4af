"""The doctor: it finds what is wrong, and nothing where nothing is."""

from collections import namedtuple
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sarashina_grpo import doctor
from sarashina_grpo.__main__ import main
from sarashina_grpo.hardware import PACKAGES


def problems(artifact: Path) -> dict[str, str]:
    return {f.name: f.problem for f in doctor.examine(artifact) if f.problem}


def test_this_machine_matches_the_tested_set(tmp_path: Path) -> None:
    assert set(problems(tmp_path)) <= {"free disk"}
    names = [finding.name for finding in doctor.examine(tmp_path)]
    assert {"Python", "GPU", "trainer", "free disk", *PACKAGES} <= set(names)


@pytest.mark.parametrize("package", ["trl", "unsloth", "torch"])
def test_another_version_is_told_with_the_tested_ones(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[[str], str] = metadata.version
    monkeypatch.setattr(
        doctor.metadata, "version", lambda name: "0.0.1" if name == package else real(name)
    )
    found = problems(tmp_path)[package]
    assert found.startswith("tested with ")
    assert "uv sync" in found


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(10**12, 10**12, 10**9))
    assert "may need 10 GB" in problems(tmp_path / "not" / "there" / "yet")["free disk"]


@pytest.mark.parametrize(
    ("free_gb", "driver", "expected"),
    [
        (70, "580.159.04", set()),
        (10, "580.159.04", {"free GPU memory"}),
        (70, "550.54", {"driver"}),
        (70, "", set()),
    ],
)
def test_a_gpu_that_is_busy_or_whose_driver_is_old_is_told(
    free_gb: int,
    driver: str,
    expected: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = SimpleNamespace(
        is_available=lambda: True,
        mem_get_info=lambda: (free_gb * 10**9, 80 * 10**9),
        get_device_name=lambda: "Some GPU",
    )
    done: Any = SimpleNamespace(stdout=f"{driver}\n")
    monkeypatch.setattr(doctor, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(doctor.shutil, "which", lambda _: "nvidia-smi")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: done)
    assert set(problems(tmp_path)) - {"free disk"} == expected
    assert any(f.found == "Some GPU, 80 GB" for f in doctor.examine(tmp_path))


def test_trls_own_trainer_where_unsloth_should_be_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "ENGINE", "Unsloth")
    assert "before unsloth" in problems(tmp_path)["trainer"]
    monkeypatch.setattr(doctor, "trainer_name", lambda: "UnslothGRPOTrainer")
    assert "trainer" not in problems(tmp_path)


def test_the_command_prints_a_line_each(tmp_path: Path, capsys: Any) -> None:
    assert main(["doctor", "--artifact", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"trl              {metadata.version('trl')}" in out
    assert "as tested" in out or "to look at" in out


def test_the_table_has_a_row_a_finding(tmp_path: Path) -> None:
    findings = doctor.examine(tmp_path)
    assert doctor.table(findings).index.tolist() == [finding.name for finding in findings]


def test_a_machine_without_a_driver_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    assert doctor._driver() == "unknown: there is no nvidia-smi"
