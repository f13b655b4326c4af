"""The tiny model: what it is taught, that it is the same each time, and kept only whole."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sarashina_grpo import tiny
from sarashina_grpo.backend import transformers
from sarashina_grpo.data import split_dataset
from sarashina_grpo.demonstrations import read_solutions
from sarashina_grpo.hardware import Plan
from sarashina_grpo.recipe import Recipe
from sarashina_grpo.recipes import get_recipe
from sarashina_grpo.rewards.answer import is_correct, reply_of

WEIGHTS = "model.safetensors"


def with_lessons(recipe: Recipe, lessons: int) -> Recipe:
    (course,) = recipe.tiny.courses
    courses = (replace(course, lessons=lessons),)
    return replace(recipe, tiny=replace(recipe.tiny, courses=courses))


@pytest.fixture(scope="module")
def lessons(recipe: Recipe) -> list[tiny.Lesson]:
    return tiny.make_lessons(recipe, 0)


@pytest.fixture(scope="module")
def short(recipe: Recipe, plan: Plan) -> Recipe:
    """A recipe whose tiny model is built in a second, and learns nothing."""
    return with_lessons(recipe, 4)


@pytest.fixture(scope="module")
def built(short: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(short, 0, tmp_path_factory.mktemp("built"))


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    """The built folder in an artifact folder of its own, to be damaged."""
    return shutil.copytree(built, tmp_path / "tiny" / built.name)


def test_the_same_seed_gives_the_same_lessons(recipe: Recipe, lessons: list[tiny.Lesson]) -> None:
    assert tiny.make_lessons(recipe, 0) == lessons


def test_another_seed_gives_other_lessons(recipe: Recipe, lessons: list[tiny.Lesson]) -> None:
    assert tiny.make_lessons(recipe, 1) != lessons


def test_no_held_out_prompt_is_in_any_lesson(recipe: Recipe, lessons: list[tiny.Lesson]) -> None:
    parts = split_dataset(recipe.load_dataset(), 0)
    train, held_out = (
        {prompt[-1]["content"] for prompt in parts[name]["prompt"]}
        for name in ("train", "held_out")
    )
    said = {turn["content"] for lesson in lessons for turn in lesson.messages}
    assert said & train
    assert not said & held_out
    roles = "\n".join(text for text in said if text.startswith(recipe.system_prompt))
    distinct = {text for text in held_out if not any(text in other for other in train)}
    assert any(text in roles for text in train)
    assert distinct
    assert not [text for text in distinct if text in roles]


def test_about_as_many_lessons_are_well_formed_as_the_recipe_says(
    recipe: Recipe, lessons: list[tiny.Lesson]
) -> None:
    good = sum(recipe.tags.parse(lesson.completion) is not None for lesson in lessons)
    (course,) = recipe.tiny.courses
    assert good / len(lessons) == pytest.approx(course.well_formed, abs=0.03)


def test_qa_makes_no_mistake_in_its_first_course_and_many_in_the_second() -> None:
    qa = get_recipe("qa")
    assert qa.tiny.source is not None
    solutions = read_solutions(Path(str(qa.tiny.source.path)))
    lessons = tiny.make_lessons(qa, 0)
    right = [
        is_correct(
            reply_of(lesson.completion, qa.tags), solutions[lesson.messages[-1]["content"]][1]
        )
        for lesson in lessons
    ]
    first = qa.tiny.courses[0].lessons * qa.tiny.lesson_batch_size
    assert all(right[:first])
    assert 0.2 < sum(right[first:]) / len(right[first:]) < 0.5


def test_qa_is_taught_with_no_held_out_question() -> None:
    qa = get_recipe("qa")
    assert qa.tiny.source is not None
    held_out = split_dataset(qa.load_dataset(qa.tiny.source.path), 0)["held_out"]["prompt"]
    said = "\n".join(lesson.prompt for lesson in tiny.make_lessons(qa, 0))
    assert len(held_out) > 100
    assert not [prompt for prompt in held_out if prompt[-1]["content"] in said]


def test_every_eighth_batch_has_a_role_and_an_earlier_turn(
    recipe: Recipe, lessons: list[tiny.Lesson]
) -> None:
    size = recipe.tiny.lesson_batch_size
    assert len(lessons) == size * recipe.tiny.lessons
    for number, lesson in enumerate(lessons):
        long = number // size % 8 == 7
        roles = [turn["role"] for turn in lesson.messages]
        assert roles == ["system", *(["user", "assistant"] if long else []), "user"]
        assert (lesson.messages[0]["content"] != recipe.system_prompt) == long


def test_an_earlier_answer_keeps_to_the_format(recipe: Recipe, lessons: list[tiny.Lesson]) -> None:
    answers = [
        turn["content"]
        for lesson in lessons
        for turn in lesson.messages
        if turn["role"] == "assistant"
    ]
    assert answers
    assert all(recipe.tags.parse(answer) for answer in answers)


def test_a_lessons_prompt_is_what_the_chat_template_writes(
    built: Path, lessons: list[tiny.Lesson]
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(built)
    for lesson in (lessons[0], next(each for each in lessons if len(each.messages) == 4)):
        written = tokenizer.apply_chat_template(
            lesson.messages, tokenize=False, add_generation_prompt=True
        )
        assert written == lesson.prompt


def test_building_twice_gives_the_same_weights(short: Recipe, built: Path, tmp_path: Path) -> None:
    again = tiny.build(short, 0, tmp_path)
    assert again != built
    assert again.name == built.name
    assert (again / WEIGHTS).read_bytes() == (built / WEIGHTS).read_bytes()


@pytest.mark.parametrize(("lessons", "seed"), [(3, 0), (4, 1)], ids=["lessons", "seed"])
def test_other_lessons_or_another_seed_get_a_folder_of_their_own(
    short: Recipe,
    built: Path,
    tmp_path: Path,
    lessons: int,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mark(lessons: Any, recipe: Recipe, seed: int, folder: Path) -> None:
        (folder / "marked").touch()

    monkeypatch.setattr(tiny, "_teach", mark)
    assert tiny.build(with_lessons(short, lessons), seed, tmp_path).name != built.name


def test_a_second_build_reuses_the_folder(short: Recipe, copied: Path, tmp_path: Path) -> None:
    before = (copied / WEIGHTS).stat().st_mtime_ns
    assert tiny.build(short, 0, tmp_path) == copied
    assert (copied / WEIGHTS).stat().st_mtime_ns == before


def truncate_weights(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])


def remove_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def cut_manifest(folder: Path) -> None:
    path = folder / tiny.MANIFEST
    path.write_text(path.read_text()[:50])


def empty_manifest_and_weights(folder: Path) -> None:
    (folder / tiny.MANIFEST).write_text("{}")
    (folder / WEIGHTS).write_bytes(b"")


@pytest.mark.parametrize(
    "damage",
    [truncate_weights, remove_tokenizer, cut_manifest, empty_manifest_and_weights],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_folder_is_built_again(
    short: Recipe, built: Path, copied: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(copied)
    assert not tiny.is_intact(copied)
    assert tiny.build(short, 0, tmp_path) == copied
    assert tiny.is_intact(copied)
    assert (copied / WEIGHTS).read_bytes() == (built / WEIGHTS).read_bytes()


def test_nothing_is_left_behind_when_teaching_fails(
    short: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(lessons: Any, recipe: Recipe, seed: int, folder: Path) -> None:
        (folder / WEIGHTS).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny, "_teach", fail)
    with pytest.raises(KeyboardInterrupt):
        tiny.build(short, 0, tmp_path)
    assert list((tmp_path / "tiny").iterdir()) == []


def test_the_manifest_lists_every_other_file(built: Path) -> None:
    files = {path.name for path in built.iterdir()}
    assert set(json.loads((built / tiny.MANIFEST).read_text())) == files - {tiny.MANIFEST}


def test_the_model_has_about_a_million_parameters(built: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(built)
    assert 0.8e6 < sum(weight.numel() for weight in model.parameters()) < 1.3e6


def test_the_tags_survive_the_tokenizer(recipe: Recipe, built: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(built)
    text = recipe.tags.render(*recipe.example)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_of_two_that_build_it_at_once_the_slower_takes_what_is_there(
    short: Recipe, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_late(lessons: Any, recipe: Recipe, seed: int, folder: Path) -> None:
        shutil.copytree(built, tmp_path / "tiny" / built.name)
        (folder / WEIGHTS).touch()

    monkeypatch.setattr(tiny, "_teach", be_late)
    folder = tiny.build(short, 0, tmp_path)
    assert tiny.is_intact(folder)
    assert list((tmp_path / "tiny").iterdir()) == [folder]


def test_what_is_in_the_way_and_is_no_model_is_an_error(
    short: Recipe, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_in_the_way(lessons: Any, recipe: Recipe, seed: int, folder: Path) -> None:
        (tmp_path / "tiny" / built.name).mkdir()
        (tmp_path / "tiny" / built.name / "something").touch()

    monkeypatch.setattr(tiny, "_teach", be_in_the_way)
    with pytest.raises(OSError, match=built.name):
        tiny.build(short, 0, tmp_path)
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == [built.name]


def test_beside_unsloth_a_process_without_a_gpu_teaches_it(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []

    def run(command: list[str], check: bool, env: dict[str, str]) -> None:
        done.append((command, check, env))

    monkeypatch.setattr(tiny, "ENGINE", "Unsloth")
    monkeypatch.setattr(tiny.subprocess, "run", run)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    folder = tiny.build(recipe, 7, tmp_path)
    assert folder == tmp_path / "tiny" / tiny.folder_name(recipe, 7)
    ((command, check, environment),) = done
    arguments = ["-m", "sarashina_grpo.tiny", "smalltalk", "7", str(tmp_path)]
    assert (command, check) == ([sys.executable, *arguments], True)
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["OMP_NUM_THREADS"]) == ("", "3")
