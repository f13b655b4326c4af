"""Each notebook parameter, out of range, of the wrong type or against another: one sentence."""

from pathlib import Path
from typing import Any

import pytest

from sarashina_grpo import learnability, training
from sarashina_grpo.errors import UserError
from sarashina_grpo.recipes import get_recipe

OPENING = [
    ({"max_steps": 0}, "max_steps must be a whole number above 0, got 0"),
    ({"max_steps": "ten"}, "max_steps must be a whole number"),
    ({"max_steps": 1.5}, "got 1.5"),
    ({"max_steps": True}, "got True"),
    ({"seed": -1}, "seed must be a whole number from 0 to 2**32 - 1, got -1"),
    ({"seed": 2**32}, "got 4294967296"),
    ({"seed": "now"}, "got 'now'"),
    ({"completions": 7}, "make it a multiple of that"),
    ({"completions": 0}, "per_device_train_batch_size must be a whole number above 0, got 0"),
    ({"model_name": 5}, "MODEL_NAME must be a name, a folder or None, got 5"),
    ({"resume": "yes"}, "RESUME must be True or False, got 'yes'"),
    ({"resume": True}, "set RESUME = False"),
    ({"japanese_reward": "yes"}, "JAPANESE_REWARD must be True, False or None"),
    ({"distinct_thought_reward": 1}, "DISTINCT_THOUGHT_REWARD must be True, False or None"),
    ({"artifact": 5}, "ARTIFACT must be a folder, got 5"),
    ({"artifact": __file__}, "is a file"),
    ({"artifact": "/proc/nothing"}, "cannot be made"),
    ({"dataset": "nothing.csv"}, "nothing.csv: cannot be read"),
    ({"dataset": 5}, "DATASET must be a file, a folder, a Hub name or None, got 5"),
]
PLANNING = [
    ({"use_vllm": True}, "USE_VLLM=True needs a CUDA GPU"),
    ({"load_in_4bit": True}, "LOAD_IN_4BIT=True needs a CUDA GPU"),
    ({"use_vllm": "maybe"}, "USE_VLLM must be True, False or \"auto\", got 'maybe'"),
    ({"load_in_4bit": None}, "got None"),
]


def assert_a_sentence(error: BaseException, expected: str) -> None:
    assert isinstance(error, UserError), type(error)
    assert expected in str(error)
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 400


@pytest.mark.parametrize("name", ["poetry", "", "../qa", 5, None, ["qa"]], ids=repr)
def test_an_unknown_recipe_is_refused_with_those_there_are(name: Any) -> None:
    with pytest.raises(KeyError) as refused:
        get_recipe(name)
    assert_a_sentence(refused.value, f"no recipe {name!r}; there are qa, smalltalk")


@pytest.mark.parametrize(("parameters", "expected"), OPENING, ids=repr)
def test_what_a_run_cannot_start_with_is_refused(
    parameters: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError) as refused:
        training.open_run(get_recipe("smalltalk"), None, **{"artifact": tmp_path, **parameters})
    assert_a_sentence(refused.value, expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("parameters", "expected"), PLANNING, ids=repr)
def test_what_needs_another_machine_is_refused(
    parameters: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    run = training.open_run(get_recipe("smalltalk"), None, artifact=tmp_path)
    with pytest.raises(ValueError) as refused:
        training.plan_for(run, None, **parameters)
    assert_a_sentence(refused.value, expected)


@pytest.mark.parametrize("name", ["no/such-model", "nowhere", "/nowhere", ""])
def test_a_model_that_is_not_there_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    run = training.open_run(
        get_recipe("smalltalk"), None, model_name=name or str(tmp_path), artifact=tmp_path
    )
    with pytest.raises(ValueError) as refused:
        training.load_policy(run, training.plan_for(run, None))
    assert_a_sentence(refused.value, "cannot be read as a model")


@pytest.mark.parametrize("count", [-1, 0, 2.5, "all", True])
def test_a_count_of_prompts_to_scan_is_a_whole_number(count: Any) -> None:
    with pytest.raises(ValueError) as refused:
        learnability.first(get_recipe("qa").load_dataset(), count)
    assert_a_sentence(
        refused.value, f"SCAN_PROMPTS must be a whole number, 0 for none, got {count!r}"
    )


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        ("latest", "set CHECKPOINT = None"),
        ("nowhere/checkpoint-3", "is no checkpoint"),
        (3, 'CHECKPOINT must be "latest", a folder or None, got 3'),
    ],
)
def test_a_checkpoint_that_is_not_there_is_refused(
    checkpoint: Any, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError) as refused:
        training.open_model(get_recipe("qa"), None, checkpoint=checkpoint, artifact=tmp_path)
    assert_a_sentence(refused.value, expected)
