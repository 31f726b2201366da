"""Batch and ModelOutput hold what there is of each modality; the short names are entries of their dictionaries."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlp.batch import Batch, Grid, Local, ModelOutput, Tokens
from vlp.needs.rows import take


def test_short_names_are_entries() -> None:
    image, text, patches = torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(2, 4, 3)
    grid = Grid((2, 2), (8.0, 8.0), (4.0, 4.0))
    output = ModelOutput(image=image, text=text, patches=patches, grid=grid)
    assert output.pooled == {"image": image, "text": text} and output.local == {"image": Local(patches, grid=grid)}
    assert output.words is None and output.word_mask is None
    output.pooled["signal"] = torch.ones(2, 3)
    output.words = torch.zeros(2, 5, 3)
    assert output.local["text"].features is output.words
    assert list(output.tensors()) == ["image", "text", "pooled.signal", "patches", "words"]
    other = replace(output, image=text, words=None, **{"pooled.signal": image, "local.signal.mask": image})
    assert other.image is text and other.pooled["signal"] is image and other.local["signal"].mask is image
    assert output.image is image and output.words is not None and "signal" not in output.local
    assert "image" not in replace(output, image=None).pooled
    with pytest.raises(TypeError, match="'imgae'"):
        ModelOutput(imgae=image)


def test_a_batch_moves_and_is_cut_with_every_input() -> None:
    ids = torch.arange(12).view(4, 3)
    batch = Batch(
        image=torch.zeros(4, 1, 2, 2),
        text=Tokens(ids, ids > 0, ids),
        group=torch.zeros(4, 2, dtype=torch.int64),
        keys=list("abcd"),
    )
    batch.inputs["signal"] = torch.arange(4.0)
    part = take(batch, [3, 1]).to("meta")
    assert part.keys == ["d", "b"] and part.inputs["signal"].shape == (2,)
    assert {batch.image.device.type, part.image.device.type, part.text.ids.device.type} == {"cpu", "meta"}
    assert part.inputs["signal"].device.type == "meta" and len(batch) == 4
    assert take(batch, [3, 1]).inputs["signal"].tolist() == [3.0, 1.0]
    with pytest.raises(TypeError, match="Batch needs group"):
        Batch(image=batch.image, keys=[])
