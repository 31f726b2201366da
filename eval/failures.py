"""Why a task or an image failed: one line, the same in each run, without a value of the data."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from vlp.core.registry import UnknownNameError

ADDRESS = re.compile(r"\s<[^<>]* at 0x[0-9a-f]+>")
"""What Python calls an object without a name: it differs from run to run, and results do not."""


def stable_message(error: BaseException) -> str:
    """Return what an error says, the same in each run."""
    return ADDRESS.sub("", f"{error}")


FAULTS = (ValueError, OSError, UnknownNameError)
"""What is wrong with data or settings, and says so in words that were written for it."""
RESOURCES = (MemoryError, RuntimeError)
"""What a machine or a library ran out of or refused; its words name no patient."""


def reason_of(error: BaseException) -> str:
    """Return why something failed: one line, the same in each run; of an unforeseen error its kind and its place.

    The words of an unforeseen one (a KeyError) may be a value of the data, so they are left out.
    """
    kind = type(error).__name__
    words = " ".join(stable_message(error).split())[:500] if isinstance(error, (*FAULTS, *RESOURCES)) else ""
    if isinstance(error, FAULTS) and words:
        return words
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"{kind}{f': {words}' if words else ''}{place}"
