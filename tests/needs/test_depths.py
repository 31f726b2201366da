"""Depths of sentences: of boxes and levels, in millimetres, through every crop and zoom."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.needs.places import SENTENCES, SHAPE, SPACING, opened, sample
from vlp.modalities.geometry import Geometry
from vlp.modalities.image.processor import Augment
from vlp.modalities.volume.processor import VolumeProcessor
from vlp.modalities.volume.spec import VolumeSpec
from vlp.modalities.volume.volume import Volume
from vlp.needs.depths import DepthSettings

SAME = Geometry(SHAPE, SHAPE, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


def prepared(geometry: Geometry = SAME, levels: dict[str, str] | None = None, **changed: Any) -> dict[str, Any]:
    need = opened("extras.depths", DepthSettings(levels or {}))
    return {entry.text: entry for entry in need.prepare(sample(**changed), None, geometry)}


def test_phrases_and_sentences_at_the_middle_of_their_boxes() -> None:
    found = prepared()
    assert {text: entry.place for text, entry in found.items()} == {
        "small nodule": 3.5, "large heart": 4.5, SENTENCES[1]: 3.5, SENTENCES[0]: 4.5,
    }  # fmt: skip
    assert all(entry.unit == 5.0 and entry.seen == (0.0, 12.0) for entry in found.values())


def test_a_level_is_at_the_middle_of_its_mask() -> None:
    found = prepared(levels={"carina": "carina", "T5": "vertebra"})
    assert found[SENTENCES[1]].place == 8.0 and found["small nodule"].place == 3.5


def test_a_label_of_two_boxes_places_no_sentence() -> None:
    first, second = sample().boxes
    twins = (first, second.__class__("other", second.xyxy, "nodule"))
    assert set(prepared(boxes=twins)) == {"small nodule", "other"}


def test_images_have_no_depth() -> None:
    flat = Geometry((4, 4), (4, 4), (1.0, 1.0), (0.0, 0.0))
    assert not prepared(flat) and not prepared(volume=None)
    assert opened("extras.depths", DepthSettings({})).is_in(sample())
    assert not opened("extras.depths", DepthSettings({})).is_in(sample(boxes=()))


@pytest.mark.parametrize("seed", range(8))
def test_depths_follow_crop_zoom_and_turn(seed: int) -> None:
    """A plane of metal at the middle of the box is where the need says, and millimetres stay millimetres."""
    voxels = np.full(SHAPE, -1000, np.int16)
    voxels[3:5] = 1000  # its middle at 4 of 12 voxels
    affine = np.diag([SPACING[2], SPACING[1], SPACING[0], 1.0])
    spec = VolumeSpec(spacing=(2.5, 2.0, 2.0), size=(30, 16, 20), windows=("bone",))
    augment = Augment(crop_scale=(0.4, 1.0), shift=0.2, rotate=20.0)
    values, geometry = VolumeProcessor(spec).train(Volume(voxels, affine), augment, np.random.default_rng(seed))
    box = sample().boxes[0].__class__("metal", (4.0, 4.0, 3.0, 16.0, 12.0, 5.0))
    found = prepared(geometry, boxes=(box,), report=None)
    bright = (values[0].numpy() > 0).any((1, 2)).nonzero()[0]
    if "metal" not in found:
        assert not len(bright) or bright[0] == 0 or bright[-1] == 29
        return
    entry = found["metal"]
    if bright[0] > 0 and bright[-1] < 29:
        assert (bright[0] + bright[-1] + 1) / 2 == pytest.approx(entry.place, abs=0.75)
        assert len(bright) * entry.unit == pytest.approx(10.0, abs=2 * entry.unit)
    assert entry.unit == pytest.approx(5.0 / geometry.scale[0])
