"""Whether a model was trained on what it is scored on: digests of shards, keys and patients, from what its checkpoint says.

A published number means nothing beside a score on one's own training data, so it is withheld there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from vlp.core.config import read_yaml
from vlp.core.untrusted import read_json

from .dataset import Data

MOST_RECORDS = 200_000
"""Of larger training sets the patients are not read: that takes a read of each record."""
HASH = 16
"""So many digits of a shard's sha256 tell shards apart."""
UNUSABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""What a file that is not there, or not as we write it, is found out by."""


def training_of(folder: Path) -> tuple[dict[str, Any], ...] | None:
    """Return what a checkpoint or export says of its training data, set by set; None where it says nothing.

    `shards`: the beginnings of their sha256 (a checkpoint's and an export's `config.json`); `path` and `split`: where they
    were (a checkpoint's recipe).
    """
    found: list[dict[str, Any]] = []
    with suppress(*UNUSABLE):
        stated = (read_json(folder / "config.json").get("extra") or {}).get("trained_on") or ()
        found += [
            {"digest": str(data["digest"]), "shards": [str(name)[:HASH] for name in data["shards"]]} for data in stated
        ]
    with suppress(*UNUSABLE):
        train = (read_yaml(folder / "recipe.yaml").get("data") or {}).get("train") or ()
        sources = [{"path": train}] if isinstance(train, str) else [dict(source) for source in train]
        found += [{"path": str(source["path"]), "split": source.get("split", "train")} for source in sources]
    return tuple(found) or None


class Training:
    """The data that a model was trained on, read when a task is first compared with it."""

    def __init__(self, sets: Sequence[Mapping[str, Any]] | None) -> None:
        self._sets = list(sets or ())
        self._shards = {name for stated in self._sets for name in stated.get("shards", ())}

    @cached_property
    def _read(self) -> tuple[dict[str, set[tuple[str, int]]], set[tuple[str, str]], list[str], list[str]]:
        """Return (source, checksum) of each key, the patients by source, what could not be read, and what is too large."""
        from vlp.data.shards.manifest import Manifest
        from vlp.data.shards.shard_set import ShardSet

        keys: dict[str, set[tuple[str, int]]] = {}
        patients: set[tuple[str, str]] = set()
        missing: list[str] = []
        large: list[str] = []
        for stated in self._sets:
            if "path" not in stated:
                continue
            path = Path(str(stated["path"]))
            try:
                manifest = Manifest.read(path).select(stated.get("split"))
                for number, shard in enumerate(manifest.shards):
                    self._shards.add(shard.sha256[:HASH])
                    columns = manifest.columns(number)
                    for row in range(len(columns)):
                        keys.setdefault(columns.key(row), set()).add((shard.source, int(columns.crc32[row])))
                if len(manifest) > MOST_RECORDS:
                    large.append(f"the patients of {path.name}, which has {len(manifest)} records")
                    continue
                records = map(ShardSet(manifest).record, range(len(manifest)))
                patients.update((record.source, record.patient) for record in records if record.patient)
            except (ValueError, OSError):
                missing.append(f"the training set {path.name}")
        return keys, patients, missing, large

    def overlap(self, data: Data, indices: Sequence[int]) -> dict[str, Any]:
        """Return how many of the scored images, and of their patients, the model was trained on, as results state it.

        `none` needs keys to compare with, or shards of one build with those of the training: `vlp-prep` stores an image of
        a build once.
        """
        if not self._sets:
            return {"status": "unknown", "reason": "what the model was trained on is not known"}
        keys, patients, missing, large = self._read
        images = sum(self._is_known(data, index, keys) for index in indices)
        scored = [data.records[index] for index in indices if data.records[index].patient]
        shared = len({(record.source, record.patient) for record in scored} & patients)
        reasons = [f"could not be compared: {'; '.join([*missing, *large])}"] if missing or large else []
        if not keys:
            reasons.append(
                "the checkpoint keeps digests of shards only, so the same images in other files are not noticed"
            )
        alike = len({record.patient for record in scored} & {name for _, name in patients})
        if alike and not data.build:  # a table's ids may be those of any hospital
            reasons.append(f"{alike} patients have ids of training patients; whether they are the same is not known")
        certain = (keys and not missing) or any(name[:HASH] in self._shards for name in data.build)
        status = "found" if images or shared else "none" if certain else "unknown"
        found: dict[str, Any] = {"status": status, "images": images, "patients": shared}
        return found | ({"reason": "; ".join(reasons)} if reasons else {})

    def _is_known(self, data: Data, index: int, keys: Mapping[str, set[tuple[str, int]]]) -> bool:
        """Return whether an image lies in a training shard, or its key is one of the same source or the same content."""
        place = data.place_of(index)
        record = data.records[index]
        alike = keys.get(record.key, ())
        if place is None:
            return bool(alike)
        is_alike = any((source and source == record.source) or checksum == place[1] for source, checksum in alike)
        return is_alike or place[0][:HASH] in self._shards


def overlap_words(found: Mapping[str, Any], references: bool) -> str:
    """Return in words that a score is on training data."""
    parts = [f"{found[name]} {name}" for name in ("images", "patients") if found[name]]
    withheld = "; published numbers are withheld" if references else ""
    return f"scored on the model's own training data: {' and '.join(parts)} were trained on{withheld}"


def doubt_words(found: Mapping[str, Any]) -> str:
    """Return in words that a score with published numbers beside it may be on training data."""
    return f"may be on the model's own training data, published numbers stand beside it all the same: {found['reason']}"
