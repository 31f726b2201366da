"""Samples survive the trip through JSON, batches through `to`."""

import json

import torch

from vlp.batch import Batch, Phrases, Tokens
from vlp.data.shards.sample_io import read_sample
from vlp.sample import Box, Mention, Report, Sample


def full_sample() -> Sample:
    return Sample(
        key="a/b",
        image=b"pixels",
        report=Report("Heart large. No effusion.", ((0, 12), (13, 25)), {"findings": (0, 25)}),
        captions=("one", "two"),
        study="s1",
        patient="p1",
        labels={"cardiomegaly": 1, "effusion": 0, "edema": -1},
        concepts=(Mention("effusion", "effusion", 16, 24, "absent", side="left"),),
        boxes=(Box("large heart", (1.0, 2.0, 3.5, 4.0), "cardiomegaly"),),
        masks={"lung": b"png"},
        groups={"sex": "F"},
        split="test",
        source="toy",
        licence="CC0",
    )


def test_a_sample_survives_json() -> None:
    sample = full_sample()
    record = json.loads(json.dumps(sample.to_json()))
    assert read_sample(record, sample.image, sample.masks) == sample
    assert "pixels" not in json.dumps(record)
    assert sample.report is not None
    assert sample.report.findings == sample.report.text
    assert sample.report.impression == ""


def test_empty_fields_are_left_out_and_unknown_ones_left_alone() -> None:
    assert Sample(key="k", image=b"").to_json() == {"key": "k"}
    sample = read_sample({"key": "k", "report": "Plain text.", "from_the_future": 1}, b"", {})
    assert sample.report == Report("Plain text.")


def test_a_batch_moves_whole() -> None:
    tokens = Tokens(torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3))
    batch = Batch(
        image=torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
        text=tokens,
        group=torch.zeros(2, 2, dtype=torch.int64),
        keys=["a", "b"],
        phrases=Phrases(tokens=tokens, owner=torch.zeros(2), code=torch.zeros(2)),
        extras={"x": torch.ones(1)},
    )
    moved = batch.to("meta")
    assert len(moved) == 2 and moved.keys == ["a", "b"]
    assert moved.phrases is not None
    for tensor in (moved.image, moved.text.ids, moved.phrases.tokens.mask, moved.extras["x"]):
        assert tensor.device.type == "meta"
    assert batch.image.device.type == "cpu"
