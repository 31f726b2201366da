"""Division where the denominator may be zero: the answer is NaN there, which the caller turns into None."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def ratio(above: ArrayLike, below: ArrayLike) -> NDArray[np.float64]:
    """Return above / below, NaN where `below` is not positive."""
    top, bottom = np.broadcast_arrays(np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64))
    result = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=result, where=bottom > 0)
    return result
