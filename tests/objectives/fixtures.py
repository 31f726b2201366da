"""The small inputs that the reference's numbers belong to: F1 (global, with a fourth row for two ranks), F2 (tokens)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


IMAGE_OF_TWO_RANKS = tensor([[1, 2, 0, 1], [0, 1, 1, 0], [2, 0, 1, 1], [1, 1, 1, 3]])
TEXT_OF_TWO_RANKS = tensor([[1, 1, 0, 1], [0, 2, 1, 1], [1, 0, 1, 0], [0, 1, 0, 2]])
IMAGE, TEXT = IMAGE_OF_TWO_RANKS[:3], TEXT_OF_TWO_RANKS[:3]
PATCHES = tensor([[[1, 0, 0], [0, 1, 1], [1, 1, 0]], [[0, 0, 1], [1, 0, 1], [0, 2, 1]]])
WORDS = tensor([[[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1]], [[0, 1, 1], [1, 0, 0], [0, 1, 0], [1, 1, 0]]])
WORD_MASK = torch.tensor([[True, True, True, True], [True, True, True, False]])
WORD_ATTENTION = tensor([[0.1, 0.4, 0.3, 0.2], [0.5, 0.3, 0.2, 0]])
PATCH_ATTENTION = tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
PROTOTYPES = tensor([[1, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 1, -1]])
TOKENS = tensor(
    [
        [[9, 9, 9], [1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1], [9, 9, 9]],
        [[9, 9, 9], [0, 1, 1], [1, 0, 0], [0, 1, 0], [1, 1, 0], [9, 9, 9]],
    ]
)
