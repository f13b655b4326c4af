"""The README's own recipe, followed to the letter: its files, its command, nothing else."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from sarashina_grpo import PROJECT_ROOT
from sarashina_grpo.hardware import Plan

pytestmark = pytest.mark.timeout(900)
FENCE = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
NAMED_FILE = re.compile(r"^\d\. .*?`((?:datasets|src)/[\w/.]+)`", re.MULTILINE)


def section(readme: str, title: str) -> str:
    text = (PROJECT_ROOT / readme).read_text(encoding="utf-8")
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the files of "Make your own recipe" added."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("src", "notebooks", "datasets"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT_ROOT / name, folder / name, ignore=ignored)
    text = section("README.md", "Make your own recipe")
    contents = [dedent(content) for kind, content in FENCE.findall(text) if kind != "sh"]
    for path, content in zip(NAMED_FILE.findall(text), contents, strict=True):
        assert not (folder / path).exists()
        (folder / path).write_text(content, encoding="utf-8")
    return folder


def run(project: Path, command: str) -> str:
    """What a command prints, run in the project with its own `src` and this Python."""
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(project / "src"),
    }
    done = subprocess.run(
        command, shell=True, cwd=project, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_the_readmes_recipe_trains_with_its_own_tags_and_reward(project: Path, plan: Plan) -> None:
    (command,) = (
        dedent(content).strip()
        for kind, content in FENCE.findall(section("README.md", "Make your own recipe"))
        if kind == "sh"
    )
    assert command.startswith("uv run papermill ")
    (project / "artifact").mkdir()
    printed = run(project, f"{command.removeprefix('uv run ')} -p MAX_STEPS 8")
    assert "recipes: listener qa smalltalk" in printed
    assert "<notes>" in printed
    assert "step 8/8: reward" in printed
    (checkpoint,) = project.glob("artifact/outputs/listener/*/checkpoint-8")
    assert (checkpoint / "adapter_model.safetensors").is_file()
    assert "rewards/asks_back_reward/mean" in (checkpoint / "trainer_state.json").read_text()


def test_the_readmes_recipe_is_checked_like_any_code(project: Path) -> None:
    path = project / "src" / "sarashina_grpo" / "recipes" / "listener.py"
    for check in ("check", "format --check"):
        run(project, f"ruff {check} --config {PROJECT_ROOT / 'pyproject.toml'} {path}")
    run(project, f"mypy --strict --ignore-missing-imports {path}")


def test_both_readmes_give_the_same_recipe() -> None:
    texts = [
        (PROJECT_ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ja.md")
    ]
    assert FENCE.findall(texts[0]) == FENCE.findall(texts[1])
