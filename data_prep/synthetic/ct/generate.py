"""Synthetic chest CTs with reports: volumes of known bodies, for the 3-D demo and for tests with exact answers."""

from __future__ import annotations

import numpy as np

from vlp.modalities.volume import store
from vlp.modalities.volume.volume import Volume, to_ras
from vlp.sample import Box, Sample

from ..patient import stream
from . import body, report
from .state import FINDINGS, State, draw_state

_TEXT = 13
FIELD = (288.0, 240.0, 288.0)
"""Millimetres that a volume shows along x, y and z."""


def identify(index: int, seed: int) -> tuple[str, str, str]:
    """Return key, patient and study of a sample without drawing it."""
    return f"ct-{seed}-{index:06d}", f"ctp{seed}-{index}", f"cts{seed}-{index}"


def generate(index: int, seed: int, spacing: float = 6.0) -> Sample:
    """Return study `index` of the world `seed`: its volume, report, labels, boxes and masks in voxels of the volume."""
    state = draw_state(index, seed)
    shape = tuple(round(side / spacing) for side in FIELD)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [(spacing - side) / 2 for side in FIELD]
    scan = body.scan(state, (shape[0], shape[1], shape[2]), affine)
    voxels, placed, axes = to_ras(scan, affine)
    volume = Volume(np.ascontiguousarray(voxels), placed, "CT", axes=axes, steps=("synthetic",))
    inside = body.masks(state, body.grid((shape[0], shape[1], shape[2]), affine))
    regions = {name: axes.to_volume(mask) for name, mask in inside.items() if mask.any()}
    return sample_of(index, seed, state, volume, regions)


def sample_of(index: int, seed: int, state: State, volume: Volume, regions: dict[str, np.ndarray]) -> Sample:
    """Return a volume of a body as a sample; `regions`: where its findings are, bool [D, H, W]."""
    key, patient, study = identify(index, seed)
    return Sample(
        key=key,
        image=volume,
        report=report.write(state, stream(seed, _TEXT, index)),
        study=study,
        patient=patient,
        modality="CT",
        labels={finding: int(state.has(finding)) for finding in FINDINGS},
        boxes=tuple(
            Box(report.phrase(instance), box_of(regions[instance.finding]), instance.finding)
            for instance in state.instances
            if instance.finding in regions
        ),
        masks={name: store.encode_mask(mask) for name, mask in regions.items()},
        groups={"state": str(state), "contrast": "yes" if state.contrast else "no"},
        source="synthetic_ct",
        licence="CC0-1.0",
    )


def box_of(mask: np.ndarray) -> tuple[float, ...]:
    """Return the box (x1, y1, z1, x2, y2, z2) around what is inside of a mask [D, H, W], on edges."""
    spans = []
    for axis in (2, 1, 0):
        inside = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        spans.append((float(inside[0]), float(inside[-1] + 1)))
    return (*(low for low, _ in spans), *(high for _, high in spans))
