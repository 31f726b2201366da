"""A record of another tool's shards: which of its fields and members are the report, captions, ids and labels.

What is left out or guessed without loss of the sample (a label that is a probability, the encoding of a text) is counted
in the caller's `notes`. A CellError quotes no value: a field may hold a report or an id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ...tables.cells import CellError, absent, describe, identity, word
from ...tables.labels import label_value, names_in
from .members import CAPTION_MEMBERS, CHOSEN_TEXT, TEXT_MEMBERS, numbered_texts, split_of_word

REPORT_FIELDS = ("report", "text")
CAPTION_FIELDS = ("caption", "captions")
SECTIONS = (
    *("examination", "indication", "clinical_information", "history", "comparison", "technique"),
    *("findings", "impression", "conclusion", "recommendation", "addendum"),
)
"""Sections of a nested report by their usual names, in the usual order."""

PATIENT_FIELDS, STUDY_FIELDS = ("patient", "patient_id", "subject_id"), ("study", "study_id")


def foreign_record(
    key: str, record: Mapping[str, Any], members: Mapping[str, bytes], notes: Counter[str], text_field: str = ""
) -> dict[str, Any]:
    """Return what a record and members that are not ours hold as a record of `Sample.to_json`, its values not yet checked.

    The member or the field `text_field` of the record that the user chose is the only text of the sample. Raises CellError
    and the like for what is no sample's.
    """
    captions: list[str] = []
    if CHOSEN_TEXT in members:
        report = report_of(read_text(members[CHOSEN_TEXT], CHOSEN_TEXT, notes))
    elif not absent(record.get(text_field)):
        report = report_of(record[text_field])
    else:
        report, captions = _texts_of(record, members, notes)
    if report is None and not captions:
        notes.update(
            f"samples without a text have a field {name[:40]!r} in their json" for name in record if name.isprintable()
        )
    groups = record.get("groups")
    return {
        "key": key,
        "report": report,
        "captions": captions,
        "study": _first_id(record, STUDY_FIELDS),
        "patient": _first_id(record, PATIENT_FIELDS),
        "modality": word(record.get("modality"), "modality"),
        "view": word(record.get("view"), "view"),
        "labels": labels_of(record.get("labels"), notes),
        "concepts": record.get("concepts"),
        "boxes": record.get("boxes"),
        "groups": _words(groups) if isinstance(groups, Mapping) else {},
        "split": split_of_word(word(record.get("split"), "split") or ""),
        "source": word(record.get("source"), "source"),
        "licence": word(record.get("licence"), "licence", 200) or word(record.get("license"), "license", 200),
    }


def _texts_of(
    record: Mapping[str, Any], members: Mapping[str, bytes], notes: Counter[str]
) -> tuple[Mapping[str, Any] | None, list[str]]:
    """Return the report and the captions of a sample, by the usual names of fields and members."""
    report = next((report_of(record[name]) for name in REPORT_FIELDS if not absent(record.get(name))), None)
    if report is None:
        report = _from_sections({name: record.get(name) for name in ("findings", "impression")})
    if report is None:
        texts = (read_text(members[name], name, notes) for name in TEXT_MEMBERS if name in members)
        report = next((report_of(text) for text in texts), None)
    captions = next((captions_of(record[name]) for name in CAPTION_FIELDS if not absent(record.get(name))), [])
    if not captions:
        texts = (read_text(members[name], name, notes) for name in CAPTION_MEMBERS if name in members)
        captions = next((captions_of(text) for text in texts), [])
    if not captions:
        captions = captions_of([read_text(members[name], name, notes) for name in numbered_texts(members)])
    return report, captions


def read_text(data: bytes, member: str, notes: Counter[str]) -> str:
    """Return the text of a member: UTF-8, or UTF-16 with its mark; else cp1252, which is noted. Raises CellError."""
    is_marked = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = data.decode("utf-16" if is_marked else "utf-8-sig")
        if is_marked:
            notes["texts in UTF-16, by their byte order mark"] += 1
    except UnicodeDecodeError:
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError as error:
            raise CellError(
                "bad_text", f"member {member!r} is neither UTF-8 nor cp1252 (at byte {error.start})"
            ) from None
        notes["texts that are not UTF-8, read as cp1252: is that their encoding?"] += 1
    if "\0" in text:
        raise CellError("bad_text", f"member {member!r} holds NUL characters: is it UTF-16 without its mark?")
    return text.strip()


def report_of(value: Any) -> Mapping[str, Any] | None:
    """Return a report: a text, a list of its sentences, its sections by name, or what `Sample.to_json` writes.

    None where nothing is said; raises CellError for anything else.
    """
    if isinstance(value, Mapping) and isinstance(value.get("text"), str):
        return value
    if isinstance(value, Mapping):
        return _from_sections(value)
    if isinstance(value, (list, tuple)):
        text, spans = _joined([_text(sentence, "report") for sentence in value])
        return {"text": text, "sentences": spans} if text else None
    text = _text(value, "report")
    return {"text": text} if text else None


def _from_sections(parts: Mapping[Any, Any]) -> Mapping[str, Any] | None:
    named = {str(name).strip().lower().replace(" ", "_"): part for name, part in parts.items()}
    if any(name not in SECTIONS and not absent(part) for name, part in named.items()):
        raise CellError(
            "bad_text", f"a report in parts has a part that is no known section ({', '.join(SECTIONS)}) and no 'text'"
        )
    texts: dict[str, str] = {}
    for name in SECTIONS:
        part = named.get(name)
        texts[name] = _joined([_text(item, name) for item in (part if isinstance(part, (list, tuple)) else [part])])[0]
    said = {name: text for name, text in texts.items() if text}
    text, spans = _joined(list(said.values()))
    return {"text": text, "sections": dict(zip(said, spans, strict=True))} if text else None


def _joined(parts: list[str]) -> tuple[str, list[tuple[int, int]]]:
    """Return texts joined by blanks, empty ones left out, and where each lies."""
    spans: list[tuple[int, int]] = []
    for part in filter(None, parts):
        start = spans[-1][1] + 1 if spans else 0
        spans.append((start, start + len(part)))
    return " ".join(filter(None, parts)), spans


def captions_of(value: Any) -> list[str]:
    """Return the captions in a field, one text each; raises CellError for what is no text."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [text for value in values if (text := _text(value, "captions"))]


def _text(value: Any, name: str) -> str:
    if absent(value):
        return ""
    if not isinstance(value, str):
        raise CellError("bad_text", f"field {name!r}: expected text, found {describe(value)}")
    return value.strip()


def labels_of(value: Any, notes: Counter[str]) -> dict[str, int]:
    """Return labels by name, of a mapping to values or a list of those present; null ones are not stated.

    Other numbers than 1, 0 and -1 are left out and noted: no probability becomes a 0. Raises CellError for what is no label.
    """
    if absent(value):
        return {}
    if isinstance(value, (list, tuple)):
        return dict.fromkeys(names_in(value, column="labels"), 1)
    if not isinstance(value, Mapping):
        raise CellError("bad_label", f"field 'labels': expected a mapping of names to values, found {describe(value)}")
    labels: dict[str, int] = {}
    for name, stated in value.items():
        if _is_soft(stated):
            notes["label values that are not 1, 0 or -1 (uncertain), left out as not stated"] += 1
        elif (label := label_value(stated, str(name))) is not None:
            labels[str(name)] = label
    return labels


def _is_soft(value: Any) -> bool:
    try:
        return not absent(value) and float(value) not in (1, 0, -1)
    except (TypeError, ValueError):
        return False


def _first_id(record: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((found for name in names if (found := identity(record.get(name), name))), None)


def _words(groups: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): found for name, value in groups.items() if (found := word(value, str(name)))}
