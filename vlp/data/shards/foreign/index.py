"""Index a shard that another tool wrote: which split it is of, where its samples' members lie, and what is not read."""

from __future__ import annotations

import hashlib
import logging
import mmap
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vlp.core.untrusted import open_regular, parse_json, shown

from ...tables.cells import absent
from ..manifest import MAX_MEMBER, Shard, text_length
from ..sample_io import SampleError, decode_sample
from ..tar_index import Entry, ManifestError, checksum, encode_name, scan_tar
from .members import (
    ARCHIVES,
    CAPTION_MEMBERS,
    CHOSEN_FIELD,
    CHOSEN_TEXT,
    IMAGE_ENDINGS,
    TEXT_MEMBERS,
    SplitNameError,
    images,
    is_mask_key,
    is_read,
    split_of_key,
    split_of_path,
    split_of_word,
)

log = logging.getLogger(__name__)

_SHOWN = 12
NAMED = 20
"""How many of the samples that are left out the log names."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user says of a set: the member that is the image, the one that is the text, the split of all its shards."""

    image: str | None = None
    text: str | None = None
    split: str | None = None


@dataclass
class Findings:
    """What was found in a set of shards: counts of what is there, of what is not read, and why samples were left out."""

    samples: int = 0
    without_text: int = 0
    members: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    first_left_out: str = ""
    archives: list[str] = field(default_factory=list)
    unsplit: list[str] = field(default_factory=list)
    splits: set[str] = field(default_factory=set)

    def lines(self) -> list[str]:
        """Return what the user has to know, one line each; [] for a set in which everything is read."""
        there = ", ".join(f"{name} ({count})" for name, count in self.members.most_common(_SHOWN))
        found = []
        if self.without_text:
            found.append(
                f"{self.without_text} of {self.samples} samples have no text (members that are there: {there}). A text is "
                f"read from the members {', '.join((*TEXT_MEMBERS, *CAPTION_MEMBERS))}, from fields of these names of the "
                "json, or from the member or field of the json that --text names"
            )
            if any(re.search(r"^[0-9].*[.]", name) for name in self.members):  # 2.840.txt: of a key 1.2.840
                found.append(
                    "are there dots in the keys? A key ends at the first dot of a file name: rename 1.2.txt to 1_2.txt"
                )
        if not self.without_text and (unread := self._unread()):
            found.append(f"members that are not read: {unread}")
        found += [f"{count} {what}" for what, count in self.notes.most_common(2 * _SHOWN)]
        if self.archives:
            found.append(
                f"not read, as only plain tar files are: {', '.join(self.archives[:_SHOWN])} "
                f"({len(self.archives)} in all): unpack them (gunzip makes a .tar of a .tgz) and index again"
            )
        if self.unsplit and self.splits:
            found.append(
                f"{len(self.unsplit)} shards name no split while others do, so no split holds them: "
                f"{', '.join(self.unsplit[:_SHOWN])}"
            )
        return found

    def _unread(self) -> str:
        names = [(name, count) for name, count in self.members.most_common() if not is_read(name)]
        return ", ".join(f"{name} ({count})" for name, count in names[:_SHOWN])

    def leave_out(self, reason: str, what: str) -> None:
        self.left_out[reason] += 1
        self.first_left_out = self.first_left_out or what
        if sum(self.left_out.values()) <= NAMED:
            log.warning("left out: %s", what)


def archives_of(folder: Path) -> list[str]:
    """Return the names of archives in a folder that are no plain tar files."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.name.lower().endswith(ARCHIVES))
    return sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))


def index_shard(
    path: Path, name: str, source: str, version: str, choices: Choices, findings: Findings
) -> tuple[Shard, list[Entry]]:
    """Return the header and the samples of a tar file. Raises ManifestError for what cannot be read as one set.

    Samples without an image or with a broken record, and masks that are samples of their own, are left out and counted.
    """
    entries: list[Entry] = []
    splits: Counter[str | None] = Counter()
    try:
        file = open_regular(path)
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror or error}") from None
    with file:
        if path.stat().st_size == 0:
            raise ManifestError(f"{path} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
            found = list(scan_tar(path))
            keys = {entry.key.lower() for entry in found}
            for entry in found:
                findings.members.update([member for member in entry.members if member != (choices.text or "").lower()])
                if choices.image is None and is_mask_key(entry.key, keys):
                    findings.leave_out("masks", f"{name}: key {entry.key!r} is a mask")
                    continue
                largest = max(size for _, size in entry.members.values())
                if largest > MAX_MEMBER:
                    what = f"a member of {largest} bytes, {MAX_MEMBER} are allowed"
                    findings.leave_out("samples", f"{name}: key {entry.key!r}: {what}")
                    continue
                apply_choices(entry, choices)
                data = {key: bytes(view[at : at + size]) for key, (at, size) in entry.members.items()}
                try:
                    sample = decode_sample(entry.key, data, name, findings.notes)
                    if choices.text is not None and not is_chosen(data, choices.text):
                        findings.notes[
                            f"samples have no {shown(choices.text)}: their text is that of the usual names"
                        ] += 1
                except SampleError as error:
                    findings.leave_out("samples", str(error))
                    continue
                except ManifestError as error:
                    raise ManifestError(f"{path}: {error}") from None
                splits[split_of_word(sample.split or "") or split_of_key(entry.key)] += 1
                entry.key, entry.chars, entry.crc32 = sample.key, text_length(sample), checksum(data.values())
                entries.append(entry)
            sha256 = hashlib.sha256(view).hexdigest()
    findings.samples += len(entries)
    findings.without_text += sum(not entry.chars for entry in entries)
    if choices.split is None:
        split = _split(path, name, splits)
    else:
        split = None if choices.split == "none" else split_of_word(choices.split) or choices.split
    if split is None:
        findings.unsplit.append(name)
    else:
        findings.splits.add(split)
    texts = sum(entry.chars > 0 for entry in entries)
    return Shard(name, len(entries), path.stat().st_size, sha256, split, source, version, texts), entries


def is_chosen(data: Mapping[str, bytes], text: str) -> bool:
    """Return whether the member or the field of the json that the user named as the text is there."""
    chosen = data.get(encode_name(text) + CHOSEN_FIELD)
    try:
        return CHOSEN_TEXT in data or (chosen is not None and not absent(parse_json(chosen).get(text)))
    except (ValueError, AttributeError):
        return False


def apply_choices(entry: Entry, choices: Choices) -> None:
    """Call the chosen members of a sample by names that are read, and drop those that were not chosen."""
    if choices.image is not None:
        chosen = entry.members.get(choices.image.lower())
        for other in images(tuple(entry.members)):
            del entry.members[other]
        if chosen is not None:
            entry.members.pop(choices.image.lower(), None)
            entry.members[choices.image.lower().rpartition(".")[2]] = chosen
    if choices.text is not None and choices.text.lower() in entry.members:
        entry.members[CHOSEN_TEXT] = entry.members.pop(choices.text.lower())
    elif choices.text is not None and "json" in entry.members:
        entry.members[encode_name(choices.text) + CHOSEN_FIELD] = entry.members.pop("json")
    entry.members = dict(sorted(entry.members.items(), key=lambda member: member[1]))  # in the order of the tar


def _split(path: Path, name: str, stated: Counter[str | None]) -> str | None:
    """Return the split of a shard: as its path says, or as all of its records or folders say. Raises ManifestError."""
    try:
        named = split_of_path(name)
    except SplitNameError as error:
        raise ManifestError(f"{path}: {error}") from None
    others = sorted({split for split in stated if split is not None} - {named})
    if others and (named is not None or len(stated) > 1):
        here = f", its path {named}" if named is not None else ""
        raise ManifestError(
            f"{path}: its records or the folders in it name the splits {', '.join(others)}{here}, and a shard is of one "
            "split: make shards of each split, or give all one: --split NAME, --split none"
        )
    return named or (others[0] if others else None)


def nothing_found(folder: Path, findings: Findings) -> ManifestError:
    """Return the error for a set without samples: what is there instead."""
    there = ", ".join(f"{name} ({count})" for name, count in findings.members.most_common(_SHOWN)) or "none"
    first = f"; the first of {sum(findings.left_out.values())} left out: {findings.first_left_out}"
    return ManifestError(
        f"{folder}: no sample has an image that is read ({', '.join(IMAGE_ENDINGS)}; never a mask); members that are "
        f"there: {there}{first if findings.left_out else ''}"
    )
