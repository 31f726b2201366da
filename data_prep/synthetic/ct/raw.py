"""A raw folder of phantoms: files of several forms and the tables that go with them, as a data set is handed over.

nifti/reports.jsonl  nifti/KEY.nii               image, patient, study, split, report, labels, boxes, state of each file
                                                 (boxes: i, j, k of the low and the high corner, in voxels of the file)
dicom/reports.csv    dicom/STUDY/SERIES/*.dcm    study (its accession number), patient, report of each study
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from vlp.core.process import start_worker

from ...splits.split import share_at
from ..patient import stream
from .files import write_dicom, write_nifti
from .generate import boxes, identify, labels, words
from .scan import DICOM, NIFTI, Form, scan
from .state import draw_state

_SPLIT = 14
ROUND = (*NIFTI * 4, *DICOM, *NIFTI * 12)
"""The forms of studies, one after the other: three of 83 are DICOM, whose some fifty files a series cost the most to read."""
AGAIN = 3
"""One study of so many has a second reconstruction, on another grid."""
SHARES = {"train": 0.8, "val": 0.02, "test": 0.18}
"""Shares of the patients whose studies are NIfTI; those of DICOM are for training, as their table has no boxes."""


@dataclass(frozen=True, slots=True)
class Study:
    """One study to write, and all that decides its files."""

    folder: Path
    index: int
    seed: int
    voxel: float


def write_raw(folder: Path, count: int, seed: int, start: int, voxel: float, workers: int) -> Iterator[int]:
    """Write `count` studies from `start` on and their tables into an empty folder; yield the number of files of each."""
    (folder / "nifti").mkdir(parents=True)
    (folder / "dicom").mkdir()
    studies = [Study(folder, index, seed, voxel) for index in range(start, start + count)]
    with (
        (folder / "nifti" / "reports.jsonl").open("w") as lines,
        (folder / "dicom" / "reports.csv").open("w", newline="") as table,
    ):
        reports = csv.writer(table)
        reports.writerow(("study", "patient", "report"))
        for rows, is_dicom in _written(studies, workers):
            if is_dicom:
                reports.writerow([rows[0][name] for name in ("study", "patient", "report")])
            else:
                lines.writelines(f"{json.dumps(row)}\n" for row in rows)
            yield len(rows)


def _written(studies: list[Study], workers: int) -> Iterable[tuple[list[dict[str, Any]], bool]]:
    if workers < 2:
        yield from map(write_study, studies)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=start_worker) as pool:
        yield from pool.map(write_study, studies, chunksize=16)


def write_study(study: Study) -> tuple[list[dict[str, Any]], bool]:
    """Write the files of a study; return a row of the table for each, and whether they are DICOM."""
    state = draw_state(study.index, study.seed)
    key, patient, accession = identify(study.index, study.seed)
    row: dict[str, Any] = {
        "patient": patient,
        "study": accession,
        "split": split_of(study),
        "report": words(state).text,
        "labels": labels(state),
        "state": str(state),
    }
    found, chosen = [], forms_of(study.index)
    for number, form in enumerate(chosen):
        drawn = scan(state, form, study.voxel)
        if form.is_dicom:
            series = study.folder / "dicom" / accession / f"{number}"
            write_dicom(series, drawn, form, patient, accession, f"{accession}.{number}")
            found.append(row)
            continue
        path = study.folder / "nifti" / f"{key}-{number}.nii"
        write_nifti(path, drawn)
        regions = {name: mask.transpose() for name, mask in drawn.regions.items()}
        found.append(
            {
                **row,
                "image": path.name,
                "boxes": [
                    {"phrase": box.phrase, "label": box.label, "xyxy": box.xyxy} for box in boxes(state, regions)
                ],
            }
        )
    return found, chosen[0].is_dicom


def forms_of(index: int) -> tuple[Form, ...]:
    """Return the forms of a study's files: of a third of them two, one after the other in the list of its kind."""
    first = ROUND[index % len(ROUND)]
    if index % AGAIN:
        return (first,)
    kind = DICOM if first.is_dicom else NIFTI
    return first, next(islice(cycle(kind), kind.index(first) + 1, None))


def split_of(study: Study) -> str:
    """Return the split of a study's patient."""
    if forms_of(study.index)[0].is_dicom:
        return "train"
    return share_at(float(stream(study.seed, _SPLIT, study.index).random()), SHARES)
