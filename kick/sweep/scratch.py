"""Where a variant's compressed weights are on disk while an engine measures them, what is told of them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from kick import paths
from kick.records import Variant, key

REPORTED = ("steps", "propagate", "notes", "footprint")  # of a checkpoint's manifest


def folder_of(variant: Variant, engine: str) -> Path:
    """The folder of a variant's weights for that engine: one per model, recipe and calibration."""
    calibration = None if variant.calibration is None else variant.calibration.identity()
    recipe = [[step.method, dict(step.options), step.version, step.digest] for step in variant.recipe]
    name = key([asdict(variant.model), recipe, calibration])
    return (paths.offload_folder() or paths.cache_root()) / engine / name
