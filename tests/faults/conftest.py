"""The fault tests use the fake sweep that lies beside them, one folder up."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
