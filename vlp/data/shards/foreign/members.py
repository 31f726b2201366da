"""What the names in shards of others mean: which member of a sample is its image, which split a path names. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from vlp.core.errors import ConfigError

VOLUME = "b2nd"
"""Ending of members that are volumes."""

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "avif", "tif", "tiff", "jp2", "bmp", "gif", "ppm", "pgm", VOLUME)
"""Endings of members that are decoded as images."""

TEXT_MEMBERS = ("report", "text", "txt")
CAPTION_MEMBERS = ("caption", "captions")
READ = frozenset({*TEXT_MEMBERS, *CAPTION_MEMBERS, "json"})
"""Members beside the image that are read; so are those that end as `MASKS`."""
MASKS = (".mask.png", ".mask.b2nd")
"""Endings of the members that are masks, of images and of volumes."""

CHOSEN_TEXT, CHOSEN_FIELD = "chosen.txt", ".chosen.json"
"""How a manifest calls the member that the user named as the text, and a json (`FIELD.chosen.json`) of which a field is."""

_NUMBERED = re.compile(r"(?:(?:captions?|text|txt|report)[_-]?)?0*(\d{1,4})[.](?:txt|text|captions?)")

ARCHIVES = (".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")

_MASK_OF_ANOTHER = re.compile(r"masks?|segs?|segm|segments?|segmentations?")
_MASK = re.compile(_MASK_OF_ANOTHER.pattern + r"|[a-z]+masks?|labels?|labelmaps?|annots?|annotations?|gt|rois?")
_BESIDE_MASKS = ("images", "image", "img", "imgs", "imagestr", "imagests", "data")
_SPLITS = {name: name for name in ("train", "val", "valid", "validation", "dev", "test")}
_SPLITS |= {"training": "train", "testing": "test", "development": "dev"}
_SPLIT = re.compile(rf"({'|'.join(_SPLITS)})(?:set|s|split|data|part|samples|images)?")
_LIKE_A_SPLIT = re.compile(r"(?:train|valid|test|eval|holdout|heldout).*|.*(?:train|training|validation|testing|test)")
_NO_SPLITS = frozenset(["pretrain", "pretraining", "latest", "contest", "retest", "testis", "testes", "testicular"])


class SplitNameError(ConfigError):
    """A path names a split in a way that is not understood; the message says how to name it."""


def is_mask(name: str) -> bool:
    """Return whether a member is plainly a mask, segmentation or label map by its name (`seg.png`, `lung_mask.PNG`)."""
    stem = name.rpartition(".")[0] if "." in name else ""
    return any(_MASK.fullmatch(word) for word in re.findall(r"[a-z]+", stem.lower()))


def is_mask_key(key: str, others: Iterable[str] = ()) -> bool:
    """Return whether all of a sample is plainly the mask of another: `masks/x`, `x_mask`.

    Beside an `x` also `x_label`, and `labels/x` where there is an `x` or `images/x` too.
    """
    *folders, name = key.lower().split("/")
    if any(_MASK_OF_ANOTHER.fullmatch(word) for folder in folders for word in re.findall(r"[a-z]+", folder)):
        return True
    places = [[], *([place] for place in _BESIDE_MASKS)]
    for at, folder in enumerate(folders):
        beside = ("/".join([*folders[:at], *place, *folders[at + 1 :], name]) for place in places)
        if _MASK.fullmatch(re.sub(r"(?:tr|ts)$|[^a-z]", "", folder)) and any(other in others for other in beside):
            return True
    stem, _, last = re.sub(r"[_ ]", "-", name).rpartition("-")
    if not stem or not _MASK.fullmatch(last):
        return False
    return bool(_MASK_OF_ANOTHER.fullmatch(last)) or key[: len(key) - len(last) - 1] in others


@lru_cache(maxsize=1024)  # the samples of a set have the same few sets of members
def images(members: tuple[str, ...]) -> tuple[str, ...]:
    """Return the members that may be a sample's image: by their ending, masks apart."""
    return tuple(sorted(name for name in members if name.rpartition(".")[2] in IMAGE_ENDINGS and not is_mask(name)))


def is_read(name: str) -> bool:
    """Return whether a member is read: as an image, a mask, a text or a record."""
    return name in READ or bool(numbered_texts([name])) or name.endswith(MASKS) or bool(images((name,)))


def numbered_texts(members: Iterable[str]) -> list[str]:
    """Return the members that are texts by number (`0.txt`, `caption_1.txt`), in the order of their numbers."""
    found = [(int(match.group(1)), name) for name in members if (match := _NUMBERED.fullmatch(name))]
    return [name for _, name in sorted(found)]


def split_of_word(word: str) -> str | None:
    """Return the split that a word is: train, val, valid, validation, dev or test in any case, `training`, `testset`, ..."""
    found = _SPLIT.fullmatch(word.lower())
    return _SPLITS[found.group(1)] if found else None


def split_of_path(path: str) -> str | None:
    """Return the split that a shard's path names, in a folder or in its own name: `train/0.tar`, `TEST_0.tar`; else None.

    Raises SplitNameError for a path that names two of them, or something like a split that is none of the words known.
    """
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", path.rpartition(".")[0])  # those of camelCase too
    found = {split for word in words if (split := split_of_word(word))}
    if len(found) > 1:
        raise SplitNameError(
            f"the path names several splits ({', '.join(sorted(found))}): rename it, or give all shards one: --split NAME"
        )
    odd = [word for word in words if _LIKE_A_SPLIT.fullmatch(word.lower()) and word.lower() not in _NO_SPLITS]
    if odd and not found:
        raise SplitNameError(
            f"is {odd[0]!r} a split? It is none of train, val, valid, validation, dev and test: name the folder or "
            "the file by one of these (train/0.tar, train-0.tar), or give all shards one: --split NAME, --split none"
        )
    return found.pop() if found else None


def split_of_key(key: str) -> str | None:
    """Return the split that a folder of a key names (`test/0001`), None for none."""
    return next((split for folder in key.split("/")[:-1] if (split := split_of_word(folder))), None)
