"""The report: what is in it, and that nothing a model says gets out of its place."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from sarashina_grpo import report
from sarashina_grpo.evaluation import Evaluation
from sarashina_grpo.recipes import get_recipe

TAGS = get_recipe("smalltalk").tags


class Page(HTMLParser):
    """The elements, attributes and texts that a browser would see."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(hostile_report: Path) -> Page:
    return Page(hostile_report.read_text(encoding="utf-8"))


def test_nothing_that_was_said_becomes_markup(page: Page) -> None:
    assert page.elements.count("script") == 1
    assert {"img", "iframe", "object", "link", "a"}.isdisjoint(page.elements)
    assert page.elements.count("meta") == 4
    assert [name for name, _ in page.attributes if name.startswith("on")] == []


def test_what_was_said_is_shown_as_it_was(page: Page, hostile_texts: tuple[str, ...]) -> None:
    for text in hostile_texts:
        shown = text.encode("utf-8", "replace").decode()
        assert shown.replace("\x00", "\ufffd") in page.text.replace("\x00", "\ufffd")


def test_nothing_is_fetched_from_elsewhere(hostile_report: Path) -> None:
    source = hostile_report.read_text(encoding="utf-8")
    for attribute in re.findall(r"<[^>]*\s(?:src|href|xlink:href)=\"([^\"]*)\"", source):
        assert attribute.startswith("#")
    assert "default-src 'none'" in source
    assert "@import" not in source


def test_the_parts_are_there(page: Page) -> None:
    for part in ("Before and after", "Verdict", "Rewards", "What it says", "Settings", "Versions"):
        assert part in page.text
    assert "learning_rate" in page.text
    assert "keeps the format" in page.text
    assert "A loss near 0 is normal for GRPO" in page.text


def evaluation(*completions: str) -> Evaluation:
    prompts = [f"prompt {number}" for number in range(len(completions))]
    parsed = [TAGS.parse(text) for text in completions]
    return Evaluation(prompts, list(completions), parsed, [None] * len(completions))


def test_samples_that_changed_come_first() -> None:
    good = TAGS.render("a", "b")
    samples = report.pair(evaluation(good, "bad", "bad"), evaluation(good, "bad", good))
    assert [sample.prompt for sample in samples] == ["prompt 2", "prompt 0", "prompt 1"]
    assert samples[0].before.parsed is None
    assert samples[0].after.parsed == TAGS.parse(good)


def test_a_figures_black_follows_the_page() -> None:
    figure = Figure()
    figure.subplots().set_title("</svg><script>")
    svg = report.inline_svg(figure)
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert "#000000" not in svg
    assert "<script>" not in svg
