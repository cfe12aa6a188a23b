"""How a failure inside is named in records and logs: type and place, never a value.

The text of an exception may hold what the caller sent; the name of its type and the line that raised it cannot.
"""

import traceback
from pathlib import Path

_PACKAGE = Path(__file__).parent


def place_of(error: BaseException) -> str:
    """Return `ValueError at identity/xfcc.py:31`: the innermost line of this package that the error passed."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(_PACKAGE)
    ]
    if not frames:
        return type(error).__name__
    place = Path(frames[-1].filename).relative_to(_PACKAGE)
    return f"{type(error).__name__} at {place}:{frames[-1].lineno}"
