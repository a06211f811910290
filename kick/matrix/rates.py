"""Speed of this machine: rates learned from cells and measured, kept for later plans."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from kick.paths import keep, rates_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rates:
    """Speed of this machine: `flops` per second, and seconds per item by task and model size."""

    flops: float = 1e11
    items: Mapping[str, float] = field(default_factory=dict)


def load_rates() -> Rates:
    """The rates learned so far, defaults if there are none or their file is damaged."""
    file = rates_file()
    try:
        if not file.is_file():
            return Rates()
        data = json.loads(file.read_text("utf-8"))
        return Rates(float(data["flops"]), {str(k): float(v) for k, v in data["items"].items()})
    except OSError as error:
        log.warning("%s cannot be read (%s): estimates start from defaults", file, error)
        return Rates()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is damaged (%r) and left out: estimates start again from defaults", file, error)
        return Rates()


def save_rates(rates: Rates) -> None:
    """Keep the rates for later plans, if the cache can be written."""
    keep(rates_file(), json.dumps(asdict(rates), sort_keys=True))


def learned(rates: Rates, task: str, items: int, seconds: float, parameters: int) -> Rates:
    """`rates` after `items` of `task` took `seconds` on a model of that size: half old, half new.

    Kept for each size by itself: what a tiny model takes an item is overhead, which no other size scales.
    """
    if items <= 0 or seconds <= 0 or parameters <= 0:
        return rates
    place = place_of(task, parameters)
    new = seconds / items
    old = rates.items.get(place, new)
    return replace(rates, items={**rates.items, place: (old + new) / 2})


def place_of(task: str, parameters: int) -> str:
    return f"{task}@{parameters}"


def measured(rates: Rates, tokens: int, seconds: float, parameters: int) -> Rates:
    """`rates` with the speed of one forward of `tokens` tokens that took `seconds`."""
    return replace(rates, flops=2 * parameters * tokens / seconds)
