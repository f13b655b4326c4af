"""The reward lab: totals, reasons in words, and no exploit as good as an ideal completion."""

import pytest

from sarashina_grpo.recipes import get_recipe
from sarashina_grpo.rewards.lab import explain

RECIPE = get_recipe("smalltalk")
OPEN, CLOSE, REPLY, END = RECIPE.tags.tags
IDEAL = RECIPE.tags.render("雨だ。", "傘をどうぞ。")
EXPLOITS = {
    "empty tags": RECIPE.tags.render("", ""),
    "blank contents": RECIPE.tags.render(" ", "\u3000"),
    "zero-width contents": RECIPE.tags.render("\u200b", "\u2060"),
    "tag spam": "".join(RECIPE.tags.tags) * 50,
    "only the tags": "".join(RECIPE.tags.tags),
    "said twice": f"{IDEAL}\n{IDEAL}",
    "duplicated tag": f"{OPEN}{IDEAL}",
    "duplicated end": f"{IDEAL}{END}",
    "swapped": f"{REPLY}傘をどうぞ。{END}\n{OPEN}雨だ。{CLOSE}",
    "nested": f"{OPEN}雨だ。{REPLY}傘をどうぞ。{END}{CLOSE}",
    "no tags": "傘をどうぞ。",
    "nothing": "",
    "text after the end": f"{IDEAL}そして",
    "text before the start": f"はい。{IDEAL}",
    "text between": IDEAL.replace("\n", "さて"),
    "unclosed reply": IDEAL.removesuffix(END),
    "unclosed thought": IDEAL.replace(CLOSE, ""),
}


def test_the_table_has_a_row_a_text_and_a_column_a_reward() -> None:
    table = explain([IDEAL, "雨"], RECIPE)
    assert list(table.columns) == ["text", *RECIPE.reward_names, "total", "why"]
    assert table["text"].tolist() == [IDEAL, "雨"]


def test_the_total_is_the_sum_of_the_rewards() -> None:
    table = explain([IDEAL, *EXPLOITS.values()], RECIPE)
    for _, row in table.iterrows():
        assert row["total"] == pytest.approx(sum(row[name] for name in RECIPE.reward_names))
    assert table["total"].nunique() > 3


def test_the_scores_are_those_of_training() -> None:
    texts = list(EXPLOITS.values())
    table = explain(texts, RECIPE)
    for reward in RECIPE.reward_funcs:
        assert table[reward.__name__].tolist() == reward(completions=texts, prompts=[])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (IDEAL, "well-formed"),
        (f"  {IDEAL}\n", "well-formed"),
        ("傘", f"{OPEN} missing"),
        (EXPLOITS["unclosed thought"], f"{CLOSE} missing"),
        (EXPLOITS["unclosed reply"], f"{END} missing"),
        (EXPLOITS["duplicated tag"], f"{OPEN} occurs 2 times"),
        (EXPLOITS["tag spam"], f"{OPEN} occurs 50 times"),
        (EXPLOITS["swapped"], "tags out of order"),
        (EXPLOITS["empty tags"], "empty thought or reply"),
        (EXPLOITS["text before the start"], "text before or between the tags"),
        (EXPLOITS["text after the end"], f"3 characters after {END}"),
    ],
)
def test_a_fault_is_told_in_words(text: str, why: str) -> None:
    assert why in explain([text], RECIPE)["why"].item()


@pytest.mark.parametrize("name", EXPLOITS)
def test_no_exploit_earns_as_much_as_an_ideal_completion(name: str) -> None:
    ideal, exploit = explain([IDEAL, EXPLOITS[name]], RECIPE)["total"]
    assert ideal == 1.5
    assert exploit < ideal
    assert explain([EXPLOITS[name]], RECIPE)["why"].item() != "well-formed"
