"""From the bytes of a sample's members to a `Sample`: records of our own, and those of other people's shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..types import Box, Mention, Report, Sample
from .index import FORMAT, image_extension, mask_names

REPORT_FIELDS = ("report", "text")
CAPTION_FIELDS = ("caption", "captions")
_SECTIONS = ("findings", "impression")


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
    if "json" in members:
        try:
            record = json.loads(members["json"])
        except ValueError as error:
            raise SampleError(f"{where}: the json of key {key!r} does not parse ({error})") from None
    try:
        if isinstance(record, dict) and record.get("format") == FORMAT:
            return Sample.from_json(record, image, masks)
        return _foreign(key, record if isinstance(record, dict) else {}, members, image, masks)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # The others quote the value or the name that they could not take, which may be text.
        said = repr(error) if isinstance(error, (KeyError, AttributeError)) else type(error).__name__
        raise SampleError(f"{where}: the record of key {key!r} is not a sample's ({said})") from None


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

    labels = record.get("labels")
    groups = record.get("groups")
    return Sample(
        key=key,
        image=image,
        report=report,
        captions=captions,
        study=word("study") or word("study_id"),
        patient=word("patient") or word("patient_id") or word("subject_id"),
        modality=word("modality"),
        view=word("view"),
        labels={str(name): int(value) for name, value in labels.items()} if isinstance(labels, dict) else {},
        concepts=tuple(Mention(**one) for one in record.get("concepts") or ()),
        boxes=tuple(Box(**{**one, "xyxy": tuple(one["xyxy"])}) for one in record.get("boxes") or ()),
        masks=masks,
        groups={str(name): str(value) for name, value in groups.items()} if isinstance(groups, dict) else {},
        source=word("source") or "",
        licence=word("licence") or word("license") or "",
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace").strip()


def _report(value: Any) -> Report | None:
    if isinstance(value, Mapping):
        return Report(
            text=value["text"],
            sentences=tuple((start, end) for start, end in value.get("sentences", ())),
            sections={name: (start, end) for name, (start, end) in value.get("sections", {}).items()},
        )
    return Report(str(value).strip()) if str(value).strip() else None


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
    values = value if isinstance(value, (list, tuple)) else [value]
    return tuple(str(one).strip() for one in values if str(one).strip())
