"""The CSV files that are shipped: their size, their encoding, and nothing twice."""

import csv
import re
import unicodedata
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from sarashina_grpo import DATASETS
from sarashina_grpo.recipes import get_recipe

SMALLTALK = DATASETS / "smalltalk.csv"
TINY_SMALLTALK = DATASETS / "tiny_smalltalk.csv"
EACH_FILE = pytest.mark.parametrize(
    "path", sorted(DATASETS.glob("*.csv")), ids=lambda path: path.name
)
TAG = re.compile(r"[<＜]\s*/?\s*\w+[^<>＜＞]*[>＞]")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def repeated(texts: list[str], at_most: int = 1) -> dict[str, int]:
    return {text: count for text, count in Counter(texts).items() if count > at_most}


def test_the_files_that_recipes_need_are_shipped() -> None:
    shipped = {path.name for path in DATASETS.glob("*.csv")}
    assert {"smalltalk.csv", "tiny_smalltalk.csv"} <= shipped


@EACH_FILE
def test_a_file_is_utf_8_without_a_byte_order_mark(path: Path) -> None:
    raw = path.read_bytes()
    assert not raw.startswith(b"\xef\xbb\xbf")
    assert unicodedata.is_normalized("NFC", raw.decode("utf-8"))


@EACH_FILE
def test_lines_end_in_lf_alone_and_the_last_one_once(path: Path) -> None:
    raw = path.read_bytes()
    assert b"\r" not in raw
    assert raw.endswith(b"\n")
    assert not raw.endswith(b"\n\n")


@EACH_FILE
def test_every_row_has_every_field_and_no_outer_white_space(path: Path) -> None:
    for row in rows(path):
        assert None not in row, row
        assert all(value and value == value.strip() for value in row.values()), row


@EACH_FILE
def test_nothing_invisible_is_in_a_text(path: Path) -> None:
    hidden = [
        row
        for row in rows(path)
        for text in row.values()
        if not text.replace("\n", "").isprintable()
    ]
    assert hidden == []


def test_smalltalk_has_a_prompt_and_a_language() -> None:
    assert list(rows(SMALLTALK)[0]) == ["prompt", "lang"]


def test_smalltalk_has_549_prompts_of_which_520_are_japanese() -> None:
    assert Counter(row["lang"] for row in rows(SMALLTALK)) == {"ja": 520, "en": 29}


def test_no_smalltalk_prompt_is_there_twice() -> None:
    assert repeated([fold(row["prompt"]) for row in rows(SMALLTALK)]) == {}


def test_no_more_than_three_smalltalk_prompts_begin_alike() -> None:
    assert repeated([row["prompt"][:6] for row in rows(SMALLTALK)], at_most=3) == {}


def test_no_smalltalk_prompt_has_tags() -> None:
    assert [row["prompt"] for row in rows(SMALLTALK) if TAG.search(row["prompt"])] == []


def test_each_smalltalk_prompt_is_in_the_language_it_says() -> None:
    japanese = re.compile(r"[ぁ-ゖァ-ヺ一-龯]")
    wrong = [
        row
        for row in rows(SMALLTALK)
        if bool(japanese.search(row["prompt"])) != (row["lang"] == "ja")
    ]
    assert wrong == []


def test_the_tiny_phrases_are_of_three_parts() -> None:
    assert {row["part"] for row in rows(TINY_SMALLTALK)} == {"thought", "opening", "closing"}


def test_no_tiny_phrase_is_there_twice() -> None:
    assert repeated([fold(row["text"]) for row in rows(TINY_SMALLTALK)]) == {}


def test_any_tiny_phrases_make_a_well_formed_completion() -> None:
    texts: dict[str, list[str]] = {"thought": [], "opening": [], "closing": []}
    for row in rows(TINY_SMALLTALK):
        texts[row["part"]].append(row["text"])
    tags = get_recipe("smalltalk").tags
    for thought, opening, closing in product(*texts.values()):
        assert tags.parses_in_layout(tags.render(thought, opening + closing))
