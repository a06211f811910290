"""Store of what was measured: done, put, samples, runs; whole or absent, one writer or many, no torch."""

from kick.store.cells import Store, one_matrix, opened
from kick.store.chunks import Partial
from kick.store.claims import Claim
from kick.store.files import StoreError
from kick.store.json_files import Failure
from kick.store.status import State

__all__ = ["Claim", "Failure", "Partial", "State", "Store", "StoreError", "one_matrix", "opened"]
