"""From the bytes of a sample's members to a `Sample`: records of our own, and those of other people's shards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from vlp.core.untrusted import parse_json
from vlp.modalities.image.decode import ImageError, is_turned
from vlp.sample import Sample

from ..tables.cells import CellError
from .foreign.members import CHOSEN_FIELD, IMAGE_ENDINGS, images
from .foreign.sample import foreign_sample
from .sample_check import FieldError, check_sample, read_sample
from .tar_index import FORMAT, ManifestError, decode_name

MAX_RECORD = 64 << 20


class SampleError(ValueError):
    """A sample that cannot be used; the message says which and why. Never holds report text."""


def decode_sample(key: str, members: Mapping[str, bytes], where: str = "", told: Counter[str] | None = None) -> Sample:
    """Return the sample that `members` (extension -> bytes) hold, its image and masks still encoded.

    A `json` member of our own is read as `Sample.to_json` wrote it. In another tool's, `report` or `text` (or
    `findings` and `impression`) is the report and `caption` or `captions` are captions; so are members of those names
    and `txt`. `where` names the shard in messages; what is left out of a foreign record is counted in `told`. Raises
    SampleError, and ManifestError where several members may be the image.
    """
    extension = image_extension(members, key)
    if extension is None:
        raise SampleError(
            f"{where}: key {key!r} has no image that is read ({', '.join(IMAGE_ENDINGS)}; masks are none), "
            f"found: {', '.join(sorted(members))}"
        )
    image = members[extension]
    masks = {name: members[member] for name, member in mask_names(members).items()}
    record: Any = {}
    try:
        chosen = next((name for name in members if name.endswith(CHOSEN_FIELD)), "json")
        if chosen in members:
            record = _parse(members[chosen])
        if isinstance(record, dict) and record.get("format") == FORMAT:
            return read_sample(record, image, masks)
        told = Counter() if told is None else told
        if not isinstance(record, dict):
            told["json members that are no mapping, not read"] += 1
            record = {}
        sample = foreign_sample(
            key, record, members, image, masks, told, decode_name(chosen.removesuffix(CHOSEN_FIELD))
        )
        check_sample(sample)
        if (sample.boxes or sample.masks) and _is_turned(image):
            raise FieldError(
                "boxes" if sample.boxes else "masks", "an image that no orientation turns: turn the file first"
            )
        return sample
    except CellError as error:
        raise SampleError(f"{where}: the record of key {key!r} is not a sample's: {error.detail}") from None
    except FieldError as error:
        raise SampleError(f"{where}: the record of key {key!r} is not a sample's: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        # Their messages quote the value or the name that they could not take, which may be text.
        said = repr(error) if isinstance(error, (KeyError, AttributeError)) else type(error).__name__
        raise SampleError(f"{where}: the record of key {key!r} is not a sample's ({said})") from None


def image_extension(members: Iterable[str], key: str = "") -> str | None:
    """Return which extension holds the image, None for none; masks are none. Raises ManifestError where several may."""
    names = images(members)
    if len(names) > 1:
        raise ManifestError(
            f"key {key!r} has several images: {', '.join(names)}. Choose one for the whole set: vlp-prep index FOLDER "
            f"--image {names[0]}. (Or are these several samples? Everything after the first dot of a file name is the "
            "member's name, so keys must not hold dots: rename 1.2.jpg to 1_2.jpg)"
        )
    return names[0] if names else None


def mask_names(members: Mapping[str, Any]) -> dict[str, str]:
    """Return {mask name: extension} of the `{name}.mask.png` members."""
    return {decode_name(name.removesuffix(".mask.png")): name for name in members if name.endswith(".mask.png")}


def _is_turned(image: bytes) -> bool:
    try:
        return is_turned(image)
    except ImageError:
        return False  # told when it is decoded


def _parse(data: bytes) -> Any:
    """Return a record. NaN and halves of characters pass here, so that the check of the fields says in which they are."""
    if len(data) > MAX_RECORD:
        raise FieldError("json", f"at most {MAX_RECORD} bytes")
    try:
        return parse_json(data)
    except ValueError as error:
        try:
            return json.loads(data.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            raise FieldError("json", f"JSON in UTF-8 ({error})") from None
