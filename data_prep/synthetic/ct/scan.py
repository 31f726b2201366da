"""Scans of a body: the forms that raw files come in, each a grid of its own laid over the same body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vlp.modalities.volume.options import affine_of

from . import body
from .state import State

FIELD = (288.0, 240.0, 288.0)
"""Millimetres that a scan shows along x, y and z."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a body is sampled and written.

    `codes`: where the array's axes point (LPS); `spacing` along them, in units of the voxel that is asked for; `turned`: by
    so many degrees about x. Of a DICOM series `intercept` is that of its rescale, and `padded` says that what lies outside
    of the round field of view holds a value of its own; stored are unsigned numbers, or signed ones where that is so.
    """

    name: str
    codes: str
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    turned: float = 0.0
    intercept: int | None = None
    padded: bool = False

    @property
    def is_dicom(self) -> bool:
        return self.intercept is not None

    def grid(self, voxel: float) -> tuple[tuple[int, int, int], np.ndarray]:
        """Return the shape and the affine of its array, with voxels of about `voxel` millimetres; the field's middle is 0."""
        spacing = tuple(share * voxel for share in self.spacing)
        along = [FIELD[next(at for at, pair in enumerate(("RL", "AP", "SI")) if code in pair)] for code in self.codes]
        x, y, z = (round(length / step) for length, step in zip(along, spacing, strict=True))
        affine = affine_of(self.codes, spacing, (x, y, z))
        cos, sin = np.cos(np.radians(self.turned)), np.sin(np.radians(self.turned))
        turn = np.eye(4)
        turn[1:3, 1:3] = [[cos, -sin], [sin, cos]]
        return (x, y, z), np.asarray(turn @ affine)


NIFTI = (
    Form("ras", "RAS"),
    Form("lps", "LPS", (0.9, 0.9, 1.2)),
    Form("las", "LAS", (1.0, 1.0, 1.25)),
    Form("sagittal", "ASR", (0.9, 1.1, 1.0)),
    Form("oblique", "RAS", turned=9.0),
)
DICOM = (
    Form("dicom_1024", "LPS", intercept=-1024),
    Form("dicom_8192", "LPS", (1.0, 1.0, 1.2), intercept=-8192),
    Form("dicom_padded", "LPS", (0.9, 0.9, 1.0), intercept=0, padded=True),
)
FORMS = {form.name: form for form in (*NIFTI, *DICOM)}


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan of a body: its array [i, j, k] in HU, int16, and the affine of it.

    `regions`: where each finding is, bool, of the same axes.
    """

    array: np.ndarray
    affine: np.ndarray
    regions: Mapping[str, np.ndarray]


def scan(state: State, form: Form, voxel: float) -> Scan:
    """Return the scan of a body in a form."""
    shape, affine = form.grid(voxel)
    array = body.scan(state, shape, affine)
    inside = body.masks(state, body.grid(shape, affine))
    return Scan(array, affine, {name: mask for name, mask in inside.items() if mask.any()})
