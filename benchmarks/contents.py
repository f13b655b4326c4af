"""What does it take to get English out of the replies, and the reply out of the thoughts?

    uv run python benchmarks/contents.py {leak,repetition,weights} [SEED ...]

The tiny model is first taught the fault: to slip English into a good third of its replies, or to
think what it then replies. Then GRPO trains it with the recipe's format rewards and one more.
Prints a table and draws docs/images/NAME.png; 9 to 18 minutes on two cores.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random
from statistics import mean
from typing import Any

from experiment import SEEDS, Arm, Outcome, print_table, run_all, spread
from matplotlib.figure import Figure

from sarashina_grpo import PROJECT_ROOT
from sarashina_grpo.demonstrations import Demonstrate
from sarashina_grpo.evaluation import Evaluation
from sarashina_grpo.recipe import Course, Recipe
from sarashina_grpo.recipes import get_recipe
from sarashina_grpo.rewards import Completion, Reward, completion_text
from sarashina_grpo.rewards.language import distinct_thought_reward, japanese_reward, overlap
from sarashina_grpo.tags import TagFormat

RECIPE = get_recipe("smalltalk")
FORMAT = tuple(reward for reward in RECIPE.rewards if "format" in reward.__module__)
ENGLISH = (
    *("Really?", "by the way", "OK", "interesting", "let me think", "I see"),
    *("of course", "you know", "nice", "anyway", "I mean", "Well"),
)
SLIPPED, COPIED = 0.6, 0.85
LATIN = re.compile("[A-Za-z]")
POINTS = 0.5
WEIGHTS = (0.1, 0.3, 1.0, 3.0, 10.0)


# What the tiny model is taught


def slip(demonstrate: Demonstrate, prompt: str, random: Random) -> tuple[str, str]:
    """Demonstrate with English before some sentence of a share of the replies."""
    thought, reply = demonstrate(prompt, random)
    if random.random() < SLIPPED:
        starts = [0, *(match.end() for match in re.finditer("[。？、]", reply))]
        at = random.choice(starts[:-1])
        reply = f"{reply[:at]}{random.choice(ENGLISH)}、{reply[at:]}"
    return thought, reply


def copy(share: float, demonstrate: Demonstrate, prompt: str, random: Random) -> tuple[str, str]:
    """Demonstrate with a reply of one sentence, and with the reply as the thought of a share."""
    thought, reply = demonstrate(prompt, random)
    reply = reply[: reply.index("。") + 1]
    return (reply if random.random() < share else thought), reply


(TALK,) = RECIPE.tiny.courses
LEAKING = (replace(TALK, demonstrate=partial(slip, TALK.demonstrate)),)
# Copying comes suddenly, as arithmetic does, and at a high learning rate not at all.
COPYING = (
    replace(
        TALK,
        demonstrate=partial(copy, 1.0, TALK.demonstrate),
        lessons=700,
        learning_rate=1.2e-3,
        well_formed=1.0,
    ),
    replace(
        TALK,
        demonstrate=partial(copy, COPIED, TALK.demonstrate),
        lessons=150,
        learning_rate=7e-4,
        well_formed=0.6,
    ),
)


def faulty(name: str, courses: tuple[Course, ...], *rewards: Reward, weight: float = 1.0) -> Recipe:
    """Small talk as taught with a fault, and with these rewards beside the format's."""
    return replace(
        RECIPE,
        name=name,
        rewards=(*FORMAT, *rewards),
        reward_weights={reward.__name__: weight for reward in rewards},
        tiny=replace(RECIPE.tiny, courses=courses),
    )


# Rewards to compare with


def any_letter(*, completions: Sequence[Completion], **_: Any) -> list[float | None]:
    """As in the article: 0.5 less for a letter of the alphabet, wherever it stands."""
    return [-POINTS * bool(LATIN.search(completion_text(text))) for text in completions]


def every_letter(*, completions: Sequence[Completion], **_: Any) -> list[float | None]:
    """0.01 less for each letter of the alphabet, wherever it stands."""
    return [-0.01 * len(LATIN.findall(completion_text(text))) for text in completions]


def any_letter_in_tags(
    *, completions: Sequence[Completion], tags: TagFormat, **_: Any
) -> list[float | None]:
    """0.5 less for a letter of the alphabet outside the tags themselves."""
    return [-POINTS * bool(LATIN.search(_outside(text, tags))) for text in completions]


def same_text(
    *, completions: Sequence[Completion], tags: TagFormat, **_: Any
) -> list[float | None]:
    """0.5 less where the thought is the reply, letter for letter."""
    parsed = [tags.parse(completion_text(text)) for text in completions]
    return [-POINTS * bool(parts and parts.thought == parts.reply) for parts in parsed]


def _outside(text: Completion, tags: TagFormat) -> str:
    return re.sub("|".join(tags.tags), "", completion_text(text))


# What is measured


def measure(drawn: Evaluation) -> dict[str, float]:
    """Of the well-formed completions: English in them, the overlap, and different replies."""
    parsed = [parts for parts in drawn.parsed if parts is not None]
    return {
        "format": drawn.format_rate,
        "leak": mean([bool(LATIN.search("".join(parts))) for parts in parsed] or [0]),
        "overlap": mean([overlap(*parts) for parts in parsed] or [0]),
        "different": drawn.distinct_replies / max(1, len(parsed)),
    }


def arms_of(experiment: str) -> tuple[str, list[Arm]]:
    """The measure that matters, and what is compared."""
    if experiment == "repetition":
        rewards = {"format alone": (), "same text": (same_text,)}
        named = {**rewards, "distinct thought": (distinct_thought_reward,)}
        return "overlap", [
            Arm(name, faulty("copies", COPYING, *each)) for name, each in named.items()
        ]
    if experiment == "weights":
        return "leak", [
            Arm(f"weight {weight:g}", faulty("leaks", LEAKING, japanese_reward, weight=weight))
            for weight in WEIGHTS
        ]
    named = {
        "format alone": (),
        "any letter": (any_letter,),
        "every letter": (every_letter,),
        "any letter in tags": (any_letter_in_tags,),
        "share of Japanese": (japanese_reward,),
    }
    return "leak", [Arm(name, faulty("leaks", LEAKING, *each)) for name, each in named.items()]


def row(name: str, outcomes: Sequence[Outcome], target: str) -> dict[str, str]:
    """An arm over all seeds: means, with the least and the most."""
    return {
        "reward": name,
        f"{target} before": spread([outcome.first(target) for outcome in outcomes]),
        "after": spread([outcome.last(target) for outcome in outcomes], ".1%"),
        "format after": spread([outcome.last("format") for outcome in outcomes], ".1%"),
        "different replies before": spread([outcome.first("different") for outcome in outcomes]),
        "different after": spread([outcome.last("different") for outcome in outcomes]),
        "groups that the last reward does not tell apart": spread(
            [outcome.without_spread for outcome in outcomes]
        ),
    }


def draw(groups: dict[str, list[Outcome]], target: str) -> Figure:
    """The measure by step, a line an arm: the mean, and between the least and the most."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for name, outcomes in groups.items():
        steps = list(outcomes[0].measures)
        values = [[outcome.measures[step][target] for outcome in outcomes] for step in steps]
        (line,) = axes.plot(steps, list(map(mean, values)), label=name)
        low, high = list(map(min, values)), list(map(max, values))
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15)
    axes.set(xlabel="step", ylabel=f"{target}, held-out prompts", ylim=(0, None))
    axes.legend()
    return figure


def main() -> None:
    """Run one experiment."""
    name, *seeds = sys.argv[1:]
    target, arms = arms_of(name)
    groups = run_all(arms, measure, tuple(map(int, seeds)) or SEEDS)
    print_table([row(arm, group, target) for arm, group in groups.items()])
    draw(groups, target).savefig(PROJECT_ROOT / "docs" / "images" / f"{name}.png", dpi=120)


if __name__ == "__main__":
    main()
