"""Who imports what: the rewards' tests stay fast, and Unsloth stays first."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sarashina_grpo

SRC = Path(sarashina_grpo.__file__).parent
HEAVY = {"torch", "trl", "unsloth", "vllm", "transformers"}
TRAINING = HEAVY | {"peft"}
LIGHT_MODULES = [
    "sarashina_grpo",
    "sarashina_grpo.tags",
    "sarashina_grpo.data",
    "sarashina_grpo.rewards",
    "sarashina_grpo.demonstrations",
    "sarashina_grpo.recipe",
    "sarashina_grpo.recipes",
]
"""In the order in which they build on one another, so that the first offender is named."""

IMPORT_ONE_BY_ONE = """
import importlib, json, sys
loaded = {}
for name in sys.argv[1:]:
    before = set(sys.modules)
    importlib.import_module(name)
    loaded[name] = sorted(set(sys.modules) - before)
print(json.dumps(loaded))
"""
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def imports(node: ast.AST, in_function: bool = False) -> Iterator[tuple[str, bool]]:
    """Each package that is imported below `node`, and whether inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name.split(".")[0], in_function) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and not child.level:
            yield (child.module or "").split(".")[0], in_function
        yield from imports(child, in_function or isinstance(child, FUNCTIONS))


def training_imports(path: Path) -> set[tuple[str, bool]]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return {(name, inside) for name, inside in imports(tree) if name in TRAINING}


@pytest.fixture(scope="module")
def newly_loaded() -> dict[str, list[str]]:
    """What each light module brings into a fresh interpreter."""
    command = [sys.executable, "-c", IMPORT_ONE_BY_ONE, *LIGHT_MODULES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_a_light_module_imports_no_training_library(
    module: str, newly_loaded: dict[str, list[str]]
) -> None:
    assert HEAVY.intersection(newly_loaded[module]) == set()


def test_the_light_modules_are_really_loaded(newly_loaded: dict[str, list[str]]) -> None:
    loaded = {name for names in newly_loaded.values() for name in names}
    assert loaded.issuperset(LIGHT_MODULES)


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(SRC.rglob("*.py")) if path.name != "backend.py"],
    ids=lambda path: str(path.relative_to(SRC)),
)
def test_only_the_backend_imports_a_training_library(path: Path) -> None:
    allowed = {("torch", True)} if path == SRC / "hardware.py" else set()
    assert training_imports(path) - allowed == set()


def test_the_backend_imports_every_training_library() -> None:
    assert {name for name, _ in training_imports(SRC / "backend.py")} == TRAINING


def test_the_backend_imports_unsloth_before_what_it_patches() -> None:
    tree = ast.parse((SRC / "backend.py").read_text(encoding="utf-8"))
    order = [name for name, inside in imports(tree) if not inside]
    assert order.index("unsloth") < min(
        order.index(name) for name in ("trl", "peft", "transformers")
    )
