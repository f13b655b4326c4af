"""What the tiny model is shown: phrases of a book, put together."""

from pathlib import Path
from random import Random

import pytest

from sarashina_grpo.data import DatasetError
from sarashina_grpo.demonstrations import from_phrases, read_phrases

BOOK = """part,text
thought,t1
thought,t2
opening,o1
opening,o2
closing,c1
closing,c2
"""


def write(folder: Path, content: str) -> Path:
    path = folder / "phrases.csv"
    path.write_text(content, encoding="utf-8")
    return path


def test_phrases_are_read_by_part_in_file_order(tmp_path: Path) -> None:
    book = "text,part\nc1,closing\nt1,thought\no1,opening\nt2,thought\n"
    assert read_phrases(write(tmp_path, book)) == [["t1", "t2"], ["o1"], ["c1"]]


def test_a_demonstration_is_a_thought_and_an_opening_with_a_closing(tmp_path: Path) -> None:
    demonstrate = from_phrases(write(tmp_path, BOOK))
    random = Random(0)
    seen = {demonstrate("雨です。", random) for _ in range(300)}
    assert seen == {
        (thought, opening + closing)
        for thought in ("t1", "t2")
        for opening in ("o1", "o2")
        for closing in ("c1", "c2")
    }


def test_the_same_seed_demonstrates_the_same(tmp_path: Path) -> None:
    demonstrate = from_phrases(write(tmp_path, BOOK))

    def twenty(seed: int) -> list[tuple[str, str]]:
        random = Random(seed)
        return [demonstrate("雨です。", random) for _ in range(20)]

    assert twenty(5) == twenty(5)
    assert twenty(5) != twenty(6)


def test_an_unknown_part_is_refused_with_its_row(tmp_path: Path) -> None:
    path = write(tmp_path, BOOK + "middle,m1\n")
    with pytest.raises(DatasetError) as refused:
        read_phrases(path)
    message = str(refused.value)
    assert message.startswith(f"{path}, row 8, column 'part'")
    assert "got 'middle'" in message
    assert "'thought', 'opening', 'closing'" in message


@pytest.mark.parametrize("part", ["thought", "opening", "closing"])
def test_a_book_without_one_of_the_parts_is_refused(tmp_path: Path, part: str) -> None:
    lines = [line for line in BOOK.splitlines() if not line.startswith(f"{part},")]
    path = write(tmp_path, "\n".join(lines))
    with pytest.raises(DatasetError, match="at least one text is needed") as refused:
        read_phrases(path)
    assert str(refused.value).startswith(str(path))


@pytest.mark.parametrize("column", ["part", "text"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    path = write(tmp_path, BOOK.replace(column, "other", 1))
    with pytest.raises(DatasetError, match=f"column '{column}' is missing"):
        read_phrases(path)


def test_a_missing_book_is_named_when_it_is_needed(tmp_path: Path) -> None:
    demonstrate = from_phrases(tmp_path / "none.csv")
    with pytest.raises(DatasetError, match=r"none\.csv"):
        demonstrate("雨です。", Random(0))
