"""What somebody else made is read and shown, and never run; nobody's token is told."""

import argparse
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from jupyter_server.serverapp import ServerApp
from tensorboard.plugins.core.core_plugin import CorePluginLoader

from sarashina_grpo import PROJECT_ROOT, report, training
from sarashina_grpo.__main__ import main
from sarashina_grpo.backend import BackendError, load_adapter, load_base, read_shape, torch
from sarashina_grpo.errors import UserError
from sarashina_grpo.evaluation import Evaluation
from sarashina_grpo.hardware import Plan, cpu_plan
from sarashina_grpo.recipe import Recipe
from sarashina_grpo.training import Run, RunError

STEPS = 2
TOKEN = "hf_" + "aToken" * 6
PICKLES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
REMOTE_CODE = "from pathlib import Path\nPath({marker!r}).touch()\nclass Custom: pass\n"
FENCED_COMMAND = re.compile(r"\buv run (?:jupyter lab|tensorboard)[^`\n]*")


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (str(self.marker), "w")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The file that is there once anything hostile has run."""
    return tmp_path / "was-run"


@pytest.fixture
def model(recipe: Recipe, plan: Plan, artifact: Path, tmp_path: Path) -> Path:
    """A model's folder of the test's own."""
    folder = tmp_path / "model"
    shutil.copytree(training.base_model(recipe, "tiny", 0, artifact), folder)
    return folder


@pytest.fixture(scope="module")
def trained(with_checkpoint: Callable[[int], Path]) -> Path:
    """An artifact folder with one checkpoint."""
    return with_checkpoint(1)


@pytest.fixture
def stopped(in_small_steps: Callable[..., Recipe], trained: Path, tmp_path: Path) -> Run:
    """A run of the test's own that has a step to go."""
    folder = tmp_path / "stopped"
    shutil.copytree(trained, folder)
    recipe = in_small_steps(max_steps=STEPS, save_steps=1)
    run = training.open_run(recipe, None, resume=True, artifact=folder)
    assert run.checkpoint is not None
    return run


def edit(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def assert_refused(error: BaseException, marker: Path, *parts: str) -> None:
    assert not marker.exists()
    assert isinstance(error, UserError)
    assert len(str(error).splitlines()) == 1
    for part in parts:
        assert part in str(error)


def test_the_bomb_goes_off_where_nobody_takes_care(tmp_path: Path, marker: Path) -> None:
    torch.save(Bomb(marker), tmp_path / "bomb.pt")
    torch.load(tmp_path / "bomb.pt", weights_only=False)
    assert marker.exists()


def test_a_model_with_pickled_weights_only_is_refused(
    recipe: Recipe, plan: Plan, model: Path, marker: Path
) -> None:
    (model / "model.safetensors").unlink()
    torch.save(Bomb(marker), model / "pytorch_model.bin")
    with pytest.raises(BackendError) as refused:
        load_base(model, recipe.tiny.settings, plan, seed=0)
    assert_refused(refused.value, marker, str(model), "no model.safetensors", "pickled weights")


def test_pickled_weights_beside_others_are_not_read(
    recipe: Recipe, plan: Plan, model: Path, marker: Path
) -> None:
    torch.save(Bomb(marker), model / "pytorch_model.bin")
    assert load_base(model, recipe.tiny.settings, plan, seed=0).model is not None
    assert not marker.exists()


def test_a_configuration_cannot_point_to_pickled_weights(
    recipe: Recipe, plan: Plan, model: Path, marker: Path
) -> None:
    torch.save(Bomb(marker), model / "adapter_model.bin")
    edit(model / "config.json", transformers_weights="adapter_model.bin")
    with pytest.raises(BackendError) as refused:
        load_base(model, recipe.tiny.settings, plan, seed=0)
    assert_refused(refused.value, marker, str(model))


def test_an_index_cannot_point_to_pickled_weights(
    recipe: Recipe, plan: Plan, model: Path, marker: Path
) -> None:
    (model / "model.safetensors").unlink()
    torch.save(Bomb(marker), model / "part.bin")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "part.bin"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BackendError) as refused:
        load_base(model, recipe.tiny.settings, plan, seed=0)
    assert_refused(refused.value, marker, str(model))


@pytest.mark.parametrize("read", ["shape", "weights"])
def test_a_model_that_needs_code_of_its_own_is_refused_without_a_question(
    recipe: Recipe,
    plan: Plan,
    model: Path,
    marker: Path,
    read: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    (model / "custom.py").write_text(REMOTE_CODE.format(marker=str(marker)))
    classes = {"AutoConfig": "custom.Custom", "AutoModelForCausalLM": "custom.Custom"}
    edit(model / "config.json", model_type="custom", auto_map=classes)
    with pytest.raises(BackendError) as refused:
        if read == "shape":
            read_shape(str(model))
        else:
            load_base(model, recipe.tiny.settings, plan, seed=0)
    assert_refused(refused.value, marker, str(model), "code of its own, which is not run")


def test_code_beside_a_known_model_is_left_alone(
    recipe: Recipe, plan: Plan, model: Path, marker: Path
) -> None:
    (model / "custom.py").write_text(REMOTE_CODE.format(marker=str(marker)))
    classes = {"AutoConfig": "custom.Custom", "AutoModelForCausalLM": "custom.Custom"}
    edit(model / "config.json", auto_map=classes)
    edit(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["custom.Custom", None]})
    policy = load_base(model, recipe.tiny.settings, plan, seed=0)
    assert policy.model.config.model_type == "llama"
    assert not marker.exists()


def test_a_pickled_adapter_is_not_read(
    recipe: Recipe, plan: Plan, stopped: Run, model: Path, marker: Path
) -> None:
    assert stopped.checkpoint is not None
    (stopped.checkpoint / "adapter_model.safetensors").unlink()
    torch.save(Bomb(marker), stopped.checkpoint / "adapter_model.bin")
    with pytest.raises(BackendError) as refused:
        load_adapter(model, stopped.checkpoint, stopped.settings, plan, seed=0)
    assert_refused(refused.value, marker, "has no adapter_model.safetensors")
    for wanted in ("latest", str(stopped.checkpoint)):
        with pytest.raises(RunError) as missing:
            training.open_model(recipe, None, checkpoint=wanted, artifact=stopped.artifact)
        assert_refused(missing.value, marker, "no checkpoint")
    with pytest.raises(RunError) as nothing:
        training.open_run(stopped.recipe, None, resume=True, artifact=stopped.artifact)
    assert_refused(nothing.value, marker, "has a checkpoint to resume from")


@pytest.mark.parametrize("name", PICKLES)
def test_a_resumed_checkpoint_holds_nothing_that_is_run(
    stopped: Run, marker: Path, name: str, train_to_end: Callable[[Run], Any]
) -> None:
    assert stopped.checkpoint is not None
    assert (stopped.checkpoint / name).is_file()
    torch.save({"state": Bomb(marker)}, stopped.checkpoint / name)
    with pytest.raises(RunError) as refused:
        train_to_end(stopped)
    assert_refused(refused.value, marker, name, str(stopped.checkpoint), "RESUME = False")
    assert "weights_only" not in str(refused.value)


def test_the_trainers_own_arguments_are_written_and_never_read(
    stopped: Run, marker: Path, train_to_end: Callable[[Run], Any]
) -> None:
    assert stopped.checkpoint is not None
    assert (stopped.checkpoint / "training_args.bin").is_file()
    torch.save(Bomb(marker), stopped.checkpoint / "training_args.bin")
    assert train_to_end(stopped).state.global_step == STEPS
    assert not marker.exists()


def test_a_checkpoint_has_no_other_pickles(stopped: Run) -> None:
    assert stopped.checkpoint is not None
    others = {".pt", ".pth", ".bin", ".pkl"}
    found = {path.name for path in stopped.checkpoint.rglob("*") if path.suffix in others}
    assert found == {*PICKLES, "training_args.bin"}


def test_the_doctor_tells_no_token(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, TOKEN)
    assert main(["doctor"]) == 0
    out, said = capfd.readouterr()
    assert "transformers" in out
    assert TOKEN not in out + said


def test_a_run_and_its_report_hold_no_token(
    stopped: Run,
    train_to_end: Callable[[Run], Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    trainer = train_to_end(stopped)
    said = Evaluation(["p"], ["c"], [None], [None])
    steps = pd.DataFrame([entry for entry in trainer.state.log_history if "reward" in entry])
    history = steps.set_index("step").select_dtypes("number")
    path = report.write_report(stopped, cpu_plan(stopped.settings), history, said, said)
    assert path.is_file()
    fresh = training.open_run(stopped.recipe, None, artifact=stopped.artifact)
    assert (fresh.folder / training.RUN_FILE).is_file()
    written = [file for file in stopped.artifact.rglob("*") if file.is_file()]
    assert [file for file in written if TOKEN.encode() in file.read_bytes()] == []
    assert TOKEN not in "".join(capfd.readouterr())


def test_no_code_of_ours_asks_for_a_token() -> None:
    asks = re.compile(r"HF_TOKEN|HUGGING_FACE_HUB_TOKEN|get_token|hf_login|\btoken=")
    files = [
        path
        for folder in ("src", "notebooks", "benchmarks", "tools")
        for path in (PROJECT_ROOT / folder).rglob("*")
        if path.suffix in {".py", ".ipynb"}
    ]
    assert len(files) > 30
    assert [path for path in files if asks.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("readme", ["README.md", "README.ja.md"])
def test_the_readmes_servers_are_started_with_nothing_opened(readme: str) -> None:
    text = (PROJECT_ROOT / readme).read_text(encoding="utf-8")
    commands = [shlex.split(command) for command in FENCED_COMMAND.findall(text)]
    assert commands == [
        ["uv", "run", "jupyter", "lab"],
        ["uv", "run", "tensorboard", "--logdir", "artifact/logs"],
    ]


def test_left_alone_both_servers_keep_to_this_machine_and_jupyter_to_its_token() -> None:
    server = ServerApp()
    assert server.ip == "localhost"
    assert not server.allow_remote_access
    assert len(server.identity_provider_class().token) >= 32
    parser = argparse.ArgumentParser()
    CorePluginLoader().define_flags(parser)
    flags = parser.parse_args([])
    assert (flags.host, flags.bind_all) == (None, False)


def test_every_finding_that_is_let_pass_has_its_reason() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    security = (PROJECT_ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:GHSA|CVE|PYSEC)-\S+) \| \S+ \| .+ \|$", security, re.MULTILINE)
    assert sorted(project["tool"]["uv"]["audit"]["ignore"]) == sorted(rows)


def test_security_names_every_pickle_of_a_checkpoint() -> None:
    security = (PROJECT_ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| .+ \| (yes|never) \|$", security, re.MULTILINE)
    assert dict(rows) == {**dict.fromkeys(PICKLES, "yes"), "training_args.bin": "never"}
