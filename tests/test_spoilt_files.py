"""Files as Excel, LibreOffice and Notepad spoil them: every row comes back, or an error says why.

What a sound CSV may hold, and the plain faults, are in `test_tables` and `test_data`.
"""

import csv
import gzip
import io
import re
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sarashina_grpo.recipe import Recipe
from sarashina_grpo.recipes import get_recipe
from sarashina_grpo.tables import DatasetError, read_table

SOLVED = "question,answer\n1+2は?,3だ。 #### 3\n"
LONG = "雨,\n" * 2**21
JAPANESE = "prompt,lang\nrain,ja\nｱﾒが①回、髙い所で降った~,ja\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def one_column() -> Recipe:
    recipe = get_recipe("smalltalk")
    return replace(recipe, source=replace(recipe.source, lang_column=None))


def recipe_for(content: bytes) -> Recipe:
    """The recipe whose columns a file is meant to have."""
    if b"question" in content:
        return get_recipe("qa")
    return get_recipe("smalltalk") if b"lang" in content else one_column()


def write(folder: Path, content: str | bytes, name: str = "prompts.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(recipe: Recipe, path: Path) -> tuple[list[str], list[str | None], dict[int, str]]:
    """The prompts, the answers, and the texts of the rows told as left out by their rows."""
    dataset, left_out = recipe.read_prompts(path)
    prompts = [messages[1]["content"] for messages in dataset["prompt"]]
    answers = list(dataset["answer"]) if "answer" in dataset.column_names else []
    return prompts, answers, {item.row: item.text for item in left_out}


def refusal(recipe: Recipe, path: Path) -> str:
    """What the error says behind the file's or folder's name."""
    with pytest.raises(DatasetError) as refused:
        recipe.read_prompts(path)
    message = str(refused.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 500
    return message.removeprefix(str(path))


def workbook() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", "<worksheet/>")
    return buffer.getvalue()


READ = {
    "lone CR": ("prompt,lang\r雨,ja\r風,ja\r", ["雨", "風"]),
    "all line ends": ("prompt,lang\r\n雨,ja\n風,ja\r雪,ja", ["雨", "風", "雪"]),
    "mark before a quoted header": ('\ufeff"prompt","lang"\r\n"雨","ja"\r\n', ["雨"]),
    "two byte order marks": ("\ufeff\ufeffprompt,lang\n雨,ja\n", ["雨"]),
    "CR and CRLF in a text": ('prompt,lang\r\n"a\rb\r\nc\nd",ja\r\n', ["a\rb\r\nc\nd"]),
    "line ends of Unicode in a text": ("prompt,lang\na\u2028b\x85c\x0bd\x0ce,ja\n", None),
    "NUL alone and last": ("prompt,lang\n\0,ja\nb\0,ja\n", ["\0", "b\0"]),
    "trailing empty columns": ("prompt,lang,,,\n雨,ja,,,\n,,,,\n風,ja,,,\n", ["雨", "風"]),
    "trailing columns left off": ("prompt,lang,,\n雨,ja,,\n風,ja\n", ["雨", "風"]),
    "lines above the header": ("\n,,\r\nprompt,lang\n雨,ja\n", ["雨"]),
    "columns swapped with their names": ("lang,prompt\nja,雨\nja,風\n", ["雨", "風"]),
    "other columns of one name": ("note,prompt,note,lang\na,雨,b,ja\n", ["雨"]),
    "quotation marks within a text": ('prompt,lang\n彼は"雨"と言う,ja\n', ['彼は"雨"と言う']),
    "blanks before quotation marks": ('prompt,lang\n "雨",ja\n', [' "雨"']),
    "nothing but quotation marks": ('prompt,lang\n"""""",ja\n', ['""']),
    "backslashes": ("prompt,lang\nC:\\雨\\,ja\n", ["C:\\雨\\"]),
    "mojibake": ("prompt,lang\né›¨ã\x81§ã\x81™,ja\n", ["é›¨ã\x81§ã\x81™"]),
    "replacement characters": ("prompt,lang\n��で,ja\n", ["��で"]),
    "formulas and comments": ("prompt,lang\n=1+1,ja\n# 雨,ja\n'風,ja\n", ["=1+1", "# 雨", "'風"]),
    "semicolons and tabs in the only column": ("prompt\n雨;風\n雪\t花\n", ["雨;風", "雪\t花"]),
    "half of an emoji, escaped": ("prompt,lang\n\\ud83d,ja\n", ["\\ud83d"]),
    "a field of 10 MB": (f'prompt,lang\n"{LONG}",ja\n風,ja\n', [LONG, "風"]),
}


@pytest.mark.parametrize(("content", "prompts"), READ.values(), ids=READ)
def test_a_spoilt_file_is_read_to_the_last_character(
    tmp_path: Path, content: str, prompts: list[str] | None
) -> None:
    expected = prompts or [content.removeprefix("prompt,lang\n").removesuffix(",ja\n")]
    recipe = recipe_for(content.encode())
    assert read(recipe, write(tmp_path, content)) == (expected, [], {})


@pytest.mark.parametrize(
    ("line", "question", "answer"),
    [
        ("なぜ?", "なぜ?", None),
        ("なぜ?,   ", "なぜ?", None),
        ('"りんご、\nなし?",2個 #### 2', "りんご、\nなし?", "2"),
        ('"""りんご""?","""2"" #### 2"', '"りんご"?', "2"),
        ("#### 4 とは?,見出し。", "#### 4 とは?", None),
    ],
    ids=["short row", "blank answer", "quoted newline", "doubled quotes", "mark in a question"],
)
def test_a_question_and_its_answer_stay_together(
    tmp_path: Path, line: str, question: str, answer: str | None
) -> None:
    path = write(tmp_path, f"\ufeff{SOLVED}{line}\r\n2+2は?,4だ。 #### 4")
    prompts, answers, left_out = read(get_recipe("qa"), path)
    assert prompts == ["1+2は?", question, "2+2は?"]
    assert answers == ["3", answer, "4"]
    assert left_out == {}


def test_what_is_left_out_is_told_by_its_row_behind_blank_lines(tmp_path: Path) -> None:
    content = '\nprompt,lang\n\n"ア\nメ",ja\n,\nrain,en\nｱ ﾒ,ja\n'
    expected = (["ア\nメ"], [], {6: "rain", 7: "ｱ ﾒ"})
    assert read(get_recipe("smalltalk"), write(tmp_path, content)) == expected


NOT_UTF_8 = "; save it as UTF-8"
QUOTE = "only a comma or a new row is accepted; write a quotation mark within a text twice"
REFUSED: dict[str, tuple[str | bytes, str, str]] = {
    "cp932 with kana and ①": (JAPANESE.encode("cp932"), ", row 3: not UTF-8", NOT_UTF_8),
    "EUC-JP": ("prompt,lang\n雨,ja\n".encode("euc-jp"), ", row 2: not UTF-8", NOT_UTF_8),
    "UTF-16 LE": (b"\xff\xfe" + JAPANESE.encode("utf-16-le"), ", row 1: not", "\\xff\\xfep"),
    "UTF-16 BE": (b"\xfe\xff" + JAPANESE.encode("utf-16-be"), ", row 1: not", "\\xfe\\xff"),
    "UTF-16 LE unmarked": (JAPANESE.encode("utf-16-le"), ", row 3: not UTF-8", NOT_UTF_8),
    "UTF-16 BE unmarked": (JAPANESE.encode("utf-16-be"), ", row 3: not UTF-8", NOT_UTF_8),
    "UTF-32": ("prompt,lang\n".encode("utf-32"), ", row 1: not UTF-8", NOT_UTF_8),
    "half a character": (JAPANESE.encode()[:-7], ", row 3: not UTF-8", NOT_UTF_8),
    "a spoilt byte": (b"prompt,lang\na,ja\nb\xffc,ja\n", ", row 3: not UTF-8", r"b'\xffc,ja\n'"),
    "a spoilt byte after CR": (b"prompt,lang\ra,ja\rb\xff,ja\r", ", row 3: not UTF-8", NOT_UTF_8),
    "a lone surrogate": (b"prompt,lang\n\xed\xa0\xbd,ja\n", ", row 2: not UTF-8", r"\xed\xa0"),
    "a spoilt byte behind a mark": (
        b"\xef\xbb\xbfprompt,lang\nb\xffc,ja\n",
        ", row 2: not",
        r"b'\xffc,",
    ),
    "semicolons in qa": ("question;answer\n1;2, 3\n", ": column 'question' is", "put commas"),
    "quoted semicolons": ('"question";"answer"\n"1";"2"\n', ", row 1: behind a closing", QUOTE),
    "tabs": ("prompt\tlang\n雨, 風\tja\n", ": column 'prompt' is missing", "put commas"),
    "Excel's line sep=": ("sep=,\nprompt,lang\n雨,ja\n", ": column 'prompt' is", "['sep=', '']"),
    "a title above": ("話の一覧\nprompt,lang\n雨,ja\n", ": column 'prompt'", "['話の一覧']"),
    "a header with blanks": ("prompt ,lang\n雨,ja\n", ": column 'prompt' is", "'prompt '"),
    "no header in qa": ("a question,#### 3\n", ": column 'question'", "['a question', '#### 3']"),
    "10 MB in the first line": ("雨ab" * 2**21, ": column 'prompt' is missing", "…"),
    "a column twice": ("prompt,lang,prompt\na,ja,b\n", ": column 'prompt' is there 2", "'lang'"),
    "answer twice": ("question,answer,answer\na,b,c\n", ": column 'answer' is there 2", "got the"),
    "swapped values": ("prompt,lang\nja,雨\n", ", row 2, column 'lang': ", "got '雨'"),
    "swapped values in qa": (
        "question,answer\n3だ。 #### 3,1+2は?\n4だ。 #### 4,2+2は?\nはて,なぜ?\n",
        ": 2 of 3 prompts hold '####' and no answer does",
        "are the columns 'question' and 'answer' swapped?",
    ),
    "ragged rows in qa": (SOLVED + "a,b,c\n", ", row 3: 2 columns are expected, got 3", "'c'"),
    "a comma in the only column": ("prompt\n雨, 風\n", ", row 2: 1 columns are expected", "quot"),
    "an open quotation mark": (f'{SOLVED}"1,2\n', ", row 3: a quotation mark is left open", ""),
    "open to the end of a long file": (
        f'{SOLVED}"1,2\n' + "3,4\n" * 9999,
        ", row 3: a quotation",
        "",
    ),
    "a stray mark that would swallow rows": (
        'prompt,lang\n花,ja\n"風,ja\n雪,ja\n"雨,ja\n月,ja\n',
        ", row 3: behind a closing quotation mark",
        QUOTE,
    ),
    "a text that begins with a quotation": ('prompt,lang\n"雨"です,ja\n', ", row 2: behind", QUOTE),
    "quotation marks escaped by \\": ('prompt,lang\n"a \\"b\\" c",ja\n', ", row 2: behind", QUOTE),
    "Ctrl-Z at the end": ("prompt,lang\n雨,ja\n\x1a", ", row 3, column 'lang': a text", "got ''"),
    "blank cells in qa": (f"{SOLVED}\u3000,#### 2\n", ", row 3, column 'question'", "\\u3000"),
    "commas only": (",,\n,,\n", ": the file is empty", ""),
    "NULs only": (b"\0" * 64, ": column 'prompt' is missing", r"\x00"),
    "an Excel workbook": (workbook(), ": this is an Excel workbook or a ZIP archive", "give a CSV"),
    "an old Excel workbook": (b"\xd0\xcf\x11\xe0\0", ": this is an Excel workbook", "give a CSV"),
    "gzip": (gzip.compress(JAPANESE.encode()), ": this is a gzip archive", "give a CSV"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), ", row 1: not UTF-8", r"\x89PNG"),
    "a web page": ("<html>\n<a>b</a>\n</html>\n", ": column 'prompt' is", "<html>"),
}


@pytest.mark.parametrize(("content", "place", "seen"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_read_whole_is_refused(
    tmp_path: Path, content: str | bytes, place: str, seen: str
) -> None:
    path = write(tmp_path, content)
    message = refusal(recipe_for(path.read_bytes().replace(b"\0", b"")), path)
    assert message.startswith(place)
    assert seen in message


SPOILT_IN_A_FOLDER = [
    "cp932 with kana and ①",
    "a column twice",
    "ragged rows in qa",
    "a stray mark that would swallow rows",
    "an Excel workbook",
]


@pytest.mark.parametrize("fault", SPOILT_IN_A_FOLDER)
def test_a_file_in_a_folder_is_refused_as_one_alone(tmp_path: Path, fault: str) -> None:
    content, place, _ = REFUSED[fault]
    path = write(tmp_path / "prompts.csv", content, "a.csv")
    message = refusal(recipe_for(path.read_bytes()), path.parent)
    assert message.startswith(f"/a.csv{place}")


def test_a_folder_of_csv_files_is_read_like_each_alone(tmp_path: Path) -> None:
    folder = tmp_path / "prompts.csv"
    write(folder, "prompt,lang\nNA,ja\n\n1.0,ja\n", "a.csv")
    write(folder, "lang,prompt\nja,null\nen,rain\n", "b.csv")
    expected = (["NA", "1.0", "null"], [], {4: "rain"})
    assert read(get_recipe("smalltalk"), folder) == expected


@pytest.mark.parametrize("name", ["a.json", "a.parquet"])
def test_half_an_archive_in_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "prompts", b"PK\x03\x04\0", name).parent
    assert refusal(get_recipe("smalltalk"), folder).startswith(": cannot be loaded (")


def test_an_empty_folder_with_the_name_of_a_csv_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "prompts.csv"
    folder.mkdir()
    assert "give a CSV" in refusal(get_recipe("smalltalk"), folder)


def test_of_many_rows_none_is_lost(tmp_path: Path) -> None:
    rows = [[f"{number}回目の雨、\nですか?", "ja"] for number in range(50_000)]
    english, doubles = {7: ["rain", "en"], 49_999: ["wind", "en"]}, range(10_000, 50_000, 10_001)
    for row, fields in english.items():
        rows[row] = fields
    for row in doubles:
        rows[row] = rows[row - 1]
    path = tmp_path / "prompts.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "lang"], *rows])
    prompts, _, left_out = read(get_recipe("smalltalk"), path)
    told = {*english, *doubles}
    assert left_out == {row + 2: rows[row][0] for row in sorted(told)}
    assert prompts == [text for row, (text, _) in enumerate(rows) if row not in told]


SOUND = re.compile(r'(?:(?:"(?:[^"]|"")*"|(?!")[^,\r\n]*)(?:,|\r\n?|\n|\Z))*')
"""Fields that are in quotation marks from end to end, or do not begin with one."""
STRUCTURE = str.maketrans("", "", '",\r\n')
AWKWARD = ['"', '"', '""', ",", ",", "\n", "\r\n", "\r", *";\t\0 \ufeffa1雨①ｱ\u2028\x1a#"]
ENCODINGS = ["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp932"]
AWKWARD_TEXT = st.lists(st.sampled_from(AWKWARD), max_size=20).map("".join)
IN_HASTE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@settings(IN_HASTE, max_examples=1000)
@given(
    header=st.sampled_from([b"", b"prompt\n", b"question,answer\r\n", b"prompt,lang\n"]),
    text=AWKWARD_TEXT,
    encoding=st.sampled_from(ENCODINGS),
    rest=st.just(b"") | st.binary(),
)
def test_of_any_bytes_all_is_read_or_an_error_says_why(
    header: bytes, text: str, encoding: str, rest: bytes
) -> None:
    content = header + text.encode(encoding, "ignore") + rest
    recipe = recipe_for(header)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), content)
        try:
            prompts, _, left_out = read(recipe, path)
        except DatasetError as error:
            assert str(error).startswith(str(path))
            return
        table = read_table(path, recipe.source.columns)
    assert len(prompts) + len(left_out) == len(table)
    found, written = [*table.columns, *table.to_numpy().flat], content.decode("utf-8-sig")
    assert "".join(found).translate(STRUCTURE) == written.translate(STRUCTURE)
    assert SOUND.fullmatch(written)


@st.composite
def written_tables(draw: st.DrawFn) -> tuple[list[list[str]], bytes, dict[str, Any]]:
    """Rows of question and answer, the file that Python's csv writes of them, and how."""
    encoding = draw(st.sampled_from(ENCODINGS))
    # cp932 has bytes for the last six, but reads others back.
    characters = st.characters(codec=encoding.removesuffix("-sig"), exclude_characters="¢£¬‖−〜")
    texts = st.text(characters, max_size=12)
    rows = draw(st.lists(st.lists(texts, min_size=2, max_size=2), min_size=1, max_size=6))
    dialect = {
        "delimiter": draw(st.sampled_from(",,,;\t")),
        "lineterminator": draw(st.sampled_from(["\n", "\r\n", "\r"])),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])),
    }
    # Of line ends, Python 3.11 quotes its own only.
    if any({"\r", "\n"} & set(text) for row in rows for text in row):
        dialect["quoting"] = csv.QUOTE_ALL
    file = io.StringIO(newline="")
    csv.writer(file, **dialect).writerows([["question", "answer"], *rows])
    return rows, file.getvalue().encode(encoding), {**dialect, "text": file.getvalue()}


@IN_HASTE
@given(written_tables())
def test_what_is_written_comes_back_unless_it_has_no_commas_or_another_encoding(
    written: tuple[list[list[str]], bytes, dict[str, Any]],
) -> None:
    rows, content, how = written
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = None
    # A few bytes of half-width kana are UTF-8, too: nobody can tell which was meant.
    assume(text is None or text == how["text"].removeprefix("\ufeff") or "\0" in text)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), content)
        if text is None:
            assert "not UTF-8" in refusal(get_recipe("qa"), path)
        elif how["delimiter"] != "," or text[0] == "\0" or text[1] == "\0":
            refusal(get_recipe("qa"), path)
        else:
            table = read_table(path, ["question", "answer"])
            assert table.to_numpy().tolist() == [row for row in rows if any(row)]


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9).filter(str.strip)


@IN_HASTE
@given(st.lists(TEXTS | st.sampled_from(["雨", " 雨", "ｱ", "ア"]), min_size=1, max_size=9))
def test_every_text_is_a_prompt_or_told_as_left_out(texts: Sequence[str]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["prompt"], *([text] for text in texts)])
    with tempfile.TemporaryDirectory() as folder:
        prompts, _, left_out = read(one_column(), write(Path(folder), file.getvalue()))
    kept = iter(prompts)
    assert [left_out.get(row) or next(kept) for row in range(2, len(texts) + 2)] == texts
    assert next(kept, None) is None
