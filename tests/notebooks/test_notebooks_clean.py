"""The notebooks' own style: parameters, short cells, no code that belongs in the package."""

import ast
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sarashina_grpo import PROJECT_ROOT

PARAMETERS = {
    "finetuning": {"RECIPE", "MODEL_NAME", "MAX_STEPS", "SEED", "USE_VLLM", "RESUME"},
    "inference": {"RECIPE", "MODEL_NAME", "CHECKPOINT"},
}
EACH_NOTEBOOK = pytest.mark.parametrize("name", PARAMETERS)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def path_of(name: str) -> Path:
    return PROJECT_ROOT / "notebooks" / f"{name}.ipynb"


def cells(name: str) -> list[dict[str, Any]]:
    return json.loads(path_of(name).read_text(encoding="utf-8"))["cells"]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def code(name: str) -> list[str]:
    """The code cells, without IPython's magic lines."""
    return [
        "\n".join(line for line in source(cell).splitlines() if not line.startswith("%"))
        for cell in cells(name)
        if cell["cell_type"] == "code"
    ]


def parameters(name: str) -> list[ast.Assign]:
    (cell,) = [c for c in cells(name) if "parameters" in c["metadata"].get("tags", [])]
    statements = ast.parse(source(cell)).body
    assert all(isinstance(statement, ast.Assign) for statement in statements)
    return [statement for statement in statements if isinstance(statement, ast.Assign)]


def looks_like_code(comment: str) -> bool:
    try:
        tree = ast.parse(comment)
    except SyntaxError:
        return False
    kinds = (ast.Assign, ast.Call, ast.Import, ast.ImportFrom)
    return any(isinstance(node, kinds) for node in ast.walk(tree))


def test_no_notebook_is_left_out() -> None:
    found = {path.stem for path in (PROJECT_ROOT / "notebooks").rglob("*.ipynb")}
    assert found == set(PARAMETERS)


@EACH_NOTEBOOK
def test_the_parameters_are_literals_under_the_agreed_names(name: str) -> None:
    values = {}
    for assignment in parameters(name):
        (target,) = assignment.targets
        assert isinstance(target, ast.Name)
        values[target.id] = ast.literal_eval(assignment.value)
    assert values.keys() >= PARAMETERS[name]
    assert values["RECIPE"] == "smalltalk"


@EACH_NOTEBOOK
def test_nothing_is_defined_in_a_notebook(name: str) -> None:
    for cell in code(name):
        assert not [node for node in ast.walk(ast.parse(cell)) if isinstance(node, DEFINITIONS)]
        assert "sys.path" not in cell


@EACH_NOTEBOOK
def test_no_code_is_commented_out(name: str) -> None:
    comments = [
        line.strip().lstrip("# ")
        for cell in code(name)
        for line in cell.splitlines()
        if line.strip().startswith("#")
    ]
    assert looks_like_code("policy = load(run)")
    assert not looks_like_code("the rewards on hand-written samples")
    assert [comment for comment in comments if looks_like_code(comment)] == []


@EACH_NOTEBOOK
def test_cells_are_short_and_narrow(name: str) -> None:
    for cell in code(name):
        lines = cell.splitlines()
        assert len(lines) <= 20, lines[0]
        assert [line for line in lines if len(line) > 88] == []


@EACH_NOTEBOOK
def test_text_stands_before_each_code_cell(name: str) -> None:
    kinds = ["code", *(cell["cell_type"] for cell in cells(name))]
    bare = [
        source(cell)
        for before, cell in zip(kinds, cells(name), strict=False)
        if before == cell["cell_type"] == "code"
    ]
    assert bare == []


@EACH_NOTEBOOK
def test_no_output_is_in_git(name: str) -> None:
    path = path_of(name).relative_to(PROJECT_ROOT)
    text = subprocess.run(
        ["git", "show", f":{path}"], cwd=PROJECT_ROOT, check=True, capture_output=True
    ).stdout
    code_cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert code_cells
    assert [cell for cell in code_cells if cell["outputs"] or cell["execution_count"]] == []
