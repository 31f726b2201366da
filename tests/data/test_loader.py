"""The loader: exact for any number of workers and ranks, through damage and restarts."""

from __future__ import annotations

import itertools
import json
import os
import signal
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.toys import FINDINGS, write_set
from vlp.batch import Batch
from vlp.core.config import ConfigError, validate
from vlp.data.config import TextView
from vlp.data.loader import BatchDataset, DataConfig, Loader, LoaderError, SourceConfig, open_stream
from vlp.data.shards.manifest import Manifest
from vlp.data.shards.shard_set import ShardSet
from vlp.modalities.image.processor import Augment, ImageProcessor
from vlp.modalities.text.tokenizers.base import Tokenizer

RANDOM = {"augment": Augment(shift=0.2, noise=0.1), "text": TextView(subset=0.5)}
Make = Callable[..., Loader]


@pytest.fixture
def make(toy: Path, preprocess: ImageProcessor, tokenizer: Tokenizer) -> Make:
    def build(
        train: Any = None,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        split: str = "train",
        needs: frozenset[str] = frozenset(),
        **options: Any,
    ) -> Loader:
        given = {"train": str(train or toy) if not isinstance(train, tuple) else train, "batch_size": 8, "workers": 0}
        config = DataConfig(**{**given, **options})
        return Loader(config, preprocess, tokenizer, needs, None, seed, rank, world, split)

    return build


def take(loader: Loader, n: int) -> list[Batch]:
    return list(itertools.islice(iter(loader), n))


def content(batches: list[Batch]) -> list[tuple[str, bytes, tuple[int, ...]]]:
    """Return (key, pixels, unpadded ids) of every row, in order."""
    return [
        (key, image.numpy().tobytes(), tuple(ids[mask].tolist()))
        for batch in batches
        for key, image, ids, mask in zip(batch.keys, batch.image, batch.text.ids, batch.text.mask, strict=True)
    ]


# --- exactness


def test_workers_change_nothing(make: Make) -> None:
    expected = content(take(make(**RANDOM), 12))
    for workers in (1, 2, 3):
        assert content(take(make(workers=workers, **RANDOM), 12)) == expected
    assert len({ids for _, _, ids in expected}) > 10


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_same_batches(make: Make, world: int) -> None:
    whole = take(make(**RANDOM), 10)
    parts = [take(make(rank=rank, world=world, **RANDOM), 10) for rank in range(world)]
    for step in range(10):
        assert content([part[step] for part in parts]) == content([whole[step]])
        assert {part[step].cursor for part in parts} == {whole[step].cursor} == {8 * (step + 1)}


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_each_sample_once_in_a_pass_and_passes_run_on(make: Make, world: int, workers: int) -> None:
    options: dict[str, Any] = {"world": world, "workers": workers, "window": 2, "batch_size": 24}
    ranks = [take(make(rank=rank, **options), 8) for rank in range(world)]
    keys = [key for step in range(8) for batches in ranks for key in batches[step].keys]
    assert len(keys) == 192
    passes = [keys[at : at + 60] for at in range(0, 180, 60)]
    assert all(sorted(one) == [f"s{index:06d}" for index in range(60)] for one in passes)
    assert len({tuple(one) for one in passes}) == 3


def test_a_stop_is_not_seen_afterwards(make: Make) -> None:
    whole = content(take(make(**RANDOM), 20))
    first = make(workers=2, **RANDOM)
    iterator = iter(first)
    start = [next(iterator) for _ in range(9)]
    state = json.loads(json.dumps(first.state()))
    assert (state["cursor"], state["pass"]) == (72, 1)
    resumed = make(workers=3, **RANDOM)
    resumed.load_state(state)
    assert content(start + take(resumed, 11)) == whole
    ranks = [make(rank=rank, world=4, workers=rank % 2, **RANDOM) for rank in range(4)]
    for one in ranks:
        one.load_state(state)
    rest = [take(one, 11) for one in ranks]
    assert content(start + [part[step] for step in range(11) for part in rest]) == whole


def test_a_resumed_run_may_change_its_batch_size(make: Make) -> None:
    keys = [key for batch in take(make(), 9) for key in batch.keys]
    first = make()
    take(first, 3)
    second = make(batch_size=12)
    second.load_state(first.state())
    assert [key for batch in take(second, 4) for key in batch.keys] == keys[24:72]


def test_resuming_decodes_and_reads_nothing_that_is_skipped(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, read = [], []
    real_decode, real_read = ImageProcessor.read, os.pread
    monkeypatch.setattr(ImageProcessor, "read", lambda self, data: (decoded.append(1), real_decode(self, data))[1])
    monkeypatch.setattr(os, "pread", lambda *args: (read.append(1), real_read(*args))[1])
    loader = make()
    loader.load_state({**loader.state(), "cursor": 60 * 10_000 + 32, "pass": 10_000})
    (batch,) = take(loader, 1)
    assert (len(batch), len(decoded), len(read)) == (8, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0"),
        ({"window": 3}, r"data\.window was 16"),
        ({"batch_size": 4, "bucket": True}, r"data\.bucket"),
    ],
)
def test_another_order_is_not_resumed(make: Make, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**change).load_state(make().state())


def test_other_data_is_not_resumed(make: Make, new_set: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="training data"):
        make(train=new_set(n=61)).load_state(make().state())


def test_the_generators_of_the_run_are_left_alone(make: Make) -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    for workers in (0, 2):
        take(make(workers=workers, **RANDOM), 3)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_the_text_view_does_not_change_the_pixels_nor_the_other_way_round(make: Make) -> None:
    plain = content(take(make(augment=RANDOM["augment"]), 8))
    both = content(take(make(**RANDOM), 8))
    assert [one[1] for one in plain] == [one[1] for one in both]
    texts = content(take(make(text=RANDOM["text"]), 8))
    assert [one[2] for one in texts] == [one[2] for one in both] != [one[2] for one in plain]


def test_a_sample_is_changed_anew_in_each_pass(make: Make) -> None:
    rows = content(take(make(**RANDOM), 30))
    seen: dict[str, set[bytes]] = {}
    for key, pixels, _ in rows:
        seen.setdefault(key, set()).add(pixels)
    assert all(len(seen[key]) >= 3 for key in seen)


# --- several sources


def test_sources_are_mixed_by_weight_and_resumed(make: Make, new_set: Callable[..., Path], toy: Path) -> None:
    other = new_set(n=20)
    train = (SourceConfig(path=str(toy), weight=3), SourceConfig(path=str(other), weight=1))
    loader = make(train=train, batch_size=64)
    batches = take(loader, 16)
    assert loader.samples == 80
    small = {f"s{index:06d}" for index in range(20)}
    share = sum(key in small for batch in batches for key in batch.keys) / 1024
    assert abs(share - (0.25 + 0.75 / 3)) < 0.05
    half = make(train=train, batch_size=64)
    take(half, 8)
    again = make(train=train, batch_size=64, workers=2)
    again.load_state(half.state())
    assert content(take(again, 8)) == content(batches[8:])
    with pytest.raises(ConfigError, match="training data"):
        make(train=train[::-1], batch_size=64).load_state(half.state())


# --- what cannot work


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world": 3}, "batch_size 8 does not divide among 3 ranks: use 6 or 9"),
        ({"world": 16}, "does not divide among 16 ranks: use 16"),
        ({"batch_size": 64}, "has 60 samples in 9 shards, fewer than data.batch_size 64"),
        ({"train": ()}, "no sources"),
        ({"needs": frozenset({"labels"})}, "name them in data.labels"),
        ({"needs": frozenset({"prompts"})}, "prompts"),
        ({"split": "tset", "val": "TOY"}, "no split 'tset'"),
    ],
)
def test_impossible_plans_say_so_with_the_numbers(make: Make, toy: Path, options: dict[str, Any], message: str) -> None:
    options = {name: str(toy) if value == "TOY" else value for name, value in options.items()}
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_unknown_folders_and_splits_are_named(make: Make, toy: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such folder: .*shard: did you mean 'shards'\?"):
        make(train=str(toy)[:-1])
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        make(train=(SourceConfig(path=str(toy), split="tran"),))


def test_the_recipe_section_is_checked() -> None:
    config = validate(DataConfig, {"train": [{"path": "a", "weight": 2}], "batch_size": 4, "text": {"subset": 0.5}})
    assert isinstance(config.train, tuple) and config.train[0].weight == 2
    for tree, message in (
        ({"train": "a", "batch_size": 0}, "batch_size"),
        ({"train": "a", "batch_size": 4, "windw": 3}, "did you mean 'window'"),
        ({"train": "a", "batch_size": 4, "text": {"subset": 2}}, "0 to 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            validate(DataConfig, tree)


# --- damage


def damage(out: Path, keys: set[str]) -> Path:
    """Overwrite the start of the images of `keys`."""
    manifest = Manifest.read(out)
    for shard, header in enumerate(manifest.shards):
        columns = manifest.columns(shard)
        with open(out / header.shard, "r+b") as file:
            for row in range(len(columns)):
                if columns.key(row) in keys:
                    file.seek(columns.members(row)["png"][0])
                    file.write(b"\0" * 16)
    return out


def test_damaged_samples_are_counted_and_replaced_the_same_way_everywhere(
    make: Make, new_set: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    bad = {"s000005", "s000033"}
    out = damage(new_set(n=60), bad)
    loader = make(train=out, max_rejected=0.1, **RANDOM)
    batches = take(loader, 8)
    assert all(len(batch) == 8 for batch in batches) and not bad & {key for batch in batches for key in batch.keys}
    assert sum(batch.rejected for batch in batches) >= 2 and set(loader.rejected) == bad
    assert sum("rejected sample s000005" in record.message for record in caplog.records) == 1
    assert content(take(make(train=out, max_rejected=0.1, workers=2, **RANDOM), 8)) == content(batches)
    halves = [take(make(train=out, max_rejected=0.1, rank=rank, world=2, **RANDOM), 8) for rank in range(2)]
    assert content([half[step] for step in range(8) for half in halves]) == content(batches)
    intact = content(take(make(train=new_set(n=60), **RANDOM), 8))
    changed = [one[0] for one, other in zip(intact, content(batches), strict=True) if one != other]
    assert changed and set(changed) <= bad


def test_too_much_damage_ends_the_run(make: Make, new_set: Callable[..., Path]) -> None:
    out = damage(new_set(n=60), {"s000005"})
    with pytest.raises(LoaderError, match=r"1 of 60 samples are damaged.*vlp-prep verify.*s000005"):
        take(make(train=out), 8)
    out = damage(new_set(n=60), {f"s{index:06d}" for index in range(60)})
    with pytest.raises(LoaderError, match="one after another"):
        take(make(train=out, max_rejected=1.0), 1)


def test_texts_leave_out_unreadable_records_up_to_the_limit(make: Make, new_set: Callable[..., Path]) -> None:
    whole, out = new_set(n=60), new_set(n=60)
    manifest = Manifest.read(out)
    for shard, header in enumerate(manifest.shards):
        columns = manifest.columns(shard)
        for row in range(len(columns)):
            if columns.key(row) in ("s000005", "s000033"):
                offset, size = columns.members(row)["json"]
                with open(out / header.shard, "r+b") as file:
                    file.seek(offset)
                    file.write(b"{" * size)
    texts = list(make(train=whole).stream.texts(1000))
    found = list(make(train=out, max_rejected=0.04).stream.texts(1000))
    assert len(found) == 58 and set(found) <= set(texts)
    with pytest.raises(ConfigError, match=r"2 of 60 samples are damaged.*max_rejected 0\.02.*vlp-prep verify"):
        list(make(train=out, max_rejected=0.02).stream.texts(1000))


def test_a_vanished_shard_is_one_clear_line(make: Make, new_set: Callable[..., Path]) -> None:
    for workers in (0, 2):
        out = new_set(n=60)
        (out / "train-000003.tar").unlink()
        with pytest.raises(LoaderError, match=r"FileNotFoundError.*train-000003\.tar") as caught:
            take(make(train=out, workers=workers), 8)
        assert "\n" not in str(caught.value)


def test_a_killed_worker_is_a_clear_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    real, parent = ShardSet.sample, os.getpid()

    def fatal(self: ShardSet, index: int, masks: bool = True) -> Any:
        if os.getpid() != parent and index == 42:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, index, masks)

    monkeypatch.setattr(ShardSet, "sample", fatal)
    with pytest.raises(LoaderError, match=r"rank 0: a loader worker died.*data\.workers"):
        take(make(workers=2), 8)


# --- content


def test_batches_are_padded_to_their_own_longest_text(make: Make) -> None:
    for batch in take(make(needs=frozenset({"phrases"})), 8):
        assert batch.text.mask.any(0).all()
        assert batch.text.most_words == int(batch.text.words.max()) + 1
        assert batch.phrases is not None and batch.phrases.tokens.mask.any(0).all()


def test_labels_and_groups(make: Make) -> None:
    batch = take(make(labels=FINDINGS), 1)[0]
    assert batch.labels is not None and batch.label_names == FINDINGS
    for row, key in enumerate(batch.keys):
        index = int(key[1:])
        expected = {FINDINGS[index % 3]: 1, FINDINGS[(index + 1) % 3]: 0}
        assert batch.labels[row].tolist() == [expected.get(name, -2) for name in FINDINGS]
    every = take(make(), 8)
    group = {key: row.tolist() for batch in every for key, row in zip(batch.keys, batch.group, strict=True)}
    for one, other in itertools.combinations(sorted(group), 2):
        a, b = int(one[1:]), int(other[1:])
        assert (group[one][0] == group[other][0]) == (a // 2 == b // 2)
        same_text = a % 3 == b % 3 and a % 2 == b % 2 == 0
        assert (group[one][1] == group[other][1]) == same_text


def test_bucketing_saves_padding_and_stays_exact(make: Make) -> None:
    plain, bucketed = take(make(), 15), take(make(bucket=True), 15)
    assert sum(int((~batch.text.mask).sum()) for batch in bucketed) < sum(
        int((~batch.text.mask).sum()) for batch in plain
    )
    keys = [key for batch in bucketed for key in batch.keys]
    assert sorted(keys[:60]) == sorted(keys[60:]) == [f"s{index:06d}" for index in range(60)]
    assert content(take(make(bucket=True, workers=2), 15)) == content(bucketed)


# --- validation


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (2, 0), (4, 1)])
def test_validation_sees_each_sample_once_over_all_ranks(make: Make, world: int, workers: int) -> None:
    loaders = [make(rank=rank, world=world, split="val", workers=workers, **RANDOM) for rank in range(world)]
    batches = [list(one.once()) for one in loaders]
    assert {len(one) for one in batches} == {2} and {len(one) for one in loaders} == {2}
    keys = [key for step in range(2) for part in batches for key in part[step].keys]
    assert keys == [f"s{index:06d}" for index in range(60, 71)]
    plain = content(list(make(split="val").once()))
    assert [row for step in range(2) for part in batches for row in content([part[step]])] == plain


def test_a_rank_without_rows_yields_an_empty_batch(make: Make) -> None:
    last = [
        list(make(rank=rank, world=8, split="val", labels=FINDINGS, needs=frozenset({"spans", "phrases"})).once())[-1]
        for rank in range(8)
    ]
    assert sorted(len(batch) for batch in last) == [0, 0, 0, 0, 0, 1, 1, 1]
    empty = next(batch for batch in last if len(batch) == 0)
    assert empty.image.shape == (0, 1, 12, 12) and len(empty.text) == 0 and empty.group.shape == (0, 2)
    assert empty.phrases is not None and len(empty.phrases.tokens) == 0


def test_where_validation_comes_from(make: Make, new_set: Callable[..., Path], toy: Path) -> None:
    alone = new_set(n=20)
    assert make(train=alone, split="val").samples == 0 and list(make(train=alone, split="val").once()) == []
    assert make(train=alone, val=str(toy), split="val").samples == 11
    with pytest.raises(ConfigError, match="no split 'val'"):
        make(val=str(alone), split="val")


def test_damage_in_validation_is_left_out_and_counted(make: Make, new_set: Callable[..., Path]) -> None:
    out = damage(new_set(n=20, val=11), {"s000025"})
    batches = list(make(train=out, split="val", max_rejected=0.1).once())
    assert [(len(batch), batch.rejected) for batch in batches] == [(7, 1), (3, 0)]


# --- the rest


def test_plan_and_texts(make: Make, toy: Path) -> None:
    loader = make(world=2)
    text = loader.stream.describe(0, 2, 2)
    assert "60 samples, 8 batches of 8 an epoch, seed 0" in text and text.count("rank 1") == 2
    assert open_stream(loader.config, 0, "train", 2).describe(0, 2, 2) == text
    texts = list(loader.stream.texts(1000))
    assert len(texts) == 60 and list(open_stream(loader.config, 0, "train", 1).texts(5)) == texts[:5]
    assert all(one.startswith("There is") for one in texts)


def test_a_pickled_source_opens_its_own_files(toy: Path) -> None:
    import pickle

    shards = ShardSet(Manifest.read(toy))
    shards.sample(0)
    assert pickle.loads(pickle.dumps(shards)).sample(3).key == "s000003"


def test_memory_does_not_grow_with_the_set(
    tmp_path: Path, preprocess: ImageProcessor, tokenizer: Tokenizer, make: Make
) -> None:
    small = write_set(tmp_path / "small", n=1000, shard_size=1000)
    large = tmp_path / "large"
    large.mkdir()
    line = (small / "manifest.jsonl").read_text()
    lines = []
    for number in range(100):
        name = f"train-{number:06d}.tar"
        (large / name).hardlink_to(small / "train-000000.tar")
        lines.append(line.replace("train-000000.tar", name))
    (large / "manifest.jsonl").write_text("".join(lines))

    def peak(path: Path) -> float:
        tracemalloc.start()
        loader = make(train=path, batch_size=16, window=1)
        loader.load_state({**loader.state(), "cursor": loader.samples - 160})
        take(loader, 20)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found / 2**20

    peak(small)
    assert peak(large) - peak(small) < 2.0  # MiB, for 100 times the samples


def test_pinning_keeps_every_field(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone())
    batch = take(make(labels=FINDINGS, needs=frozenset({"spans", "phrases"})), 1)[0]
    pinned = batch.pin_memory()
    assert pinned.image is not batch.image and torch.equal(pinned.image, batch.image)
    assert pinned.spans is not None and batch.spans is not None and pinned.spans.start is not batch.spans.start
    assert replace(pinned, image=batch.image).keys == batch.keys


def test_workers_can_be_spawned_as_well_as_forked(make: Make) -> None:
    import pickle

    loader = make(bucket=True, needs=frozenset({"spans"}), **RANDOM)
    dataset = BatchDataset(loader.stream, loader.collator, 0, 1, training=True)  # type: ignore[arg-type]
    dataset[0]
    again = pickle.loads(pickle.dumps(dataset))[64].batch
    assert again is not None and content([again]) == content([dataset[64].batch])  # type: ignore[list-item]
