"""Near-identical images and reports: hashes whose distance is small, or embeddings of any checkpoint.

Images: a perceptual hash of 256 bits, the signs of the 16 x 16 lowest frequencies of a 64 x 64 thumbnail. Radiographs
look alike, so the usual 64 bits are too few: they call different patients equal. Texts: a similarity hash of 64 bits
over word triples. Both are compared all against all, exactly, in blocks (faiss, an optional dependency); equal ones are put
together first, so that copies cost nothing, and what is connected is found block by block (scipy), so that memory does not
grow with the pairs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vlp.core.config import ConfigError
from vlp.modalities.image.decode import decode

from ..images.planes import projection

IMAGE_DISTANCE = 20
TEXT_DISTANCE = 3
BLOCK = 1024
LONGEST_WORD = 200
_WORD = re.compile(r"[^\W\d_]+")

Array = np.ndarray[Any, Any]


def greys_of(image: bytes, is_volume: bool) -> Array:
    """Return the greys of an encoded image, uint8 [H, W]; of a volume, as it is seen from the front.

    Two reconstructions of one scan look alike from there, whatever their slices. Raises ImageError.
    """
    return projection(image) if is_volume else decode(image, 1)


def image_hash(image: bytes, is_volume: bool = False) -> Array:
    """Return the perceptual hash of an encoded image or volume, 32 bytes uint8; raises ImageError."""
    import cv2

    small = cv2.resize(greys_of(image, is_volume), (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:16, :16].reshape(-1)
    low[0] = 0.0  # the mean: brightness is not content
    return np.packbits(low > np.median(low))


def text_hash(text: str) -> Array:
    """Return the similarity hash of a text, 8 bytes uint8; case, digits and punctuation do not count.

    A text without a word is hashed as it is.
    """
    words = [word[:LONGEST_WORD] for word in _WORD.findall(text.lower())] or [text]
    triples = (" ".join(words[at : at + 3]).encode() for at in range(max(len(words) - 2, 1)))
    digests = b"".join(hashlib.blake2b(triple, digest_size=8).digest() for triple in triples)
    bits = np.unpackbits(np.frombuffer(digests, np.uint8).reshape(-1, 8), axis=1)
    return np.packbits(2 * bits.sum(0, dtype=np.int64) > len(bits))


def near_hashes(hashes: Array, distance: int) -> Iterator[Array]:
    """Yield pairs [P, 2] (i < j) of rows of `hashes` [N, bytes] uint8 that differ in at most `distance` bits.

    Of equal rows, each is paired with the first of them, and only that one with others. Raises ConfigError without faiss.
    """
    rows, firsts, copies = _distinct(hashes)
    yield copies
    radius = distance + 1  # faiss returns what is nearer than this
    yield from _near(load_faiss().IndexBinaryFlat(8 * rows.shape[1]), rows, radius, firsts)


def near_embeddings(embeddings: Array, similarity: float) -> Iterator[Array]:
    """Yield pairs [P, 2] (i < j) of rows [N, D] float32 whose cosine is at least `similarity`.

    Of equal rows, each is paired with the first of them, and only that one with others. Raises ConfigError without faiss.
    """
    rows, firsts, copies = _distinct(embeddings)
    yield copies
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    yield from _near(load_faiss().IndexFlatIP(rows.shape[1]), unit.astype(np.float32), similarity - 1e-6, firsts)


def load_faiss() -> Any:
    """Return the module that finds near duplicates; raises ConfigError with the names of the extras that have it."""
    try:
        import faiss
    except ImportError:
        raise ConfigError("near duplicates are found with faiss: install vlp[cpu] or vlp[gpu]") from None
    return faiss


def _near(index: Any, rows: Array, radius: float, names: Array) -> Iterator[Array]:
    """Yield the pairs of names whose rows an index of faiss finds within a radius, those of a block of rows at a time."""
    index.add(rows)
    for start in range(0, len(rows), BLOCK):
        limits, _, found = index.range_search(rows[start : start + BLOCK], radius)
        mine = start + np.repeat(np.arange(len(limits) - 1), np.diff(limits).astype(np.int64))
        yield names[np.stack([mine, found], 1)[mine < found]]


def _distinct(rows: Array) -> tuple[Array, Array, Array]:
    """Return the distinct rows in order, the first index of each, and the pairs [P, 2] (first, other) of equal ones."""
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    owner, firsts, place = first[inverse.reshape(-1)], np.sort(first), np.arange(len(rows))
    return rows[firsts], firsts, np.stack([owner, place], 1)[owner != place]


def embed(model: Path, images: Iterable[bytes], batch: int = 32, trust: Sequence[str] = ()) -> Array:
    """Return the image embeddings [N, D] float32 of a run folder, an export or a hub name; `trust` as `from_pretrained`."""
    import torch

    from vlp.hub import from_pretrained

    loaded = from_pretrained(str(model), trust)
    inputs = (loaded.preprocess.eval(loaded.preprocess.read(data))[0] for data in images)
    rows: list[Array] = []
    with torch.no_grad():
        while waiting := list(islice(inputs, batch)):
            rows.append(loaded.model.encode_image(torch.stack(waiting)).float().cpu().numpy())
    return np.concatenate(rows) if rows else np.zeros((0, 1), np.float32)


def group(pairs: Iterable[Array], size: int) -> list[list[int]]:
    """Return the groups of two or more that blocks of pairs [P, 2] connect, in order, by order of their first member."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    labels = np.arange(size)
    for block in pairs:
        first, second = labels[block[:, 0]], labels[block[:, 1]]
        apart = first != second
        if apart.any():
            edges = (np.ones(apart.sum(), bool), (first[apart], second[apart]))
            _, joined = connected_components(coo_array(edges, shape=(size, size)), directed=False)
            labels = joined[labels]
    order = np.argsort(labels, kind="stable")
    cuts = np.flatnonzero(np.diff(labels[order])) + 1
    members = (found.tolist() for found in np.split(order, cuts))
    return sorted(found for found in members if len(found) > 1)


def thin(groups: Sequence[Sequence[int]], keys: Sequence[str], keep: int, seed: int) -> set[int]:
    """Return what to leave out: of each group all but the `keep` members whose seeded hash of the key is smallest.

    The rule looks at keys alone, so that it gives the same answer wherever and in whatever order it is run, and neither
    favours nor avoids any label.
    """
    dropped: set[int] = set()
    for members in groups:
        ordered = sorted(members, key=lambda at: hashlib.blake2b(f"{seed}\0{keys[at]}".encode()).digest())
        dropped.update(ordered[keep:])
    return dropped
