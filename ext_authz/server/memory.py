"""The garbage collector, set for a server whose decisions make no cycles."""

import gc

# Allocations between two rounds over young objects. Python's 700 mean a round every few decisions, and each finds nothing:
# measured under load, this setting answers a sixth more checks, as many as without a collector.
YOUNG_ALLOCATIONS = 20_000
# Rounds over young objects for one over middle-aged ones, and those for one over all.
MIDDLE_ROUNDS, OLD_ROUNDS = 20, 50


def settle_memory() -> None:
    """Take what was loaded out of the collector's rounds, which would walk a large matrix again and again."""
    gc.set_threshold(YOUNG_ALLOCATIONS, MIDDLE_ROUNDS, OLD_ROUNDS)
    gc.collect()
    gc.freeze()
