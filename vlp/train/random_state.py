"""Seeds and states of the random generators."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_all(seed: int) -> None:
    """Seed every generator of this process that training may draw from."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - not ours, but a library may draw from it


def torch_states() -> dict[str, Tensor]:
    """Return the state of the generators that a forward may draw from."""
    return {
        "torch": torch.get_rng_state(),
        **({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}),
    }


def set_torch_states(states: dict[str, Tensor]) -> None:
    """Put torch's generators back to where `torch_states` saw them."""
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def random_states() -> dict[str, Tensor]:
    """Return the state of every generator of this process that training may draw from, as uint8 tensors."""
    states = torch_states()
    _, words, _ = random.getstate()
    states["python"] = torch.tensor(words, dtype=torch.int64)
    legacy: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    states["numpy"] = torch.tensor([*legacy[1].tolist(), legacy[2]], dtype=torch.int64)
    return states


def set_random_states(states: dict[str, Tensor]) -> None:
    """Put every generator back to where `random_states` saw it."""
    set_torch_states(states)
    random.setstate((3, tuple(states["python"].tolist()), None))
    *keys, position = states["numpy"].tolist()
    legacy: Any = ("MT19937", np.array(keys, dtype=np.uint32), position)
    np.random.set_state(legacy)  # noqa: NPY002


def random_file(folder: Path, rank: int) -> Path:
    """Return where a checkpoint keeps the random states of a rank."""
    return folder / "state" / "random" / f"rank-{rank:05d}.safetensors"
