"""CheXpert's 14 labels, and what its paths say: `CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg`."""

from __future__ import annotations

from pathlib import PurePosixPath

CHEXPERT = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip


def ids_of(path: str) -> dict[str, str]:
    """Return the key, patient and study of an image's path."""
    *_, patient, study, view = PurePosixPath(path).with_suffix("").parts
    return {"key": f"{patient}_{study}_{view}", "patient": patient, "study": f"{patient}_{study}"}


def places_of(path: str) -> tuple[str, str]:
    """Return where an image may be: paths begin with the name of the folder that was unpacked, which is `raw` or in it."""
    inner = PurePosixPath(path)
    below = PurePosixPath(*inner.parts[1:]) if inner.parts[0].startswith("CheXpert") else inner
    return str(inner), str(below)
