"""One file per recipe. Copy one to make your own: every `RECIPE` in this folder is known."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from sarashina_grpo.recipe import Recipe


@cache
def _recipes() -> dict[str, Recipe]:
    modules = (import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))
    return {module.RECIPE.name: module.RECIPE for module in modules}


def recipe_names() -> list[str]:
    """The names of all recipes, sorted."""
    return sorted(_recipes())


def get_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        KeyError: there is none; names those there are.
    """
    try:
        return _recipes()[name]
    except KeyError:
        raise KeyError(f"no recipe {name!r}; there are {', '.join(recipe_names())}") from None
