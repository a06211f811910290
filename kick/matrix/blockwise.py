"""Which recipes can be carried out on a model one block at a time."""

from __future__ import annotations

from kick import catalog
from kick.records import Variant


def blockwise(variant: Variant) -> bool:
    """Whether the variant has a recipe that can be carried out block by block."""
    return bool(variant.recipe) and not whole(variant)


def whole(variant: Variant) -> str:
    """The first method of the recipe that needs the whole model at once; "" for none."""
    known = catalog.known()
    methods = [step.method for step in variant.recipe]
    return next((one for one in methods if one not in known or not known[one].blockwise), "")
