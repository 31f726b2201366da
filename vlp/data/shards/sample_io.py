"""From the bytes of a sample's members to a `Sample`, whose values are checked here, once, where a record enters.

Types, finite numbers, whole characters, places in range: behind this, code may rely on `Sample` being what it says. A
record of another tool's shards is brought to the fields of our own first (`foreign.sample`). A message names the field and
what was expected there, never what it holds: that may be the text of a report.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic_core import from_json

from vlp.modalities.image.decode import ImageError, is_turned
from vlp.sample import HU_EDGES, UNKNOWN, Box, Mention, Report, Sample, VolumeInfo

from ..tables.cells import CellError
from .foreign.members import CHOSEN_FIELD, IMAGE_ENDINGS, MASKS, images
from .foreign.sample import foreign_record
from .tar_index import FORMAT, ManifestError, decode_name

MAX_RECORD = 64 << 20
MAX_TEXT = 10_000_000
"""The most characters of a report, a caption or a phrase."""
MAX_WORD = 1024
"""The most characters of a key, an id, a name."""
MAX_ITEMS = 100_000
LARGEST = 1e9

_ASSERTIONS = frozenset(("present", "absent", "uncertain"))
_LABELS = frozenset((1, 0, -1, UNKNOWN))
_SPLIT = re.compile(r"[A-Za-z0-9_+=@,~]{1,100}")
_WORDS = ("study", "patient", "modality", "view", "split", "source", "licence")

Many = TypeVar("Many", list[Any], dict[str, Any])


class FieldError(ValueError):
    """A field of a record that is not as it should be."""

    def __init__(self, field: str, expected: str, found: object = None) -> None:
        instead = "" if found is None else f", found {type(found).__name__}"
        super().__init__(f"{field}: expected {expected}{instead}")


class SampleError(ValueError):
    """A sample that cannot be used; the message says which and why. Never holds report text."""


def decode_sample(key: str, members: Mapping[str, bytes], where: str = "", notes: Counter[str] | None = None) -> Sample:
    """Return the sample that `members` (extension -> bytes) hold, its image and masks still encoded.

    A `json` member of our own is read as `Sample.to_json` wrote it. In another tool's, `report` or `text` (or
    `findings` and `impression`) is the report and `caption` or `captions` are captions; so are members of those names
    and `txt`. `where` names the shard in messages; what is left out of a foreign record is counted in `notes`. Raises
    SampleError, and ManifestError where several members may be the image.
    """
    extension = image_extension(members, key)
    if extension is None:
        raise SampleError(
            f"{where}: key {key!r} has no image that is read ({', '.join(IMAGE_ENDINGS)}; masks are none), "
            f"found: {', '.join(sorted(members))}"
        )
    image = members[extension]
    masks = {decode_name(name.rpartition(".mask.")[0]): data for name, data in members.items() if name.endswith(MASKS)}
    record: Any = {}
    try:
        chosen = next((name for name in members if name.endswith(CHOSEN_FIELD)), "json")
        if chosen in members:
            record = _parse(members[chosen])
        is_ours = isinstance(record, dict) and record.get("format") == FORMAT
        if not is_ours:
            notes = Counter() if notes is None else notes
            if not isinstance(record, dict):
                notes["json members that are no mapping, not read"] += 1
                record = {}
            record = foreign_record(key, record, members, notes, decode_name(chosen.removesuffix(CHOSEN_FIELD)))
        sample = read_sample(record, image, masks)
        if not is_ours and (sample.boxes or sample.masks) and _is_turned(image):
            raise FieldError(
                "boxes" if sample.boxes else "masks", "an image that no orientation turns: turn the file first"
            )
        return sample
    except (CellError, FieldError) as error:
        wrong = error.detail if isinstance(error, CellError) else error
        raise SampleError(f"{where}: the record of key {key!r} is not a sample's: {wrong}") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        # Their messages quote the value or the name that they could not take, which may be text.
        said = repr(error) if isinstance(error, (KeyError, AttributeError)) else type(error).__name__
        raise SampleError(f"{where}: the record of key {key!r} is not a sample's ({said})") from None


def image_extension(members: Iterable[str], key: str = "") -> str | None:
    """Return which extension holds the image, None for none; masks are none. Raises ManifestError where several may."""
    names = images(tuple(members))
    if len(names) > 1:
        raise ManifestError(
            f"key {key!r} has several images: {', '.join(names)}. Choose one for the whole set: vlp-prep index FOLDER "
            f"--image {names[0]}. (Or are these several samples? Everything after the first dot of a file name is the "
            "member's name, so keys must not hold dots: rename 1.2.jpg to 1_2.jpg)"
        )
    return names[0] if names else None


def _is_turned(image: bytes) -> bool:
    try:
        return is_turned(image)
    except ImageError:
        return False  # reported when it is decoded


def _parse(data: bytes) -> Any:
    """Return a record. NaN and halves of characters pass here, so that the check of the fields says in which they are."""
    if len(data) > MAX_RECORD:
        raise FieldError("json", f"at most {MAX_RECORD} bytes")
    try:
        return from_json(data.removeprefix(BOM_UTF8))
    except ValueError as error:
        try:
            return json.loads(data.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            raise FieldError("json", f"JSON in UTF-8 ({error})") from None


def read_sample(record: Mapping[str, Any], image: Path | bytes | np.ndarray, masks: Mapping[str, bytes]) -> Sample:
    """Return the checked sample of a record of `Sample.to_json`; keys of a later version are left alone. Raises FieldError."""
    values = {name: record[name] for name in _WORDS if record.get(name) is not None}
    sample = Sample(
        key=record.get("key"),  # type: ignore[arg-type]  # checked below, as all values are
        image=image,
        report=read_report(record.get("report")),
        captions=tuple(read_many(record, "captions", list)),
        labels=read_many(record, "labels", dict),
        concepts=tuple([read_mention(value) for value in read_many(record, "concepts", list)]),
        boxes=tuple([read_box(value) for value in read_many(record, "boxes", list)]),
        masks=masks,
        groups=read_many(record, "groups", dict),
        steps=tuple(read_many(record, "steps", list)),
        volume=read_volume_info(record.get("volume")),
        **values,
    )
    check_sample(sample)
    return sample


def check_sample(sample: Sample) -> None:
    """Raise FieldError for the first value of a sample that is not what `Sample` says."""
    check_word(sample.key, "key")
    if not sample.key:
        raise FieldError("key", "a name")
    length = 0
    if sample.report is not None:
        length = check_report(sample.report)
    for number, caption in enumerate(sample.captions):
        check_text(caption, "captions", number)
    for name in _WORDS:
        value = getattr(sample, name)
        if value is not None and value != "":
            check_word(value, name)
    if sample.split is not None and not _SPLIT.fullmatch(sample.split):
        raise FieldError("split", "letters, digits and _")
    for name, label in sample.labels.items():
        check_word(name, "labels")
        if type(label) is not int or label not in _LABELS:
            raise FieldError(f"labels.{name}", "1, 0 or -1", label)
    for name, group in sample.groups.items():
        check_word(name, "groups")
        check_word(group, "groups")
    reach = length if sample.report is not None else MAX_TEXT
    for number, mention in enumerate(sample.concepts):
        check_mention(mention, number, reach)
    for number, box in enumerate(sample.boxes):
        check_box(box, number, 4 if sample.volume is None else 6)
    for name in sample.masks:
        check_word(name, "masks")
    for number, step in enumerate(sample.steps):
        check_text(step, "steps", number)


def check_word(value: Any, field: str, number: int = 0, part: str = "") -> None:
    """Raise FieldError unless `value` is a text of one line of printable characters.

    With a `part`, it is that of item `number` of the list `field`; the name is put together for a message only.
    """
    if type(value) is str and len(value) <= MAX_WORD and value.isprintable():
        return
    field = f"{field}[{number}].{part}" if part else field
    if type(value) is not str:
        raise FieldError(field, "a text", value)
    raise FieldError(field, f"at most {MAX_WORD} printable characters")


def check_text(value: Any, field: str, number: int | None = None, part: str = "") -> None:
    """Raise FieldError unless `value` is a text of whole characters; `number` and `part` as for `check_word`."""
    if type(value) is str and len(value) <= MAX_TEXT and (value.isascii() or _is_whole(value)):
        return
    field = field if number is None else f"{field}[{number}]{part and '.'}{part}"
    if type(value) is not str:
        raise FieldError(field, "a text", value)
    raise FieldError(field, f"at most {MAX_TEXT} characters, and no lone surrogates")


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_report(report: Report) -> int:
    """Return the length of a report. Raises FieldError."""
    check_text(report.text, "report.text")
    length = len(report.text)
    for number, (start, end) in enumerate(report.sentences):
        if not (type(start) is int and type(end) is int and 0 <= start <= end <= length):
            raise FieldError(f"report.sentences[{number}]", f"places of 0 to {length} in the text")
    for name, (start, end) in report.sections.items():
        check_word(name, "report.sections")
        if not (type(start) is int and type(end) is int and 0 <= start <= end <= length):
            raise FieldError(f"report.sections.{name}", f"places of 0 to {length} in the text")
    return length


def check_mention(mention: Mention, number: int, length: int) -> None:
    """Raise FieldError unless a mention's values are right for a text of `length` characters."""
    start, end = mention.start, mention.end
    assertion: Any = mention.assertion
    if not (type(start) is int and type(end) is int and 0 <= start <= end <= length):
        raise FieldError(f"concepts[{number}].start, end", f"places of 0 to {length} in the text")
    if type(assertion) is not str or assertion not in _ASSERTIONS:
        raise FieldError(f"concepts[{number}].assertion", "present, absent or uncertain")
    check_text(mention.text, "concepts", number, "text")
    check_word(mention.code, "concepts", number, "code")
    if mention.side is not None:
        check_word(mention.side, "concepts", number, "side")
    if mention.zone is not None:
        check_word(mention.zone, "concepts", number, "zone")


def check_box(box: Box, number: int, numbers: int = 4) -> None:
    """Raise FieldError unless a box has four finite numbers (a volume's six), a phrase, and a label or none."""
    check_text(box.phrase, "boxes", number, "phrase")
    edges: Any = box.xyxy  # for a type checker it is right already
    if len(edges) != numbers or not all(map(_is_finite, edges)):
        raise FieldError(f"boxes[{number}].xyxy", f"{'four' if numbers == 4 else 'six'} finite numbers")
    if box.label is not None:
        check_word(box.label, "boxes", number, "label")


def _is_finite(edge: Any) -> bool:
    return isinstance(edge, (int, float)) and type(edge) is not bool and abs(edge) <= LARGEST


def read_report(value: Any) -> Report | None:
    """Return a report of `Report`'s fields, or of a text alone. Raises FieldError."""
    if value is None:
        return None
    if isinstance(value, str):
        return Report(value)
    if not isinstance(value, Mapping):
        raise FieldError("report", "a text, or a mapping with a text", value)
    check_text(value.get("text"), "report.text")
    sentences = enumerate(read_many(value, "sentences", list))
    sections = read_many(value, "sections", dict).items()
    return Report(
        text=value["text"],
        sentences=tuple(_pair(pair, f"report.sentences[{number}]") for number, pair in sentences),
        sections={name: _pair(pair, f"report.sections.{name}") for name, pair in sections},
    )


def read_volume_info(value: Any) -> VolumeInfo | None:
    """Return what a record says of its volume, None where it says nothing. Raises FieldError."""
    if value is None:
        return None
    try:
        shape, spacing, affine = value["shape"], value["spacing"], value["affine"]
        if not all(type(side) is int and 0 < side <= LARGEST for side in shape):
            raise FieldError("volume.shape", "three positive integers")
        if not all(map(_is_finite, (*spacing, *(number for row in affine for number in row)))):
            raise FieldError("volume", "finite numbers")
        if (len(shape), len(spacing), *map(len, affine)) != (3, 3, 4, 4, 4):
            raise FieldError("volume", "a shape and a spacing of three numbers, an affine of three rows of four")
        for name in ("orientation", "unit"):
            check_word(value[name], f"volume.{name}")
        counts = value.get("histogram") or ()
        if len(counts) not in (0, len(HU_EDGES) + 1) or not all(type(count) is int and count >= 0 for count in counts):
            raise FieldError("volume.histogram", f"{len(HU_EDGES) + 1} counts")
        places = tuple(shape), tuple(spacing), tuple(map(tuple, affine))
        return VolumeInfo(*places, value["orientation"], value["unit"], tuple(counts))
    except (TypeError, KeyError, AttributeError):
        raise FieldError("volume", "a mapping with shape, spacing, affine, orientation and unit", value) from None


def read_mention(value: Any) -> Mention:
    """Return a mention of its fields; what it holds is checked by `check_mention`. Raises FieldError."""
    try:
        return Mention(**value)
    except TypeError:
        raise FieldError("concepts", "a mapping with text, code, start and end", value) from None


def read_box(value: Any) -> Box:
    """Return a box of its fields; what it holds is checked by `check_box`. Raises FieldError."""
    try:
        return Box(**{**value, "xyxy": tuple(value["xyxy"])})
    except (TypeError, KeyError):
        raise FieldError("boxes", "a mapping with phrase and xyxy, four finite numbers", value) from None


def read_many(record: Mapping[str, Any], name: str, kind: type[Many]) -> Many:
    """Return a list or a mapping of a record, an empty one where it has none. Raises FieldError."""
    value = record.get(name)
    if value is None:
        return kind()
    if not isinstance(value, kind) or len(value) > MAX_ITEMS:
        raise FieldError(name, f"a {'list' if kind is list else 'mapping'} of at most {MAX_ITEMS}", value)
    return value


def _pair(value: Any, field: str) -> tuple[int, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise FieldError(field, "a pair of places", value)
    return value[0], value[1]
