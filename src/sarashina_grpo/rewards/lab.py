"""The reward lab: what does each reward say to a text, and why?"""

from collections.abc import Sequence

import pandas as pd

from sarashina_grpo.recipe import Recipe


def explain(
    texts: Sequence[str], recipe: Recipe, answer: Sequence[str | None] | None = None
) -> pd.DataFrame:
    """Score texts with a recipe's rewards, as in training.

    Args:
        texts: completions to try.
        recipe: whose rewards and tags to use.
        answer: the right answer to each text, for recipes that compare answers.

    Returns:
        One row a text: the text, one column a reward (None: does not apply), "total", and
        "why" the text does not keep to the format, in words.
    """
    columns = {"answer": list(answer)} if answer is not None else {}
    prompts: list[list[dict[str, str]]] = [[] for _ in texts]
    scores = pd.DataFrame(
        {
            reward.__name__: reward(completions=list(texts), prompts=prompts, **columns)
            for reward in recipe.reward_funcs
        }
    )
    table = scores.assign(
        total=scores.sum(axis=1), why=[recipe.tags.explain(text) for text in texts]
    )
    table.insert(0, "text", list(texts))
    return table
