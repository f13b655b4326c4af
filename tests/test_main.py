"""The command line: it evaluates, helps without torch, and says in a line what is wrong."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sarashina_grpo import training
from sarashina_grpo.__main__ import CHOICES, main
from sarashina_grpo.backend import BackendError
from sarashina_grpo.data import split_dataset
from sarashina_grpo.evaluation import describe_changes, from_json
from sarashina_grpo.recipe import Recipe

STEPS, PROMPTS = 3, 6
HELP_WITHOUT_TORCH = """
import sys
from sarashina_grpo.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as error:
    print(error.code, sorted({"torch", "transformers", "pandas", "datasets"} & set(sys.modules)))
"""


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def trained(with_checkpoint: Callable[[int], Path]) -> Path:
    """An artifact folder with one checkpoint, a few steps old."""
    return with_checkpoint(STEPS)


@pytest.fixture
def checkpoint(trained: Path) -> Path:
    (found,) = (trained / "outputs" / "smalltalk").glob(f"*/checkpoint-{STEPS}")
    return found


def evaluate(trained: Path, *arguments: str) -> int:
    return main(["evaluate", "smalltalk", "--artifact", str(trained), *arguments])


def test_it_compares_the_last_checkpoint_with_the_base_model(
    trained: Path, checkpoint: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(trained, "--prompts", str(PROMPTS), "--use-vllm", "false") == 0
    written = checkpoint.parent / "evaluation.json"
    before, after = from_json(written.read_text(encoding="utf-8"))
    held_out = split_dataset(recipe.load_dataset(), recipe.tiny.settings.seed)["held_out"]
    assert before.prompts == [row[-1]["content"] for row in held_out["prompt"][:PROMPTS]]
    assert before.completions != after.completions
    about = json.loads(written.read_text(encoding="utf-8"))["about"]
    assert (about["recipe"], about["model_name"]) == ("smalltalk", "tiny")
    assert about["checkpoint"] == str(checkpoint)
    assert (checkpoint.parent / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "keeps the format, 95% interval" in shown
    assert all(sentence in shown.splitlines() for sentence in describe_changes(before, after))


def test_the_seed_decides_what_is_drawn_and_not_what_is_asked(
    trained: Path, checkpoint: Path, tmp_path: Path
) -> None:
    evaluations = {}
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        folder = tmp_path / "new" / name
        options = ("--seed", str(seed), "--prompts", "3", "--output", str(folder))
        assert evaluate(trained, "--checkpoint", str(checkpoint), *options) == 0
        evaluations[name], _ = from_json((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluations["one"] == evaluations["again"]
    assert evaluations["one"].prompts == evaluations["two"].prompts
    assert evaluations["one"].completions != evaluations["two"].completions


def test_another_dataset_is_asked_about_where_one_is_named(trained: Path, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    rows = [f"{word}は好きですか,ja" for word in ("雨", "雪", "風", "海", "山")]
    table.write_text("\n".join(["prompt,lang", *rows]) + "\n", encoding="utf-8")
    assert evaluate(trained, "--dataset", str(table), "--output", str(tmp_path)) == 0
    before, _ = from_json((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert [f"{prompt},ja" in rows for prompt in before.prompts] == [True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "no recipe 'nope'; there are qa, smalltalk"),
        ([""], "no recipe ''; there are qa, smalltalk"),
        (["smalltalk", "--prompts", "0"], "prompts must be at least 1, got 0"),
        (["smalltalk", "--prompts", "-3"], "prompts must be at least 1, got -3"),
        (["smalltalk", "--seed", "-1"], "seed must be a whole number from 0 to 2**32 - 1, got -1"),
        (["smalltalk", "--seed", str(2**32)], "from 0 to 2**32 - 1, got 4294967296"),
        (["smalltalk", "--artifact", __file__], f"must be a folder, and {__file__} is a file"),
        (["smalltalk", "--seed", "None", "--artifact", "/nowhere"], "no checkpoint of the recipe"),
        (["smalltalk", "--artifact", "/nowhere"], "no checkpoint of the recipe 'smalltalk'"),
        (["smalltalk", "--checkpoint", "/nowhere"], "/nowhere is no checkpoint"),
        (["qa", "--checkpoint", "CHECKPOINT"], "was trained with RECIPE = 'smalltalk', not 'qa'"),
        (
            ["smalltalk", "--checkpoint", "CHECKPOINT", "--use-vllm", "true"],
            "USE_VLLM=True needs a CUDA GPU",
        ),
        (
            ["smalltalk", "--checkpoint", "CHECKPOINT", "--load-in-4bit", "true"],
            "LOAD_IN_4BIT=True needs a CUDA GPU",
        ),
        (
            ["smalltalk", "--checkpoint", "CHECKPOINT", "--model-name", "/nowhere/model"],
            "/nowhere/model",
        ),
        (
            ["smalltalk", "--checkpoint", "CHECKPOINT", "--dataset", "/nowhere.csv"],
            "/nowhere.csv",
        ),
        (
            ["smalltalk", "--checkpoint", "CHECKPOINT", "--output", "CHECKPOINT/optimizer.pt"],
            "output must be a folder to write to, and",
        ),
        (
            ["smalltalk", "--checkpoint", "CHECKPOINT", "--output", "/proc/nothing"],
            "output must be a folder to write to, and /proc/nothing is none",
        ),
        (
            ["smalltalk", "--checkpoint", "CHECKPOINT", "--output", "/proc"],
            "output must be a folder to write to, and /proc is none",
        ),
    ],
    ids=lambda value: " ".join(value).replace(__file__, "FILE") if isinstance(value, list) else "",
)
def test_what_people_can_mend_is_said_in_a_line(
    checkpoint: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [argument.replace("CHECKPOINT", str(checkpoint)) for argument in arguments]
    assert main(["evaluate", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_checkpoint_that_does_not_work_is_said_in_a_line(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise BackendError("the adapter's weights are all zero:\nit was never trained")

    monkeypatch.setattr(training, "load_trained", refuse)
    assert evaluate(trained) == 2
    said = capsys.readouterr().err
    assert said == "BackendError: the adapter's weights are all zero: it was never trained\n"


def test_a_fault_of_ours_keeps_its_traceback(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(training, "load_trained", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        evaluate(trained)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing subcommand Expected one of {evaluate, doctor}"),
        (["nope"], "Unrecognized options: nope Available subcommands: evaluate, doctor"),
        (["train", "smalltalk"], "Available subcommands: evaluate, doctor"),
        (["evaluate"], "Missing from python -m sarashina_grpo evaluate: RECIPE"),
        (["evaluate", "smalltalk", "qa"], "Unrecognized options: qa"),
        (["evaluate", "qa", "--promts", "3"], "Perhaps you meant: --prompts N"),
        (["doctor", "--seed", "1"], "misplaced options: --seed"),
        (["evaluate", "qa", "--seed"], "Missing value for argument '--seed'"),
        (["evaluate", "qa", "--seed", "now"], "--seed: a whole number is needed, got 'now'"),
        (["evaluate", "qa", "--prompts", "1.5"], "--prompts: a whole number is needed, got '1.5'"),
        (["evaluate", "qa", "--prompts", ""], "--prompts: a whole number is needed, got ''"),
        (
            ["evaluate", "qa", "--use-vllm", "perhaps"],
            "'perhaps' for argument '--use-vllm'. Expected one of ('auto', 'true', 'false')",
        ),
        (["evaluate", "qa", "--load-in-4bit", "yes"], "'yes' for argument '--load-in-4bit'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_line_that_makes_no_sense_exits_with_2_and_says_why(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    out, said = capsys.readouterr()
    assert message in " ".join(re.sub(r"[╭╮╰╯│─]|-{3,}", " ", said).split())
    assert out == ""


def test_doctor_is_told_a_folder() -> None:
    done = run_python("-m", "sarashina_grpo", "doctor", "--artifact", __file__)
    assert done.returncode == 2
    assert done.stderr == f"SettingError: artifact must be a folder, and {__file__} is a file\n"


@pytest.mark.parametrize("arguments", [["--help"], ["evaluate", "--help"], ["doctor", "--help"]])
def test_help_comes_without_the_heavy_libraries(arguments: list[str]) -> None:
    done = run_python("-c", HELP_WITHOUT_TORCH, *arguments)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    assert "usage: python -m sarashina_grpo" in done.stdout


def test_help_names_every_flag_and_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    text = capsys.readouterr().out
    for flag in ("checkpoint", "model-name", "dataset", "seed", "prompts", "use-vllm"):
        assert f"--{flag}" in text
    assert "The prompts held out" in text


def test_python_runs_it_as_a_module() -> None:
    done = run_python("-m", "sarashina_grpo", "evaluate", "nope")
    assert done.returncode == 2
    assert done.stderr == "UnknownRecipeError: no recipe 'nope'; there are qa, smalltalk\n"


def test_each_choice_of_a_flag_is_a_plans() -> None:
    assert list(CHOICES.values()) == ["auto", True, False]
