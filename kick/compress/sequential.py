"""The public contract of a method that walks a model: `walk`, `Block`, `shared`.

Methods from outside import them from here; the code is in `kick.compress.calibrate.walk`.
"""

from kick.compress.calibrate.walk import Block, shared, walk

__all__ = ["Block", "shared", "walk"]
