"""From the bytes of a sample's members to a `Sample`: records of our own, and those of other people's shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..types import Report, Sample
from ..untrusted import parse_json
from .index import FORMAT, image_extension, mask_names
from .sample_check import (
    FieldError,
    check_sample,
    check_text,
    read_box,
    read_items,
    read_mapping,
    read_mention,
    read_report,
    read_sample,
)

REPORT_FIELDS = ("report", "text")
CAPTION_FIELDS = ("caption", "captions")
_SECTIONS = ("findings", "impression")
MAX_RECORD = 64 << 20


class SampleError(ValueError):
    """A sample that cannot be used; the message says which and why. Never holds report text."""


def build(key: str, members: Mapping[str, bytes], where: str = "") -> Sample:
    """Return the sample that `members` (extension -> bytes) hold, its image and masks still encoded.

    A `json` member of our own is read as `Sample.to_json` wrote it. In anybody else's, `report` or `text` (or
    `findings` and `impression`) is the report and `caption` or `captions` are captions; so are members of those names
    and `txt`. `where` names the shard in messages. Raises SampleError.
    """
    extension = image_extension(members)
    if extension is None:
        raise SampleError(f"{where}: key {key!r} has no jpg or png member (found: {', '.join(sorted(members))})")
    image = members[extension]
    masks = {name: members[member] for name, member in mask_names(members).items()}
    record: Any = {}
    try:
        if "json" in members:
            record = _parse(members["json"])
        if isinstance(record, dict) and record.get("format") == FORMAT:
            return read_sample(record, image, masks)
        sample = _foreign(key, record if isinstance(record, dict) else {}, members, image, masks)
        check_sample(sample)
        return sample
    except FieldError as error:
        raise SampleError(f"{where}: the record of key {key!r} is not a sample's: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        # Their messages quote the value or the name that they could not take, which may be text.
        said = repr(error) if isinstance(error, (KeyError, AttributeError)) else type(error).__name__
        raise SampleError(f"{where}: the record of key {key!r} is not a sample's ({said})") from None


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


def _foreign(
    key: str, record: dict[str, Any], members: Mapping[str, bytes], image: bytes, masks: dict[str, bytes]
) -> Sample:
    report = next((_report(record[name]) for name in REPORT_FIELDS if record.get(name)), None)
    if report is None and any(isinstance(record.get(name), str) for name in _SECTIONS):
        report = _from_sections({name: record[name] for name in _SECTIONS if isinstance(record.get(name), str)})
    if report is None:
        report = next((_report(_text(members[name])) for name in ("report", "text", "txt") if name in members), None)
    captions = next((_captions(record[name]) for name in CAPTION_FIELDS if record.get(name)), ())
    if not captions:
        captions = next((_captions(_text(members[name])) for name in CAPTION_FIELDS if name in members), ())

    def word(name: str) -> str | None:
        value = record.get(name)
        return str(value) if isinstance(value, (str, int)) and value != "" else None

    return Sample(
        key=key,
        image=image,
        report=report,
        captions=captions,
        study=word("study") or word("study_id"),
        patient=word("patient") or word("patient_id") or word("subject_id"),
        modality=word("modality"),
        view=word("view"),
        labels=read_mapping(record, "labels"),
        concepts=read_items(record, "concepts", read_mention),
        boxes=read_items(record, "boxes", read_box),
        masks=masks,
        groups={name: str(value) for name, value in read_mapping(record, "groups").items()},
        source=word("source") or "",
        licence=word("licence") or word("license") or "",
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace").strip()


def _report(value: Any) -> Report | None:
    report = read_report(value.strip() if isinstance(value, str) else value)
    return report if report is not None and report.text else None


def _from_sections(parts: dict[str, str]) -> Report | None:
    text, sections = "", {}
    for name, part in parts.items():
        part = part.strip()
        if part:
            start = len(text) + 1 if text else 0
            text = f"{text} {part}" if text else part
            sections[name] = (start, len(text))
    return Report(text, sections=sections) if text else None


def _captions(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    for number, caption in enumerate(values):
        check_text(caption, "captions", number)
    return tuple(caption.strip() for caption in values if caption.strip())
