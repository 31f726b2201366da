"""Which of the tensors that a file of weights lacks may be lacking: judged by what each one does, not by how many there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable

from torch import Tensor

from .names import TABLES

HARMLESS = re.compile(r"(?:^|\.)(?:mask_token|num_batches_tracked|logit_scale|logit_bias)$")
"""Tensors that no output of a tower depends on, or that a run may start anew."""


def role(name: str) -> str:
    """Return what a tensor of this name is, for a message."""
    return next((shown for pattern, shown in TABLES["roles"].items() if re.search(pattern, name)), "a weight")


def is_harmless(name: str, value: Tensor) -> bool:
    """Return whether a tensor may be missing from a file: the model without it is the model that the file is of.

    A bias that starts at 0 adds nothing, as in the model that has none; indices are computed.
    """
    if HARMLESS.search(name) or not value.is_floating_point():
        return True
    return name.endswith("bias") and value.dim() == 1 and not bool(value.any())


def needed(
    missing: Iterable[str], state: Callable[[str], Tensor], allowed: Collection[str], unused: Callable[[], set[str]]
) -> list[str]:
    """Return the missing tensors that the model needs.

    `state` gives a tensor by its name; `allowed` holds names, or beginnings of names up to a dot, that may be missing;
    `unused` returns the names that no output depends on, and is asked only where something is missing.
    """
    lacking = [
        name
        for name in missing
        if not any(name == start or name.startswith(start + ".") for start in allowed)
        and not is_harmless(name, state(name))
    ]
    if not lacking:
        return []
    idle = unused()
    return [name for name in lacking if name not in idle]
