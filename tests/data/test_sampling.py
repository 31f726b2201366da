"""The global order: compared with a slow restatement in plain Python, and its properties for any sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.data.sampling import CYCLE, Mixture, Order, Plan, permutation, rows, seed_of

MASK = (1 << 64) - 1


def splitmix64(state: int) -> int:
    """Vigna's reference, one number at a time."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def slow_permutation(seed: int, n: int) -> list[int]:
    return sorted(range(n), key=lambda i: splitmix64((seed + i * 0x9E3779B97F4A7C15) & MASK))


def slow_epoch(counts: list[int], digest: str, seed: int, epoch: int, window: int) -> list[int]:
    first = [sum(counts[:index]) for index in range(len(counts))]
    shards = slow_permutation(seed_of("shards", digest, seed, epoch), len(counts))
    order = []
    for number, at in enumerate(range(0, len(shards), window)):
        samples = [first[one] + row for one in shards[at : at + window] for row in range(counts[one])]
        own = slow_permutation(seed_of("samples", digest, seed, epoch, window, number), len(samples))
        order += [samples[one] for one in own]
    return order


def test_splitmix64_is_the_published_one() -> None:
    assert [splitmix64(1234567 + 0x9E3779B97F4A7C15 * i & MASK) for i in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@given(st.integers(0, MASK), st.integers(1, 200))
def test_permutation_equals_the_slow_one(seed: int, n: int) -> None:
    assert permutation(seed, n).tolist() == slow_permutation(seed, n)


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    seed=st.integers(0, 2**31),
    window=st.integers(1, 14),
)
def test_order_equals_the_slow_one(counts: list[int], seed: int, window: int) -> None:
    order = Order(counts, "digest", seed, window)
    total = sum(counts)
    for epoch in range(3):
        expected = slow_epoch(counts, "digest", seed, epoch, window)
        assert [order.at(epoch * total + inside) for inside in range(total)] == [(epoch, one) for one in expected]
        assert sorted(expected) == list(range(total))


def test_the_order_of_today_is_the_order_of_tomorrow() -> None:
    order = Order([3, 4, 5], "d", 7, 2)
    assert [order.at(position)[1] for position in range(24)] == GOLDEN


GOLDEN = [7, 8, 10, 11, 0, 2, 1, 9, 4, 5, 3, 6, 2, 5, 1, 6, 4, 3, 0, 11, 10, 8, 9, 7]


def test_passes_seeds_digests_and_windows_give_other_orders() -> None:
    def first(digest: str = "d", seed: int = 0, window: int = 4, epoch: int = 0) -> list[int]:
        order = Order([10] * 8, digest, seed, window)
        return [order.at(epoch * 80 + inside)[1] for inside in range(80)]

    orders = [first(), first(digest="e"), first(seed=1), first(window=2), first(epoch=1)]
    assert len({tuple(one) for one in orders}) == len(orders)


def test_reading_stays_within_a_window() -> None:
    order = Order([10] * 12, "d", 0, 3)
    for start in range(0, 120, 30):
        shards = {order.at(start + inside)[1] // 10 for inside in range(30)}
        assert len(shards) == 3 and shards == set(order.shards_near(start + 29))


def test_any_position_is_found_without_the_ones_before() -> None:
    visited: list[int] = []

    def lengths(shard: int) -> np.ndarray:
        visited.append(shard)
        return np.arange(10)

    order = Order([10] * 1000, "d", 0, 4, unit=8, lengths=lengths)
    far = 10_000 * 123_456 + 5_003
    assert order.at(far) == Order([10] * 1000, "d", 0, 4, unit=8, lengths=lambda _: np.arange(10)).at(far)
    assert len(visited) == 4


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    window=st.integers(1, 8),
    unit=st.integers(1, 16),
    seed=st.integers(0, 1000),
)
def test_buckets_are_a_permutation_whatever_the_sizes(counts: list[int], window: int, unit: int, seed: int) -> None:
    texts = [np.random.default_rng(shard).integers(1, 100, count) for shard, count in enumerate(counts)]
    order = Order(counts, "d", seed, window, unit=unit, lengths=lambda shard: texts[shard])
    total = sum(counts)
    for epoch in range(2):
        seen = [order.at(epoch * total + inside)[1] for inside in range(total)]
        assert sorted(seen) == list(range(total))


def test_buckets_put_like_lengths_into_the_batches_of_the_stream() -> None:
    texts = [np.random.default_rng(shard).integers(1, 200, 53) for shard in range(12)]
    flat = np.concatenate(texts)
    plain = Order([53] * 12, "d", 0, 6)
    bucketed = Order([53] * 12, "d", 0, 6, unit=16, lengths=lambda shard: texts[shard])

    def padded(order: Order) -> int:
        """Count the characters of all batches when each text is padded to its batch's longest."""
        batches = [[flat[order.at(start + row)[1]] for row in range(16)] for start in range(0, 53 * 12 * 2, 16)]
        return sum(max(batch) * len(batch) for batch in batches)

    real = 2 * int(flat.sum())
    assert padded(bucketed) - real < 0.4 * (padded(plain) - real)


@settings(max_examples=30)
@given(st.lists(st.floats(0.05, 20), min_size=1, max_size=6), st.integers(0, 100))
def test_mixture_counts_each_source_without_gaps(weights: list[float], seed: int) -> None:
    mixture = Mixture(weights, seed)
    next_of = [0] * len(weights)
    for position in range(CYCLE + 500):
        source, own = mixture.at(position)
        assert own == next_of[source]
        next_of[source] += 1
    share = np.array(weights) / sum(weights)
    assert np.abs(mixture.quotas / CYCLE - share).max() <= 1 / CYCLE
    assert mixture.quotas.sum() == CYCLE and mixture.quotas.min() >= 1


def test_mixture_far_out_agrees_with_counting() -> None:
    mixture = Mixture([3, 1], 5)
    far = CYCLE * 1_000_003 + 17
    source, own = mixture.at(far)
    before = sum(1 for inside in range(17) if mixture.at(CYCLE * 1_000_003 + inside)[0] == source)
    assert own == int(mixture.quotas[source]) * 1_000_003 + before


@pytest.mark.parametrize("weights", [[], [0.0, 1.0], [-1.0], [float("nan")], [1.0, 1e-9]])
def test_impossible_weights(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        Mixture(weights, 0)


def test_each_source_of_a_mixture_goes_through_its_own_passes() -> None:
    plan = Plan([Order([5, 5], "a", 0, 1), Order([7], "b", 0, 1)], [1.0, 2.0], seed=3)
    seen: dict[tuple[int, int], list[int]] = {}
    for position in range(300):
        draw = plan.draw(position)
        seen.setdefault((draw.source, draw.epoch), []).append(draw.index)
    for (source, epoch), indices in seen.items():
        total = (10, 7)[source]
        if (source, epoch + 1) in seen:
            assert sorted(indices) == list(range(total))


@given(st.integers(0, 10**9), st.integers(0, 300), st.integers(1, 17))
def test_ranks_share_a_batch_without_gap_or_overlap(cursor: int, size: int, world: int) -> None:
    parts = [rows(cursor, size, rank, world) for rank in range(world)]
    assert [one for part in parts for one in part] == list(range(cursor, cursor + size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(
    weights=st.lists(st.floats(0.1, 5), min_size=2, max_size=4), unit=st.integers(2, 33), seed=st.integers(0, 99),
    start=st.integers(0, 3 * CYCLE),
)  # fmt: skip
def test_batches_of_one_source(weights: list[float], unit: int, seed: int, start: int) -> None:
    """A run of `unit` is of one source, which goes on where its run before ended: the plain mixture, run by run."""
    mixture, plain = Mixture(weights, seed, unit), Mixture(weights, seed)
    for run in range(start, start + 5):
        source, own = plain.at(run)
        found = [mixture.at(run * unit + place) for place in range(unit)]
        assert found == [(source, own * unit + place) for place in range(unit)]


def test_substitutes_are_of_the_same_source_where_batches_are() -> None:
    orders = [Order([40, 40], name, 0, 2) for name in ("a", "b")]
    mixed, plain = Plan(orders, [1, 1], 0, unit=8), Plan(orders, [1, 1], 0)
    for position in range(0, 160, 13):
        first = mixed.draw(position)
        found = list(mixed.substitutes(position, 8, 30))
        assert {ref.source for ref in found} == {first.source} and len({(ref.epoch, ref.index) for ref in found}) == 30
        assert list(plain.substitutes(position, 8, 3)) == [plain.draw(position + 8 + more) for more in range(3)]
