"""What objectives ask the loader for: filled from real shards, or refused before the first step with the way to get it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.data.toys import FINDINGS, make_sample
from vlp.batch import PromptSpec
from vlp.core.config import ConfigError
from vlp.data.config import TextView
from vlp.data.loader import DataConfig, Loader
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.text.tokenizers.base import Tokenizer
from vlp_prep.pipeline.shard_writer import ShardWriter

Make = Callable[..., Loader]
CATEGORY, TEXT_LABELS = frozenset({"extras.category"}), frozenset({"labels", "extras.text_labels"})


@pytest.fixture
def make(toy: Path, preprocess: ImageProcessor, tokenizer: Tokenizer) -> Make:
    def build(
        train: Path | None = None,
        needs: frozenset[str] = frozenset(),
        prompts: PromptSpec | None = None,
        **options: Any,
    ) -> Loader:
        given: dict[str, Any] = {"train": str(train or toy), "batch_size": 8, "workers": 0, "labels": FINDINGS}
        return Loader(DataConfig(**{**given, **options}), preprocess, tokenizer, needs, prompts)

    return build


def written(folder: Path, **fields: Any) -> Path:
    with ShardWriter(folder, shard_size=8, source="toy", version="1") as writer:
        for index in range(16):
            writer.write(replace(make_sample(index), **fields))
    return folder


def test_a_second_view_is_another_part_of_the_same_text(make: Make) -> None:
    loader = make(needs=frozenset({"text_view"}), text=TextView(sentence=True))
    batches = list(itertools.islice(iter(loader), 6))
    rows = [
        (first.tolist(), second.tolist())
        for batch in batches
        if batch.text_view is not None
        for first, second in zip(batch.text.ids, batch.text_view.ids, strict=True)
    ]
    assert len(rows) == 48
    strip = [tuple(tuple(one for one in ids if one) for ids in row) for row in rows]
    different = sum(first != second for first, second in strip)
    assert 0 < different < 48, "drawn apart: now and then the same sentence"
    again = next(iter(make(needs=frozenset({"text_view"}), text=TextView(sentence=True))))
    assert again.text_view is not None and batches[0].text_view is not None
    assert again.text_view.ids.tolist() == batches[0].text_view.ids.tolist()
    assert next(iter(make(text=TextView(sentence=True)))).text.ids.tolist() == batches[0].text.ids.tolist()
    with pytest.raises(ConfigError, match=r"data\.text\.subset or data\.text\.sentence"):
        make(needs=frozenset({"text_view"}))


def test_labels_of_the_text_that_is_shown(make: Make) -> None:
    """One sentence of the report says one thing; the labels of the image say more."""
    batch = next(iter(make(needs=TEXT_LABELS, text=TextView(sentence=True), batch_size=48)))
    assert batch.labels is not None
    shown, whole = batch.extras["text_labels"], batch.labels
    said = shown != -2
    assert bool((said.sum(1) <= 1).all()) and 0 < int(said.any(1).sum()) < 48, "a sentence states one finding or none"
    assert bool((shown[said] == whole[said]).all())
    (everything,) = list(itertools.islice(iter(make(needs=TEXT_LABELS, batch_size=48)), 1))
    assert everything.labels is not None and bool((everything.extras["text_labels"] == everything.labels).all())


def test_a_category_is_one_of_the_present_labels(make: Make, tmp_path: Path) -> None:
    labels = {"effusion": 1, "nodule": 0, "edema": 1}
    drawn = [
        one
        for batch in itertools.islice(iter(make(written(tmp_path / "two", labels=labels), needs=CATEGORY)), 8)
        for one in batch.extras["category"].tolist()
    ]
    assert set(drawn) == {1, 3}, "effusion and edema by turns"
    for name, labels, expected in (("none", {"effusion": 0}, 4), ("unsure", {"edema": -1}, 0)):
        batch = next(iter(make(written(tmp_path / name, labels=labels), needs=CATEGORY)))
        assert set(batch.extras["category"].tolist()) == {expected}
    folder = tmp_path / "mixed"
    with ShardWriter(folder, shard_size=8, source="toy", version="1") as writer:
        for index in range(16):
            writer.write(replace(make_sample(index), labels={"effusion": 1} if index == 0 else {}))
    held = {
        key: one
        for batch in make(folder, needs=CATEGORY).once()
        for key, one in zip(batch.keys, batch.extras["category"].tolist(), strict=True)
    }
    assert held == {f"s{index:06d}": int(index == 0) for index in range(16)}, "0: nothing is known"


@pytest.mark.parametrize(
    ("fields", "needs", "options", "message"),
    [
        ({"concepts": ()}, {"spans"}, {}, r"needs spans, .* first 16 samples holds any `concepts`: .*vlp-prep build"),
        ({"concepts": ()}, {"phrases"}, {}, r"needs phrases.*vlp-prep build --concepts vocabulary"),
        ({}, {"prompts"}, {"prompts": PromptSpec(("mass",), ("mass",), ("no mass",))},
         r"needs prompts.*code among \['mass'\].*codes of concepts there: edema, effusion, nodule"),
        ({"labels": {"Edema": 1}}, {"labels"}, {}, r"needs labels.*labels there: Edema"),
        ({"labels": {"Edema": 1}}, CATEGORY, {}, r"needs extras\.category.*labels there: Edema"),
        ({"labels": {"Edema": 1}}, TEXT_LABELS, {"labels": ("Edema",)}, r"needs extras\.text_labels.*named by the concepts"),
        ({}, CATEGORY, {"labels": ()}, r"needs extras\.category.*name them in data\.labels"),
        ({}, {"extras.triplets"}, {}, r"Batch\.extras\.triplets, which the loader does not fill"),
    ],
)  # fmt: skip
def test_what_the_data_do_not_hold_is_an_error_before_the_first_step(
    make: Make, tmp_path: Path, fields: dict[str, Any], needs: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(written(tmp_path / "set", **fields), frozenset(needs), **options)


def test_one_sample_that_has_it_is_enough(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with ShardWriter(folder, shard_size=8, source="toy", version="1") as writer:
        for index in range(16):
            writer.write(replace(make_sample(index), **({} if index == 9 else {"concepts": ()})))
    batch = next(iter(make(folder, frozenset({"spans"}), batch_size=16)))
    assert batch.spans is not None and 0 < len(batch.spans.start) <= 2
