"""What holds for the repository as a whole: lock, addresses, dependencies, commands."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CLEAN_LOCK = ROOT / "tools" / "clean_lock.py"
CHECK_ADDRESSES = ROOT / "tools" / "check_addresses.py"

# In pieces, because this file may hold no address either.
SCHEME = "https:" + "//"
INDEX_HOST = "wheels.index.example"
INDEX = f"{SCHEME}{INDEX_HOST}/simple"
FILES = f"{SCHEME}files.example/packages/ab/cd"

NEEDED_BUT_NOT_IMPORTED = {
    "accelerate": "transformers' Trainer runs on it",
    "bitsandbytes": "4-bit weights and the optimizer 'adamw_8bit', chosen by name",
    "jupyterlab": "the program that opens the notebooks",
    "papermill": "the program that runs the notebooks with parameters",
    "tensorboard": "the program that shows the logs",
    "unsloth-zoo": "the other half of unsloth, to be moved with it",
    "vllm": "TRL and Unsloth start it when `use_vllm` is set",
}

PACKAGE = f"""\
[[package]]
name = "tqdm"
version = "4.67.1"
source = {{ registry = "{INDEX}" }}
dependencies = [
    {{ name = "scipy", version = "1.17.1", source = {{ registry = "{INDEX}" }} }},
]
sdist = {{ url = "{FILES}/tqdm-4.67.1.tar.gz", hash = "sha256:0" }}
wheels = [
    {{ url = "{FILES}/tqdm-4.67.1-py3-none-any.whl", hash = "sha256:1" }},
    {{ url = "{FILES}/tqdm-4.67.1-cp311-none-any.whl", hash = "sha256:2" }},
]
"""
CLEAN_PACKAGE = """\
[[package]]
name = "tqdm"
version = "4.67.1"
source = { registry = "." }
dependencies = [
    { name = "scipy", version = "1.17.1", source = { registry = "." } },
]
"""
ROOT_PACKAGE = """\
[[package]]
name = "sarashina-grpo"
version = "0.1.0"
source = { editable = "." }

[package.dev-dependencies]
dev = [
    { name = "ruff" },
]

"""
METADATA = """\
[package.metadata]
requires-dist = [
    { name = "tqdm", specifier = ">=4.67,<5" },
]

[package.metadata.requires-dev]
dev = [
    { name = "ruff", specifier = ">=0.14" },
]

"""


def clean(lock: str | bytes) -> str:
    stdin = lock if isinstance(lock, bytes) else lock.encode()
    command = [sys.executable, CLEAN_LOCK]
    return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout.decode()


@pytest.mark.parametrize(
    ("lock", "expected"),
    [
        pytest.param("", "", id="empty"),
        pytest.param('version = 1\n\n"雨"\r\n', 'version = 1\n\n"雨"\r\n', id="other bytes"),
        pytest.param(PACKAGE, CLEAN_PACKAGE, id="addresses"),
        pytest.param('wheels = [{ url = "x" }]\nname = "y"\n', 'name = "y"\n', id="one line"),
        pytest.param(ROOT_PACKAGE + METADATA, ROOT_PACKAGE, id="root package"),
        pytest.param(
            ROOT_PACKAGE + METADATA + PACKAGE, ROOT_PACKAGE + CLEAN_PACKAGE, id="root, then another"
        ),
    ],
)
def test_clean_lock_leaves_out_addresses_and_nothing_else(lock: str, expected: str) -> None:
    assert clean(lock) == expected
    assert clean(expected) == expected


def test_cleaned_lock_of_this_repository_has_every_version_and_no_address() -> None:
    lock = (ROOT / "uv.lock").read_text(encoding="utf-8")
    cleaned = clean(lock)
    assert "://" not in cleaned
    assert clean(cleaned) == cleaned
    assert _versions(cleaned) == _versions(lock)


def test_lock_has_every_declared_dependency() -> None:
    project = _pyproject()
    declared = {*_names(project["project"]["dependencies"])}
    for group in project["dependency-groups"].values():
        declared |= _names(group)
    locked = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    assert declared <= {package["name"] for package in locked}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    _git(tmp_path, "init", "--quiet")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("uv.lock", f'source = {{ git = "{SCHEME}code.example/repository" }}'),
        ("sub/uv.lock", f'source = {{ registry = "{INDEX}" }}'),
        ("README.md", f"[wheel]({FILES}/tqdm-4.67.1-py3-none-any.whl)"),
        ("README.md", f"{SCHEME}any.example/x.whl#sha256=0"),
        ("README.md", f"{SCHEME}any.example/x.tar.gz."),
        ("setup.sh", f'pip install --index-url "{SCHEME}any.example/simple/" tqdm'),
        ("setup.sh", f"export UV_INDEX_URL={SCHEME}any.example/+simple"),
        ("setup.sh", "url = file:" + "///srv/packages/tqdm"),
        ("notes/雨.md", f"we download from {INDEX_HOST}."),
        ("ci.yml", f"host: USER@{INDEX_HOST.upper()}:8080"),
    ],
)
def test_check_addresses_names_file_and_line_of(repository: Path, name: str, line: str) -> None:
    _add(repository, name, f"first line\n{line}\n")
    outcome = _check(repository, UV_INDEX=f"private={INDEX}")
    assert outcome.returncode == 1
    assert outcome.stderr.startswith(f"{name}:2: ")
    assert INDEX_HOST not in outcome.stderr


def test_check_addresses_knows_the_index_of_the_last_lock(repository: Path) -> None:
    (repository / "uv.lock").write_text(PACKAGE)
    _add(repository, "README.md", f"see {INDEX_HOST}\n")
    assert _check(repository).stderr.startswith("README.md:1: ")


def test_check_addresses_reads_pip_settings(repository: Path) -> None:
    _add(repository, "README.md", f"see {INDEX_HOST}\n")
    settings = repository / "pip.conf"
    settings.write_text(f"[global]\nextra_index_url =\n    {INDEX}\n")
    assert _check(repository, PIP_CONFIG_FILE=str(settings)).returncode == 1


@pytest.mark.parametrize(
    "line",
    [
        f"{SCHEME}arxiv.example/abs/2402.03300",
        f"{SCHEME}docs.example/simple-talk and {SCHEME}docs.example/packages.html",
        "http:" + "//localhost:6006 shows TensorBoard",
        f"my.{INDEX_HOST}.org is somebody else",
        "tar xf backup.tar.gz; python3 -m pip install x.whl",
    ],
)
def test_check_addresses_lets_other_text_pass(repository: Path, line: str) -> None:
    _add(repository, "README.md", line)
    _add(repository, "uv.lock", CLEAN_PACKAGE)
    outcome = _check(repository, PIP_INDEX_URL=f"{INDEX} http://localhost:3141/root")
    assert (outcome.returncode, outcome.stderr) == (0, "")


def test_check_addresses_reads_what_will_be_committed(repository: Path) -> None:
    _add(repository, "README.md", "nothing\n")
    (repository / "README.md").write_text(f"{INDEX}\n")
    (repository / "untracked.md").write_text(f"{INDEX}\n")
    assert _check(repository).returncode == 0


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_this_repository_has_no_address_of_a_registry() -> None:
    assert _check(ROOT, **os.environ).stderr == ""


def test_every_import_is_a_declared_dependency() -> None:
    declared = {_module(name) for name in _names(_pyproject()["project"]["dependencies"])}
    own = {"sarashina_grpo", *sys.stdlib_module_names}
    undeclared = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in _sources()
        for module in _imports(path)
        if module not in declared | own
    }
    assert not undeclared


def test_every_declared_dependency_is_used() -> None:
    declared = _names(_pyproject()["project"]["dependencies"])
    imported = {module for path in _sources() for module in _imports(path)}
    assert {name for name in declared if _module(name) not in imported} <= set(
        NEEDED_BUT_NOT_IMPORTED
    )
    assert set(NEEDED_BUT_NOT_IMPORTED) <= declared


def test_readme_gives_one_command_to_train_and_one_to_test() -> None:
    train, test = _install_commands()
    assert "papermill notebooks/finetuning.ipynb" in train
    assert "pytest" in test


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = _install_commands()[-1]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert command in script
    assert ".ci/run" in workflow or command in workflow


def _install_commands() -> list[str]:
    """The README's lines in `sh` fences that start from nothing: train first, test last."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    fences = re.findall(r"^```sh\n(.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    lines = [line for fence in fences for line in fence.splitlines()]
    commands = [line for line in lines if line.startswith("python3 -m pip install")]
    assert len(commands) == 2
    return sorted(commands, key=lambda command: "pytest" in command)


def _pyproject() -> dict[str, dict]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", requirement)[0] for requirement in requirements}


def _module(distribution: str) -> str:
    return "IPython" if distribution == "ipython" else distribution.replace("-", "_")


def _versions(lock: str) -> list[str]:
    return re.findall(r'^name = "[^"]+"\n(?:version = "[^"]+"\n)?', lock, flags=re.MULTILINE)


def _sources() -> Iterator[Path]:
    yield from sorted((ROOT / "src").rglob("*.py"))
    yield from sorted((ROOT / "notebooks").glob("*.ipynb"))


def _imports(path: Path) -> set[str]:
    """Top-level names of the modules that a module or a notebook imports, wherever it does."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        lines = [line for cell in cells for line in "".join(cell["source"]).splitlines()]
        text = "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found


def _git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True)


def _add(folder: Path, name: str, content: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    _git(folder, "add", name)


def _check(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the check with the given variables only, so that this machine's settings stay out."""
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder), **environment}
    command = [sys.executable, CHECK_ADDRESSES]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
