"""Synthetic chest CTs with reports: volumes of known bodies, for the 3-D demo and for tests with exact answers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vlp.modalities.volume import store
from vlp.modalities.volume.volume import Volume, to_ras
from vlp.sample import Box, Report, Sample

from ..patient import stream
from . import report
from .scan import FORMS, scan
from .state import FINDINGS, State, draw_state

_TEXT = 13


def identify(index: int, seed: int) -> tuple[str, str, str]:
    """Return key, patient and study of a sample without drawing it."""
    return f"ct-{seed}-{index:06d}", f"ctp{seed}-{index}", f"cts{seed}-{index}"


def generate(index: int, seed: int, spacing: float = 6.0) -> Sample:
    """Return study `index` of the world `seed`: its volume, report, labels, boxes and masks in voxels of the volume."""
    state = draw_state(index, seed)
    drawn = scan(state, FORMS["ras"], spacing)
    voxels, placed, axes = to_ras(drawn.array, drawn.affine)
    volume = Volume(np.ascontiguousarray(voxels), placed, "CT", axes=axes, steps=("synthetic",))
    regions = {name: axes.to_volume(mask) for name, mask in drawn.regions.items()}
    key, patient, study = identify(index, seed)
    return Sample(
        key=key,
        image=volume,
        report=words(state),
        study=study,
        patient=patient,
        modality="CT",
        labels=labels(state),
        boxes=boxes(state, regions),
        masks={name: store.encode_mask(mask) for name, mask in regions.items()},
        groups={"state": str(state), "contrast": "yes" if state.contrast else "no"},
        source="synthetic_ct",
        licence="CC0-1.0",
    )


def words(state: State) -> Report:
    """Return the report of a body: the same for every scan of it."""
    return report.write(state, stream(state.seed, _TEXT, state.index))


def labels(state: State) -> dict[str, int]:
    """Return 1 or 0 for each finding."""
    return {finding: int(state.has(finding)) for finding in FINDINGS}


def boxes(state: State, regions: Mapping[str, np.ndarray]) -> tuple[Box, ...]:
    """Return the boxes of a body's findings; `regions`: where they are, bool [D, H, W]."""
    return tuple(
        Box(report.phrase(instance), box_of(regions[instance.finding]), instance.finding)
        for instance in state.instances
        if instance.finding in regions
    )


def box_of(mask: np.ndarray) -> tuple[float, ...]:
    """Return the box (x1, y1, z1, x2, y2, z2) around what is inside of a mask [D, H, W], on edges."""
    spans = []
    for axis in (2, 1, 0):
        inside = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        spans.append((float(inside[0]), float(inside[-1] + 1)))
    return (*(low for low, _ in spans), *(high for _, high in spans))
