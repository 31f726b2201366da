"""Near-identical images and reports: hashes whose distance is small, or embeddings of any checkpoint.

Images: a perceptual hash of 256 bits, the signs of the 16 x 16 lowest frequencies of a 64 x 64 thumbnail. Radiographs
look alike, so the usual 64 bits are too few: they call different patients equal. Texts: a similarity hash of 64 bits
over word triples. Both are compared all against all, exactly, in blocks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .sources.base import Reject

IMAGE_DISTANCE = 20
TEXT_DISTANCE = 3
BLOCK = 1024

Array = np.ndarray[Any, Any]


def image_hash(image: bytes) -> Array:
    """Return the perceptual hash of an encoded image, 32 bytes uint8; raises Reject."""
    import cv2

    try:
        grey = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error:  # more pixels than OpenCV allows, no bytes at all
        grey = None
    if grey is None:
        raise Reject("image_unreadable", "not an image")
    small = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:16, :16].reshape(-1)
    low[0] = 0.0  # the mean: brightness is not content
    return np.packbits(low > np.median(low))


def text_hash(text: str) -> Array:
    """Return the similarity hash of a text, 8 bytes uint8; case, digits and punctuation do not count."""
    words = re.sub(r"[^a-z]+", " ", text.lower()).split()
    triples = [" ".join(words[at : at + 3]) for at in range(max(len(words) - 2, 1))]
    votes = np.zeros(64)
    for triple in triples:
        digest = hashlib.blake2b(triple.encode(), digest_size=8).digest()
        votes += np.unpackbits(np.frombuffer(digest, np.uint8)) * 2.0 - 1.0
    return np.packbits(votes > 0)


def near_hashes(hashes: Array, distance: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs (i < j) of rows of `hashes` [N, bytes] uint8 that differ in at most `distance` bits."""
    words = np.ascontiguousarray(hashes).view(np.uint64)
    for start in range(0, len(words), BLOCK):
        block = words[start : start + BLOCK]
        for other in range(start, len(words), BLOCK):
            apart = np.zeros((len(block), len(words[other : other + BLOCK])), np.uint16)
            for column in range(words.shape[1]):
                apart += np.bitwise_count(block[:, column, None] ^ words[None, other : other + BLOCK, column])
            for row, at in np.argwhere(apart <= distance):
                if start + row < other + at:
                    yield int(start + row), int(other + at)


def near_embeddings(embeddings: Array, similarity: float) -> Iterator[tuple[int, int]]:
    """Yield the pairs (i < j) of rows [N, D] float32 whose cosine is at least `similarity`, through faiss.

    Raises ImportError with the name of the extra where faiss is missing.
    """
    try:
        import faiss
    except ImportError:
        raise ImportError("embeddings need faiss: install vlp[cpu] or vlp[gpu]") from None
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    unit = np.ascontiguousarray(unit, np.float32)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    for start in range(0, len(unit), BLOCK):
        limits, _, found = index.range_search(unit[start : start + BLOCK], float(similarity) - 1e-6)
        for row in range(len(limits) - 1):
            for other in found[limits[row] : limits[row + 1]]:
                if start + row < other:
                    yield start + row, int(other)


def embed(model: Path, images: Iterable[bytes], batch: int = 32) -> Array:
    """Return the image embeddings [N, D] float32 of a run folder, an export or a hub name."""
    import torch

    from vlp.hub import from_pretrained
    from vlp.preprocess import decode

    loaded = from_pretrained(str(model))
    rows: list[Array] = []
    waiting: list[Any] = []

    def flush() -> None:
        if waiting:
            with torch.no_grad():
                rows.append(loaded.model.encode_image(torch.stack(waiting)).float().cpu().numpy())
            waiting.clear()

    for data in images:
        pixels = decode(data, loaded.preprocess.spec.channels)
        waiting.append(loaded.preprocess.eval(pixels))
        if len(waiting) == batch:
            flush()
    flush()
    return np.concatenate(rows) if rows else np.zeros((0, 1), np.float32)


def group(pairs: Iterable[tuple[int, int]], size: int) -> list[list[int]]:
    """Return the groups of two or more that pairs connect, each in order, in order of their first member."""
    parent = list(range(size))

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    members: dict[int, list[int]] = {}
    for one in range(size):
        members.setdefault(root(one), []).append(one)
    return [found for _, found in sorted(members.items()) if len(found) > 1]


def thin(groups: Sequence[Sequence[int]], keys: Sequence[str], keep: int, seed: int) -> set[int]:
    """Return what to leave out: of each group all but the `keep` members whose seeded hash of the key is smallest.

    The rule looks at keys alone, so that it gives the same answer wherever and in whatever order it is run, and neither
    favours nor avoids any label.
    """
    dropped: set[int] = set()
    for members in groups:
        ordered = sorted(members, key=lambda one: hashlib.blake2b(f"{seed}\0{keys[one]}".encode()).digest())
        dropped.update(ordered[keep:])
    return dropped
