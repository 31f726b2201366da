"""What of a DICOM header may leave it: the clinical fields, mapped to known values, and the ids that are hashed."""

from __future__ import annotations

from typing import Any

from vlp.modalities.image.dicom import quiet

from .modality_codes import age_of, body_part_of, modality_of, sex_of, side_of, view_of

_FIELDS = {
    "modality": (("Modality",), modality_of),
    "view": (("ViewPosition",), view_of),
    "sex": (("PatientSex",), sex_of),
    "age": (("PatientAge",), age_of),
    "body_part": (("BodyPartExamined",), body_part_of),
    "laterality": (("ImageLaterality", "Laterality"), side_of),
}
_IDS = {
    "patient": "PatientID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "image": "SOPInstanceUID",
    "accession": "AccessionNumber",
}


def header(dataset: Any) -> dict[str, str]:
    """Return the clinical fields that may leave a header, empty ones left out.

    Modality, view, sex, age (90 and above as "90+"), body part, laterality, each one of the known values of `modality_codes`
    and never as it was typed. No names, dates, numbers, institutions, free text or private elements; ids are separate, see
    `ids`.
    """
    found = {}
    for name, (elements, known) in _FIELDS.items():
        typed = next((value for value in (_text(dataset, element) for element in elements) if value), None)
        if (value := known(typed)) is not None:
            found[name] = value
    return found


def ids(dataset: Any) -> dict[str, str]:
    """Return the ids that are replaced by keyed hashes before anything is written."""
    return {name: value for name, element in _IDS.items() if (value := _text(dataset, element))}


def _text(dataset: Any, element: str) -> str:
    with quiet():
        return str(getattr(dataset, element, "") or "").strip()
