"""Merlin: 25,494 abdominal CTs with reports and 30 findings that regular expressions found in them.

Layout, below the raw folder or its `merlinabdominalctdataset/`: `merlin_data/<study id>.nii.gz`, `reports_final.xlsx` (or
saved as .csv: `study id`, `Findings`, `Split`), `zero_shot_findings_disease_cls.csv` (1 asserted, 0 denied, -1 not mentioned:
no label, and no negative), `metadata.csv`. `Findings` holds the whole report; its impression is found by the heading or, where
there is none, by a numbered list at its end. The publisher's split is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from vlp.core.config import ConfigError, config
from vlp.data.tables.cells import absent, identity
from vlp.data.tables.labels import from_columns
from vlp.data.tables.read import Row, rows
from vlp.sample import Sample

from ..readers.spreadsheet import sheet_rows
from .base import Record, Source, sources

STUDY = "study id"
GROUPS = {"sex": "gender", "age": "age", "phase": "phase", "manufacturer": "manufacturer"}
LABELS = "zero_shot_findings_disease_cls.csv"
_HEADING = re.compile(r"(?i)\bIMPRESSIONS?(?: ?\(S\))? ?:\s*")
_FIRST = re.compile(r"(?:(?<=\n)|(?<=[.:!?]\s)|(?<=[.:!?]))[ \t]*1[.)]\s*(?=[A-Z])")
_SECOND = re.compile(r"(?:\s|(?<=[.!?]))2[.)]\s*(?=[A-Z])")


@sources.register("merlin")
class Merlin(Source):
    name = "merlin"
    licence = "Stanford research use agreement, no redistribution"
    homepage = "https://stanfordaimi.azurewebsites.net"
    modality = "CT"
    language = "en"

    @config
    class Config:
        """`groups`: of sex, age, phase, manufacturer, those of `metadata.csv` that are carried over; none unless asked."""

        groups: tuple[Literal["sex", "age", "phase", "manufacturer"], ...] = ()

    def holds_volumes(self) -> bool:
        return True

    def records(self) -> Iterator[Record]:
        base = "merlinabdominalctdataset/" if (self.raw / "merlinabdominalctdataset").is_dir() else ""
        labels = {_study(row): _mentioned(row) for row in self.rows(f"{base}{LABELS}", (STUDY,))}
        wanted = {name: GROUPS[name] for name in self.config.groups}
        about = {}
        if wanted:
            table = rows(self.require(f"{base}metadata.csv"), (STUDY, *wanted.values()))
            about = {_study(row): {name: str(row[column]) for name, column in wanted.items()} for row in table}
        folder, listed = f"{base}merlin_data", set()
        files = {path.name for path in (self.raw / folder).glob("*.nii.gz")}
        for row in self._reports(base):
            study = _study(row)
            listed.add(f"{study}.nii.gz")
            data = {
                "file": f"{folder}/{study}.nii.gz",
                "text": "" if absent(row["Findings"]) else str(row["Findings"]),
                "labels": labels.get(study, {}),
                "groups": about.get(study, {}),
            }
            yield Record(study, data, study=study, split=str(row["Split"]).strip().lower() or None)
        for name in sorted(files - listed):
            yield Record(
                name.removesuffix(".nii.gz"), {"file": f"{folder}/{name}", "text": "", "labels": {}, "groups": {}}
            )

    def _reports(self, base: str) -> Iterator[Row]:
        path = self.require(f"{base}reports_final.xlsx", f"{base}reports_final.csv")
        table = sheet_rows(path) if path.suffix == ".xlsx" else rows(path)
        for row in table:
            if missing := [name for name in (STUDY, "Findings", "Split") if name not in row]:
                raise ConfigError(f"{path}: no column {', '.join(missing)} (has: {', '.join(row)})")
            yield row

    def sample(self, record: Record) -> Sample:
        data = record.data
        volume = self.volume(self.image(data["file"]))
        return self.sample_of(
            record, volume, report=report_of(data["text"]), labels=data["labels"], groups=data["groups"]
        )


def report_of(text: str) -> str:
    """Return a whole report with its findings and its impression under headings, as they are where no boundary is found."""
    heading = _HEADING.search(text)
    if heading:
        findings, impression = text[: heading.start()], text[heading.end() :]
    else:
        second = max((match.start() for match in _SECOND.finditer(text)), default=-1)
        start = max((match.start() for match in _FIRST.finditer(text) if match.end() <= second), default=len(text))
        findings, impression = text[:start], text[start:]
    findings = re.sub(r"(?i)^\s*FINDINGS?\s*:\s*", "", findings)
    parts = [("FINDINGS", findings.strip()), ("IMPRESSION", impression.strip())]
    return "\n".join(f"{name}: {part}" for name, part in parts if part)


def _study(row: Row) -> str:
    return identity(row[STUDY], STUDY) or ""


def _mentioned(row: Row) -> dict[str, int]:
    """Return the labels of the findings that a report speaks of; -1 says that it does not."""
    stated: dict[str, Any] = {name: value for name, value in row.items() if name and name != STUDY}
    return {name: value for name, value in from_columns(stated, stated).items() if value != -1}
