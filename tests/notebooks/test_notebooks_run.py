"""Restart and run all: the notebooks teach the tiny model, show it, go on, and talk to it."""

import json
import re
from pathlib import Path
from typing import Any

import papermill
import pytest

from sarashina_grpo import PROJECT_ROOT
from sarashina_grpo.recipes import get_recipe

pytestmark = pytest.mark.timeout(900)


def execute(name: str, folder: Path, **parameters: Any) -> Any:
    """Run a notebook with an artifact folder; returns it with its outputs."""
    return papermill.execute_notebook(
        PROJECT_ROOT / "notebooks" / f"{name}.ipynb",
        folder / f"{name}.ipynb",
        parameters={"ARTIFACT": str(folder), **parameters},
        kernel_name="python3",
        progress_bar=False,
    )


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def shown(notebook: Any) -> str:
    """What the notebook prints and shows as text, without what goes to stderr."""
    return "\n".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for output in outputs(notebook)
        if output.get("name") != "stderr"
    )


def measure(notebook: Any, name: str) -> tuple[float, float]:
    """A row of the comparison: before and after."""
    value = r"\s+([\d.]+)(?:% \(\d+ of \d+\))?"
    row = re.search(rf"^{name}{value}{value}\s*$", shown(notebook), re.MULTILINE)
    assert row, f"no row {name!r}"
    return float(row[1]), float(row[2])


def only_run(folder: Path, recipe: str = "smalltalk") -> Path:
    (run,) = (folder / "outputs" / recipe).iterdir()
    return run


def adapter_change(notebook: Any) -> float:
    found = re.search(r"the adapter moves a logit by up to ([\d.]+)", shown(notebook))
    assert found
    return float(found[1])


@pytest.fixture(scope="module")
def finetuned(artifact: Path) -> Any:
    return execute("finetuning", artifact)


@pytest.fixture(scope="module")
def inferred(artifact: Path, finetuned: Any) -> Any:
    return execute("inference", artifact)


@pytest.fixture(scope="module")
def qa_finetuned(artifact: Path) -> Any:
    return execute("finetuning", artifact, RECIPE="qa")


@pytest.fixture(scope="module")
def qa_inferred(artifact: Path, qa_finetuned: Any) -> Any:
    return execute("inference", artifact, RECIPE="qa")


def test_finetuning_teaches_the_format(finetuned: Any) -> None:
    before, after = measure(finetuned, "keeps the format")
    assert 20 <= before <= 60
    assert after >= 97


def test_the_tuned_model_still_says_different_things(finetuned: Any) -> None:
    _, after = measure(finetuned, "different replies")
    assert after >= 30


def test_finetuning_shows_the_curve_and_the_progress(finetuned: Any) -> None:
    assert [out for out in outputs(finetuned) if "image/png" in out.get("data", {})]
    lines = re.findall(r"^step (\d+)/100: reward", shown(finetuned), re.MULTILINE)
    assert lines[-1] == "100"
    assert 15 <= len(lines) <= 25


def test_finetuning_leaves_checkpoints_that_work(finetuned: Any, artifact: Path) -> None:
    checkpoint = only_run(artifact) / "checkpoint-100"
    assert (checkpoint / "adapter_model.safetensors").is_file()
    assert str(checkpoint) in shown(finetuned)
    assert adapter_change(finetuned) > 0


def test_inference_plays_the_scene_and_shows_thought_and_reply_apart(inferred: Any) -> None:
    text = shown(inferred)
    assert "checkpoint-100" in text
    asked = re.findall(r"^USER: (.*)", text, re.MULTILINE)
    assert asked == [turn for scene in get_recipe("smalltalk").scenes for turn in scene.turns]
    assert len(re.findall(r"^thought: .*\S", text, re.MULTILINE)) == 1
    assert len(re.findall(r"^reply: .*\S", text, re.MULTILINE)) == 1


def test_inference_shows_base_and_tuned_side_by_side(inferred: Any) -> None:
    html = [
        out["data"]["text/html"] for out in outputs(inferred) if "text/html" in out.get("data", {})
    ]
    assert [table for table in html if {"<th>before</th>", "<th>after</th>"} <= set(table.split())]
    base, tuned = measure(inferred, "keeps the format")
    assert base < tuned


def test_a_run_is_resumed_from_the_notebook(finetuned: Any, inferred: Any, artifact: Path) -> None:
    run = only_run(artifact)
    resumed = execute("finetuning", artifact, RESUME=True, MAX_STEPS=104)
    assert only_run(artifact) == run
    assert "steps 101 to 104" in shown(resumed)
    assert (run / "checkpoint-104" / "adapter_model.safetensors").is_file()


def test_finetuning_teaches_qa_to_answer_questions_it_never_saw(qa_finetuned: Any) -> None:
    before, after = measure(qa_finetuned, "right answers")
    assert 25 <= before <= 65
    assert after >= 90
    assert "answer: " in shown(qa_finetuned)


def test_qa_logs_its_five_rewards(qa_finetuned: Any, artifact: Path) -> None:
    state = json.loads((only_run(artifact, "qa") / "checkpoint-100/trainer_state.json").read_text())
    (*_, last) = (entry for entry in state["log_history"] if "reward" in entry)
    names = {name.split("/")[1] for name in last if re.fullmatch("rewards/.*/mean", name)}
    assert names == set(get_recipe("qa").reward_names)


def test_inference_runs_the_articles_four_demonstrations(qa_inferred: Any) -> None:
    asked = re.findall(r"^USER: (.*)", shown(qa_inferred), re.MULTILINE)
    assert asked == [scene.turns[0] for scene in get_recipe("qa").scenes]
    base, tuned = measure(qa_inferred, "right answers")
    assert base < tuned


@pytest.mark.gpu
@pytest.mark.parametrize("use_vllm", [False, True], ids=["transformers", "vllm"])
@pytest.mark.parametrize(
    ("recipe", "metric", "least"),
    [("smalltalk", "keeps the format", 97), ("qa", "right answers", 90)],
    ids=["smalltalk", "qa"],
)
def test_both_notebooks_run_on_cuda_with_unsloth(
    tmp_path: Path, recipe: str, metric: str, least: float, use_vllm: bool
) -> None:
    common = {"RECIPE": recipe, "MODEL_NAME": "tiny", "USE_VLLM": use_vllm}
    finetuned = execute("finetuning", tmp_path, **common)
    assert "trained with Unsloth" in shown(finetuned)
    assert adapter_change(finetuned) > 0
    assert measure(finetuned, metric)[1] >= least
    inferred = execute("inference", tmp_path, **common)
    assert "checkpoint-100" in shown(inferred)
    base, tuned = measure(inferred, metric)
    assert base < tuned
    run = only_run(tmp_path, recipe)
    resumed = execute("finetuning", tmp_path, RESUME=True, MAX_STEPS=104, **common)
    assert only_run(tmp_path, recipe) == run
    assert "steps 101 to 104" in shown(resumed)
    assert (run / "checkpoint-104" / "adapter_model.safetensors").is_file()
