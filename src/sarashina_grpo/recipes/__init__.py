"""One file per recipe. Copy one to make your own: every `RECIPE` in this folder is known."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from sarashina_grpo.errors import UserError
from sarashina_grpo.recipe import Recipe


class UnknownRecipeError(UserError, KeyError):
    """There is no recipe of that name; names those there are."""

    __str__ = Exception.__str__


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
        UnknownRecipeError: there is none; names those there are. It is a KeyError.
    """
    if name not in recipe_names():
        raise UnknownRecipeError(f"no recipe {name!r}; there are {', '.join(recipe_names())}")
    return _recipes()[name]
