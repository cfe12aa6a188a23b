"""The garbage collector, out of the way while something large is built."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Look for no garbage meanwhile.

    A collector that runs by the number of new objects walks all that was loaded again and again, and finds nothing: all of
    it stays. Measured with 100,000 cells, that is half of the time that loading takes.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
