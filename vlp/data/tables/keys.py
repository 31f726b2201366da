"""Which rows of a table are of one image, and what each image is called: found in one pass, told in the next.

Keys are made of names (a path, an id), and different names can make one key (`p1/s1.png` and `p1_s1.png`, `q.png` and
`q.jpg`). A name whose key is another name's too gets a hash of itself behind it; every other key stays as it is.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from array import array


def safe_key(text: str) -> str:
    """Return `text` as the name of tar members: letters, digits, `_` and `-` only (webdataset cuts names at a dot).

    A text that has to be changed gets a short hash of itself, so that two different ids never become one key.
    """
    clean = re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_")[:100]
    return clean if clean == text else with_hash(clean or "sample", text)


def with_hash(key: str, name: str) -> str:
    """Return a key with a short hash of the name that it was made of."""
    return f"{key}-{hashlib.blake2b(name.encode('utf-8', 'backslashreplace'), digest_size=4).hexdigest()}"


def path_name(path: str) -> str:
    """Return a path as images are told apart by it: `./a//b.png` and `a\\b.png` are one."""
    return posixpath.normpath(path.replace("\\", "/"))


def key_of(name: str, is_path: bool) -> str:
    """Return the key that a name makes: a path's without its ending, folders joined by `_`."""
    stem = posixpath.splitext(name[:-3] if name.lower().endswith(".nii.gz") else name)[0] if is_path else name
    return safe_key(stem.replace("/", "_").replace("\\", "_"))


class Names:
    """The names of all rows, 24 bytes for each: add them all, `close`, then ask."""

    def __init__(self) -> None:
        self._keys, self._names, self._groups = array("Q"), array("Q"), array("Q")
        self._shared: set[int] = set()
        self._counts: dict[int, int] = {}

    def add(self, name: str, is_path: bool, image: str) -> None:
        """Note a row: its name and its image; rows that agree in both are of one image."""
        self._keys.append(_hash(key_of(name, is_path)))
        self._names.append(_hash(name))
        self._groups.append(self.group(name, image))

    def close(self) -> None:
        """Find the keys that several names make, and how many rows each image has."""
        import numpy as np

        pairs = np.unique(np.stack([np.asarray(self._keys), np.asarray(self._names)], 1), axis=0)
        keys, names = np.unique(pairs[:, 0], return_counts=True)
        self._shared = {int(key) for key in keys[names > 1]}
        groups, rows = np.unique(np.asarray(self._groups), return_counts=True)
        self._counts = {int(group): int(count) for group, count in zip(groups, rows, strict=True) if count > 1}
        self._keys, self._names, self._groups = array("Q"), array("Q"), array("Q")

    def key(self, name: str, is_path: bool) -> str:
        """Return the key of a name, with a hash of the name where another name makes the same key."""
        key = key_of(name, is_path)
        return with_hash(key, name) if _hash(key) in self._shared else key

    @staticmethod
    def group(name: str, image: str) -> int:
        """Return a number that rows of one image share."""
        return _hash(f"{name}\0{image}")

    def rows_of(self, group: int) -> int:
        """Return how many rows an image has."""
        return self._counts.get(group, 1)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).digest(), "little")
