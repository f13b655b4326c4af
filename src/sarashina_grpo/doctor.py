"""What this machine has, and what does not match what this project was tested with."""

import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pandas as pd
from packaging.requirements import Requirement

from sarashina_grpo import ARTIFACT
from sarashina_grpo.backend import ENGINE, torch, trainer_name
from sarashina_grpo.hardware import GB, PACKAGES

DISTRIBUTION = "sarashina-grpo"
LEAST_DRIVER = 580  # for the CUDA 13.0 build of torch that is locked
LEAST_DISK_GB = 10


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `problem` is empty where it is as it should be."""

    name: str
    found: str
    problem: str = ""


def examine(artifact: Path = ARTIFACT) -> list[Finding]:
    """Look at versions, GPU, driver, free memory and disk, and the trainer in use."""
    return [*_versions(), *_gpu(), _trainer(), _disk(artifact)]


def table(findings: list[Finding]) -> pd.DataFrame:
    """The findings for a notebook, one row each."""
    rows = [(finding.found, finding.problem) for finding in findings]
    names = pd.Index([finding.name for finding in findings])
    return pd.DataFrame(rows, index=names, columns=["found", "problem"])


def _versions() -> Iterator[Finding]:
    yield Finding("Python", platform.python_version())
    requirements = map(Requirement, metadata.requires(DISTRIBUTION) or [])
    bounds = {requirement.name: requirement.specifier for requirement in requirements}
    for package in PACKAGES:
        found = metadata.version(package)
        tested = bounds[package].contains(found, prereleases=True)
        problem = "" if tested else f"tested with {bounds[package]}; `uv sync` installs that"
        yield Finding(package, found, problem)


def _gpu() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        yield Finding("GPU", "none: the tiny model runs on the CPU")
        return
    free, total = torch.cuda.mem_get_info()
    yield Finding("GPU", f"{torch.cuda.get_device_name()}, {total / GB:.0f} GB")
    busy = "" if free > total / 2 else "most of it is in use by other programs"
    yield Finding("free GPU memory", f"{free / GB:.1f} GB", busy)
    driver = _driver()
    old = driver.split(".")[0].isdigit() and int(driver.split(".")[0]) < LEAST_DRIVER
    yield Finding("driver", driver, f"{LEAST_DRIVER} or newer is needed" if old else "")


def _driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown: there is no nvidia-smi"
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split("\n")[0].strip() or "unknown: nvidia-smi says nothing"


def _trainer() -> Finding:
    name = trainer_name()
    wrong = ENGINE == "Unsloth" and not name.startswith("Unsloth")
    problem = "trl was imported before unsloth: import sarashina_grpo.backend first"
    return Finding("trainer", f"{ENGINE}: {name}", problem if wrong else "")


def _disk(artifact: Path) -> Finding:
    folder = next(path for path in (artifact, *artifact.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free / GB
    little = free < LEAST_DISK_GB
    problem = f"a model and its checkpoints may need {LEAST_DISK_GB} GB" if little else ""
    return Finding("free disk", f"{free:.0f} GB", problem)
