"""A volume of which all is known: its report, masks and boxes, and needs opened as the loader opens them."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlp.batch import Grid, Tokens
from vlp.modalities.volume import store
from vlp.needs.base import DataSetup, Need, SelectedText, needs
from vlp.sample import Box, Mention, Report, Sample, VolumeInfo

SHAPE, SPACING = (12, 16, 20), (5.0, 2.0, 2.0)
GRID = Grid((4, 4, 5), (3.0, 4.0, 4.0), (1.5, 2.0, 2.0))
SENTENCES = (
    "The heart is enlarged.",
    "Nodule in the lung at the carina level.",
    "The liver is unremarkable.",
    "No pericardial effusion.",
    "The lung is otherwise clear.",
)
MENTIONS = (
    ("enlarged", "cardiomegaly", "present"),
    ("Nodule", "nodule", "present"),
    ("effusion", "effusion", "absent"),
)


def block(*ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(*ends) for ends in ranges)] = True
    return mask


MASKS = {
    "heart": block((3, 6), (5, 9), (9, 12)),
    "lung": block((2, 10), (2, 14), (0, 8)),  # reaches the left edge of the file
    "liver": block((1, 3), (3, 5), (3, 17)),
    "carina": block((7, 9), (8, 10), (10, 11)),
}


def sample(**changed: Any) -> Sample:
    text = " ".join(SENTENCES)
    starts = [text.index(sentence) for sentence in SENTENCES]
    given: dict[str, Any] = {
        "key": "a",
        "image": b"",
        "report": Report(text, tuple((at, at + len(sentence)) for at, sentence in zip(starts, SENTENCES, strict=True))),
        "concepts": tuple(
            Mention(word, code, text.index(word), text.index(word) + len(word), how)  # type: ignore[arg-type]
            for word, code, how in MENTIONS
        ),
        "boxes": (
            Box("small nodule", (4.0, 6.0, 2.0, 8.0, 9.0, 5.0), "nodule"),
            Box("large heart", (9.0, 5.0, 3.0, 12.0, 9.0, 6.0), "cardiomegaly"),
        ),
        "masks": {name: store.encode_mask(mask) for name, mask in MASKS.items()},
        "volume": VolumeInfo(SHAPE, SPACING, ((2.0, 0, 0, 0), (0, 2.0, 0, 0), (0, 0, 5.0, 0)), "RAS", "HU"),
    }
    return Sample(**{**given, **changed})


def opened(name: str, settings: Any, grid: Grid | None = GRID) -> Any:
    need: Need = needs.get(name)(name)
    need.open(DataSetup((), None, no_tokens, no_text, False, {name: settings}, grid))
    return need


def no_tokens(_: Any) -> Tokens:
    raise AssertionError("these needs encode with the batch's texts")


def no_text(*_: Any) -> SelectedText:
    raise AssertionError("these needs show whole sentences")
