"""The pairs of methods and architectures: each method's options for tiny models, and what is refused."""

from __future__ import annotations

from functools import cache

from kick.compress import canonical, check, describe
from kick.compress.method import methods
from kick.errors import KickError
from tests.support.architectures import tiny

COSTS = {"seconds", "cpu_seconds", "peak_memory"}  # of a step's record: never the same twice
REQUIRED = {
    "sparsity": 0.5,
    "bits": 4,
    "share": 0.5,
    "layers": 1,
    "rank": 2,
    "block": 1,
    "mlps": 1,
    "corpora": "kick_mini_calibration",
}
SPECIAL = {
    "gptq": {"group_size": 8},
    "hqq": {"group_size": 8},
    "seap": {"first": 0, "last": 0},
    "adapt-pruner": {"steps": 4},
    "llm-surgeon": {"shots": 2},
    "bonsai": {"part": 0.2, "pairs": 2, "sequences": 1},
    "laco": {"merge": 2, "threshold": -1.0, "layers": 1},
    "last-n": {"layers": 1},
    "mka": {"length": 4, "entropy_neighbours": 20},
}


def step(method: str, **options):
    needed = {
        item["name"]: REQUIRED[item["name"]] for item in describe(method)["options"] if item["required"]
    }
    return canonical(method, needed | SPECIAL.get(method, {}) | options)


def recipe(method: str):
    steps = [step(method)]
    if method in ("recover-reconstruct", "recover-eora"):  # they make up for pruning
        return [step("magnitude"), *steps]
    return [step("rtn", bits=2), *steps] if methods[method].kind == "compensate" else steps


@cache
def _model(name: str):
    return tiny(name)  # a check changes nothing


@cache
@cache  # the page's lists and what methods say of themselves ask for the same pairs
def refusal(method: str, name: str) -> str:
    """Why a method does not serve an architecture, as it is told before calibration data is loaded; or ""."""
    try:
        check(_model(name), recipe(method))
    except KickError as error:
        return str(error)
    return ""
