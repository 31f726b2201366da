"""Open-i / Indiana University chest X-rays: 3,955 reports with 7,470 images, as XML or as the CSV form.

CSV: `indiana_reports.csv` (uid, MeSH, Problems, image, indication, comparison, findings, impression),
`indiana_projections.csv` (uid, filename, projection) and `images/images_normalized/`. XML: `ecgen-radiology/<n>.xml` and the
PNG files, `NLMCXR_png/<id>.png`. Words taken out for privacy read `XXXX`; `--clean` removes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from vlp.core.untrusted import read_regular
from vlp.data.tables.cells import CellError
from vlp.data.tables.read import rows
from vlp.sample import Sample

from ..images.modality_codes import RADIOGRAPH
from ..readers.regions import MAX_XML, parse_xml
from .base import Record, Reject, Source, safe_key, sources

SECTIONS = ("comparison", "indication", "findings", "impression")
FOLDERS = ("images/images_normalized", "images_normalized", "images", "NLMCXR_png", ".")


@sources.register("openi")
class OpenI(Source):
    name = "openi"
    version = "2013"
    licence = "CC BY-NC-ND 4.0"
    homepage = "https://openi.nlm.nih.gov"
    modality = RADIOGRAPH

    def records(self) -> Iterator[Record]:
        if (self.raw / "indiana_reports.csv").is_file():
            yield from self._table_records()
        else:
            yield from self._xml_records()

    def _table_records(self) -> Iterator[Record]:
        columns = ("uid", "findings", "impression", "Problems")
        reports = {row["uid"]: row for row in rows(self.raw / "indiana_reports.csv", columns)}
        for row in rows(self.require("indiana_projections.csv"), ("uid", "filename", "projection")):
            report = reports.get(row["uid"], {})
            yield Record(
                key=safe_key(row["filename"].removesuffix(".png").removesuffix(".dcm")),
                patient=f"CXR{row['uid']}",
                study=f"CXR{row['uid']}",
                data={
                    "file": row["filename"],
                    "view": row["projection"],
                    "sections": {name: report.get(name, "") for name in SECTIONS},
                    "problems": [
                        problem.strip() for problem in str(report.get("Problems", "")).split(";") if problem.strip()
                    ],
                },
            )

    def _xml_records(self) -> Iterator[Record]:
        folder = self.require("ecgen-radiology", "NLMCXR_reports/ecgen-radiology")
        for path in sorted(folder.glob("*.xml"), key=lambda path: (len(path.stem), path.stem)):
            try:
                tree = parse_xml(read_regular(path, MAX_XML))
            except CellError as error:
                yield Record(key=f"xml{path.stem}", data={"broken": f"{path.name}: {error.detail}"})
                continue
            sections = {
                str(section.get("Label", "")).lower(): (section.text or "").strip()
                for section in tree.iter("AbstractText")
            }
            problems = [re.split("[/,]", heading.text or "")[0].strip() for heading in tree.iter("major")]
            study = next((str(entry.get("id")) for entry in tree.iter("uId")), f"CXR{path.stem}")
            for image in tree.iter("parentImage"):
                yield Record(
                    key=safe_key(str(image.get("id"))),
                    patient=study,
                    study=study,
                    data={"file": f"{image.get('id')}.png", "view": "", "sections": sections, "problems": problems},
                )

    def sample(self, record: Record) -> Sample:
        data = record.data
        if "broken" in data:
            raise Reject("bad_row", f"not XML: {data['broken']}")
        problems = dict.fromkeys(_name(problem) for problem in data["problems"])
        return self.sample_of(
            record,
            self.image(*(f"{folder}/{data['file']}" for folder in FOLDERS)),
            report=_report(data["sections"]),
            view=data["view"].upper() or None,
            labels=dict.fromkeys(sorted(problems), 1),
        )


def _name(problem: str) -> str:
    return "No Finding" if problem.lower() == "normal" else problem


def _report(sections: dict[str, Any]) -> str:
    if not (sections.get("findings") or sections.get("impression")):
        return ""
    return "\n".join(f"{name.upper()}: {sections[name]}" for name in SECTIONS if sections.get(name))
