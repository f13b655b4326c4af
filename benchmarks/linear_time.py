"""Do rewards, parser and reward lab take time linear in the text, however hostile?

    uv run python benchmarks/linear_time.py [LONGEST]

For each recipe and kind of text one completion of 1,000 bytes in UTF-8, of 10,000 and so on up to
LONGEST (10,000,000 unless told) is scored by all rewards of the recipe, with a reference as long
as itself, and parsed and explained. Prints the seconds, and the slope of log(time) over log(size)
from 100,000 bytes on: 1 is linear, 2 quadratic. Exits with 1 if a slope is above 1.2.
"""

import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

from sarashina_grpo.recipe import Recipe
from sarashina_grpo.recipes import get_recipe, recipe_names
from sarashina_grpo.rewards.lab import explain
from sarashina_grpo.tags import TagFormat

SHORTEST, FITTED_FROM, LONGEST = 10**3, 10**5, 10**7
STEEPEST = 1.2
# A time is the least of as many tries as fit into this, and of at least three.
SECONDS_A_TIME = 0.1
THOUGHT = "I add."
IN_REPLY = {
    "digits": "9",
    "kanji numerals": "九",
    "kanji numerals with units": "九千",
    "thousands": "1,",
    "fractions": "1/2 ",
    "fractions in words": "2分の1、",
    "minus signs": "-",
    "words with numerals": "一番",
    "zero-width characters": "\u200b",
    "combining marks": "\u0301\u0316",
    "ligatures of 18 letters": "ﷺ",
    "raised digits": "²",
}


def fill(size: int, unit: str) -> str:
    """The unit as often as it fits into that many bytes."""
    return unit * (size // len(unit.encode()))


def fill_reply(unit: str, tags: TagFormat, size: int) -> str:
    """A completion whose reply is the unit over and over."""
    return tags.render(THOUGHT, fill(size, unit))


def nest(tags: TagFormat, size: int) -> str:
    """Tags opened over and over, then closed as often."""
    open_thought, close_thought, _, _ = tags.tags
    return fill(size // 2, open_thought) + fill(size // 2, close_thought)


def leave_blank(tags: TagFormat, size: int) -> str:
    """A completion with white space for a thought."""
    return tags.render(fill(size, " \n"), "3")


def separate(tags: TagFormat, size: int) -> str:
    """A completion with other text between the two parts."""
    good = tags.render(THOUGHT, "3")
    return good.replace(tags.tags[2], fill(size, "あ") + tags.tags[2])


# Texts of about that many bytes which may cost more than their length.
KINDS: dict[str, Callable[[TagFormat, int], str]] = {
    "opening tags": lambda tags, size: fill(size, tags.tags[0]),
    "nested tags": nest,
    "opened and closed": lambda tags, size: fill(size, "".join(tags.tags[:2])),
    "good completions": lambda tags, size: fill(size, tags.render(THOUGHT, "3")),
    "brackets": lambda _, size: fill(size, "<"),
    "tags without an end": lambda tags, size: fill(size, tags.tags[0][:-1]),
    "white space after a tag": lambda tags, size: tags.tags[0] + fill(size, " \n"),
    "a blank thought": leave_blank,
    "a thought that does not show": lambda tags, size: tags.render(fill(size, "\u200b"), "3"),
    "a long thought": lambda tags, size: tags.render(fill(size, "あ"), "3"),
    "text before": lambda tags, size: fill(size, "あ") + tags.render(THOUGHT, "3"),
    "text between": separate,
    "text after": lambda tags, size: tags.render(THOUGHT, "3") + fill(size, "あ"),
} | {f"{name} in the reply": partial(fill_reply, unit) for name, unit in IN_REPLY.items()}


def score(recipe: Recipe, text: str) -> None:
    """Score one completion with all rewards; its reference is as long."""
    for reward in recipe.reward_funcs:
        reward(completions=[text], prompts=[[]], answer=[text])


def parse_and_explain(recipe: Recipe, text: str) -> None:
    """Read one completion as the evaluation and the lab do."""
    recipe.tags.parse(text)
    recipe.tags.explain(text)
    explain([text], recipe, [text])


def measure(work: Callable[[], None]) -> float:
    """Seconds, the least of some tries."""
    tries: list[float] = []
    while len(tries) < 3 or sum(tries) < SECONDS_A_TIME:
        started = time.perf_counter()
        work()
        tries.append(time.perf_counter() - started)
    return min(tries)


def slope(times: dict[int, float]) -> float:
    """Of log(time) over log(size), from `FITTED_FROM` characters on."""
    fitted = {math.log(size): math.log(t) for size, t in times.items() if size >= FITTED_FROM}
    return statistics.linear_regression(list(fitted), list(fitted.values())).slope


def main() -> None:
    """Print a row for each recipe, text and work, and how many are steeper than linear."""
    longest = int(sys.argv[1]) if sys.argv[1:] else LONGEST
    sizes = [10**power for power in range(3, 10) if 10**power <= longest]
    print("| recipe | text | what |", *(f"{size:,} |" for size in sizes), "slope |")
    print("| --- " * 3 + "| ---: " * (len(sizes) + 1) + "|")
    slopes = []
    for recipe in map(get_recipe, recipe_names()):
        for kind, write in KINDS.items():
            texts = [write(recipe.tags, size) for size in sizes]
            for work in (score, parse_and_explain):
                seconds = [measure(partial(work, recipe, text)) for text in texts]
                slopes.append(slope(dict(zip(sizes, seconds, strict=True))))
                cells = [recipe.name, kind, work.__name__, *(f"{s:.6f}" for s in seconds)]
                print(f"| {' | '.join(cells)} | {slopes[-1]:.2f} |", flush=True)
    steep = sum(slope > STEEPEST for slope in slopes)
    print(f"\n{len(slopes)} rows, the steepest {max(slopes):.2f}; {steep} above {STEEPEST}")
    sys.exit(1 if steep else 0)


if __name__ == "__main__":
    main()
