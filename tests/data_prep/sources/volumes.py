"""Small volumes for the tests of their sources: a body in air, no symmetry in it, as files of every kind."""

from pathlib import Path

import numpy as np

from tests.modalities.volume import written as files

SHAPE = (10, 12, 9)
"""[x, y, z] of a file."""


def nifti(path: Path, seed: int = 0, affine: np.ndarray | None = None, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Write a CT and return its array as it lies in the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = files.ct(shape, seed)
    files.nifti(path, array, np.diag([-0.7, -0.7, 1.5, 1.0]) if affine is None else affine)  # LPS
    return array


def in_ras(array: np.ndarray) -> np.ndarray:
    """Return an LPS file's [i, j, k] as [z, y, x] in RAS, by hand."""
    return array[::-1, ::-1, :].transpose(2, 1, 0)


def voxels(sample: object, max_voxels: int = 1 << 20) -> np.ndarray:
    from vlp.modalities.volume import store

    return np.asarray(store.decode(bytes(sample.image), max_voxels).voxels[:])  # type: ignore[attr-defined]
