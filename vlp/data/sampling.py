"""The global order of samples: which rank reads which, as a pure function of numbers. No files, no torch, no state.

Position p of a source's stream belongs to epoch p // N. Each epoch permutes the shards, cuts them into windows, and
shuffles the samples of a window together. The stream of a training run takes its positions from one source, or from
several in fixed shares. Batch k is positions [k B, (k + 1) B) and rank r of W has the r-th of its W equal slices, so
that the order depends on neither ranks nor workers, and any position is found without visiting those before it.

Shuffling sorts hashes (splitmix64) rather than calling a random generator, whose streams may change between versions.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

CYCLE = 4096
"""Positions after which the shares of several sources are met exactly; the finest share that can be asked for."""

_CACHED_WINDOWS = 4
_POOL = 16


@dataclass(frozen=True, slots=True)
class SampleRef:
    """One sample of the stream: `index` into `source`, seen there in epoch `epoch`, at `position` of the stream."""

    position: int
    source: int
    epoch: int
    index: int


def seed_of(*parts: object) -> int:
    """Return a 64-bit seed that depends on all of `parts` (through their text) and nothing else."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def hashes(seed: int, numbers: np.ndarray) -> np.ndarray:
    """Return splitmix64 of `seed` at `numbers`, uint64 of the same shape. Source: Steele, Lea, Flood (2014)."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed


def permutation(seed: int, n: int) -> np.ndarray:
    """Return a permutation of range(n), int64 [n]."""
    return np.argsort(hashes(seed, np.arange(n)), kind="stable")


class Order:
    """The endless order of one source's samples.

    `counts` [S]: samples per shard. `lengths(shard)` gives its samples' text lengths; with `unit` > 0 the samples of a
    window are grouped into runs of `unit` that are alike in length, aligned to multiples of `unit` in the stream; the
    runs are in random order. Finding a position costs O(window), and windows are remembered.
    """

    def __init__(
        self,
        counts: Sequence[int],
        digest: str,
        seed: int,
        window: int,
        unit: int = 0,
        lengths: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.first = np.concatenate([[0], np.cumsum(self.counts)])
        self.total = int(self.first[-1])
        if self.total < 1 or window < 1:
            raise ValueError(f"an order needs samples and a window: {self.total} samples, window {window}")
        self.digest, self.seed, self.window, self.unit, self.lengths = digest, seed, window, unit, lengths
        self._epochs: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def at(self, position: int) -> tuple[int, int]:
        """Return (epoch, index of the sample) at `position` of the stream."""
        epoch, inside = divmod(position, self.total)
        _, edges = self._epoch(epoch)
        number = int(np.searchsorted(edges, inside, side="right")) - 1
        return epoch, int(self._window(epoch, number)[inside - int(edges[number])])

    def shards_near(self, position: int, ahead: int = 0) -> list[int]:
        """Return the shards of the window that holds `position`, or of the window that comes `ahead` of it (0 or 1)."""
        epoch, inside = divmod(position, self.total)
        shards, edges = self._epoch(epoch)
        number = int(np.searchsorted(edges, inside, side="right")) - 1 + ahead
        if number == len(edges) - 1:
            (shards, _), number = self._epoch(epoch + 1), 0
        return [int(shard) for shard in shards[number * self.window : (number + 1) * self.window]]

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the shards of an epoch in order, and where each of its windows begins (and the last one ends)."""
        found = self._epochs.get(epoch)
        if found is None:
            shards = permutation(seed_of("shards", self.digest, self.seed, epoch), len(self.counts))
            sizes = np.add.reduceat(self.counts[shards], np.arange(0, len(shards), self.window))
            found = self._epochs[epoch] = shards, np.concatenate([[0], np.cumsum(sizes)])
            if len(self._epochs) > 2:
                self._epochs.popitem(last=False)
        return found

    def _window(self, epoch: int, number: int) -> np.ndarray:
        found = self._windows.get((epoch, number))
        if found is not None:
            self._windows.move_to_end((epoch, number))
            return found
        shards, edges = self._epoch(epoch)
        chosen = shards[number * self.window : (number + 1) * self.window]
        samples = np.concatenate([np.arange(self.first[shard], self.first[shard + 1]) for shard in chosen])
        seed = seed_of("samples", self.digest, self.seed, epoch, self.window, number)
        order = permutation(seed, len(samples))
        if self.unit and self.lengths is not None:
            lengths = np.concatenate([self.lengths(int(shard)) for shard in chosen])
            order = _bucket(order, lengths, self.unit, epoch * self.total + int(edges[number]), seed)
        made: np.ndarray = samples[order]
        self._windows[epoch, number] = made
        while len(self._windows) > _CACHED_WINDOWS:
            self._windows.popitem(last=False)
        return made


def _bucket(order: np.ndarray, lengths: np.ndarray, unit: int, start: int, seed: int) -> np.ndarray:
    """Reorder so that runs of `unit` positions, aligned to multiples of it in the stream, are alike in length.

    Lengths are sorted within pools of 16 runs only: enough to save nearly all of the padding, and a run does not meet
    the same companions in the next epoch.
    """
    head = min(-start % unit, len(order))
    runs = (len(order) - head) // unit
    body = order[head : head + runs * unit].reshape(runs, unit)
    pieces = [order[:head]]
    if runs:
        pools = (body[first : first + _POOL].reshape(-1) for first in range(0, runs, _POOL))
        alike = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
        body = np.concatenate(alike).reshape(runs, unit)
        pieces.append(body[permutation(seed_of("runs", seed), runs)].reshape(-1))
    pieces.append(order[head + runs * unit :])
    return np.concatenate(pieces)


class Mixture:
    """Positions of the stream shared out among sources: in each cycle of 4,096, source s has a fixed number of them.

    With `unit` > 1 it is runs of so many positions, aligned to multiples of it, that are shared out: whole batches.
    """

    def __init__(self, weights: Sequence[float], seed: int, unit: int = 1) -> None:
        shares = np.asarray(weights, dtype=np.float64)
        if len(shares) == 0 or not np.isfinite(shares).all() or (shares <= 0).any():
            raise ValueError(f"weights must be positive, found {list(weights)}")
        exact = shares / shares.sum() * CYCLE
        if exact.min() < 0.5:
            raise ValueError(f"a weight of {shares.min():g} in {shares.sum():g} is below one in {CYCLE} samples")
        self.seed, self.unit = seed, unit
        self.quotas = _round_to_sum(exact, CYCLE)
        self._pattern = np.repeat(np.arange(len(shares)), self.quotas)
        self._cycle: tuple[int, np.ndarray, np.ndarray] | None = None

    def at(self, position: int) -> tuple[int, int]:
        """Return (source, position in that source's own stream)."""
        if len(self.quotas) == 1:
            return 0, position
        run, place = divmod(position, self.unit)
        cycle, inside = divmod(run, CYCLE)
        if self._cycle is None or self._cycle[0] != cycle:
            sources = self._pattern[permutation(seed_of("mixture", self.seed, cycle), CYCLE)]
            before = np.empty(CYCLE, dtype=np.int64)
            for source, quota in enumerate(self.quotas):
                before[sources == source] = cycle * int(quota) + np.arange(quota)
            self._cycle = cycle, sources, before
        return int(self._cycle[1][inside]), int(self._cycle[2][inside]) * self.unit + place


def _round_to_sum(values: np.ndarray, total: int) -> np.ndarray:
    """Round positive values to integers of at least 1 that sum to `total`, by largest remainder."""
    rounded: np.ndarray = np.maximum(np.floor(values).astype(np.int64), 1)
    while rounded.sum() != total:
        gap = values - rounded
        step = 1 if rounded.sum() < total else -1
        rounded[int(np.argmax(np.where(rounded + step >= 1, gap * step, -np.inf)))] += step
    return rounded


class Plan:
    """The stream of a run: what is at each position, and which positions a rank has of each batch."""

    def __init__(self, orders: Sequence[Order], weights: Sequence[float], seed: int, unit: int = 1) -> None:
        self.orders = tuple(orders)
        self.mixture = Mixture(weights, seed, unit)

    def draw(self, position: int) -> SampleRef:
        """Return the sample at a position of the stream."""
        return self._at(position, *self.mixture.at(position))

    def substitutes(self, position: int, size: int, count: int) -> Iterator[SampleRef]:
        """Yield `count` samples from a batch of `size` further on; of the position's own source where batches are of one."""
        source, own = self.mixture.at(position)
        for place in range(size, size + count):
            if self.mixture.unit == 1:
                yield self.draw(position + place)
            else:
                yield self._at(position + place, source, own + place)

    def _at(self, position: int, source: int, own: int) -> SampleRef:
        epoch, index = self.orders[source].at(own)
        return SampleRef(position, source, epoch, index)


def rows(cursor: int, size: int, rank: int, world: int) -> range:
    """Return the positions of rank `rank` in the batch of `size` that starts at `cursor`; slices differ by at most one."""
    return range(cursor + rank * size // world, cursor + (rank + 1) * size // world)
