"""Measurements: the cost of a decision, and the server beside an empty one. `make bench` runs them all.

Machines differ and are shared: compare the rows of one run, never runs of two machines.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the request builder is the tests' own
