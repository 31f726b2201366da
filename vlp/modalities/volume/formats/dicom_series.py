"""DICOM slices to volumes: which files belong together, in which order they lie, and what is no slice of a volume.

Headers are read first, and all that can be wrong with a stack is found on them before any pixels are decoded. Slices are
sorted along the normal of their plane: numbers and names of files say nothing of where they lie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...image.dicom import decode_frame, open_dicom, quiet
from ...image.errors import ImageError
from ...image.grey_scale import describe, modality_values, numbers
from .. import hounsfield
from ..options import LEAST, LPS_TO_RAS, FileArray, VolumeOptions, check_size, pick
from ..spec import AIR
from .dicom_slice import APART, Slice, slices_of
from .slices import (
    SAME,
    along_normal,
    aside,
    check_upright,
    even_places,
    interpolate,
    normal_of,
    straighten,
    upright_shape,
)

SKIPPED = {".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".md", ".pdf", ".parquet", ".yaml", ".html"}


@dataclass(frozen=True, slots=True)
class Series:
    """Parallel slices of one size that make a volume, in order along their normal; `sequence` tells phases apart."""

    slices: tuple[Slice, ...]
    sequence: str = ""

    def __str__(self) -> str:
        first = self.slices[0]
        normal = np.abs(normal_of(np.array(first.orientation)))
        plane = ("sagittal", "coronal", "axial")[int(normal.argmax())]
        size, spacing = (" x ".join(f"{side:.4g}" for side in sides) for sides in (first.size, first.spacing))
        told = f", {self.sequence}" if self.sequence else ""
        return f"{len(self.slices)} {plane} {first.modality} slices of {size} at {spacing} mm{told}"


@dataclass(frozen=True, slots=True)
class Sorted:
    """What files hold: volumes, how many of which kind are no slices, and what is wrong with the damaged ones."""

    series: list[Series]
    left_out: Counter[str]
    damaged: list[ImageError]


def files_below(folder: Path) -> list[Path]:
    """Return the files of a folder that may be DICOM, in the order of their names."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() not in SKIPPED and path.name != "DICOMDIR")
    return [path for path in paths if path.is_file()]


def read_files(paths: Sequence[Path], max_voxels: int, options: VolumeOptions) -> FileArray:
    """Return the volume in DICOM files, its array [column, row, slice]; raises ImageError."""
    found = find_series(paths)
    if found.damaged:
        raise found.damaged[0]
    series, left_out = found.series, found.left_out
    if options.modality:
        for other in (item for item in series if item.slices[0].modality != options.modality):
            left_out[f"{other.slices[0].modality} slice, asked for {options.modality}"] += len(other.slices)
        series = [item for item in series if item.slices[0].modality == options.modality]
    if not series:
        raise ImageError(f"no slice of a volume ({counted(left_out) or 'no files'})", "no_volume")
    index = 0
    if len(series) > 1 or options.volume:
        kinds = "; ".join(f"{number}: {item}" for number, item in enumerate(series))
        where = "one series" if len({item.slices[0].series for item in series}) == 1 else "one folder"
        index = pick(len(series), options, f"{len(series)} volumes in {where} ({kinds})")
    steps = (f"left out: {counted(left_out)}",) if left_out else ()
    return read_series(series[index], max_voxels, options, steps)


def find_series(paths: Iterable[Path]) -> Sorted:
    """Return the volumes that files hold, by their headers."""
    left_out: Counter[str] = Counter()
    groups: dict[tuple[Any, ...], list[list[Slice]]] = {}
    seen: set[tuple[Any, ...]] = set()
    damaged = []
    for path in paths:
        try:
            parts = slices_of(path, left_out)
        except ImageError as error:
            damaged.append(ImageError(f"{path.name}: {error}", error.reason, counted=error.counted))
            continue
        for part in parts:
            name = part.instance, part.frame, part.position  # some give all files of a series one identifier
            if part.instance and name in seen:
                left_out["copy of another file"] += 1
                continue
            seen.add(name)
            alike = groups.setdefault((part.series, part.modality, part.frame_of_reference, part.size), [])
            group = next((group for group in alike if _is_parallel(group[0], part)), None)
            if group is None:
                alike.append([part])
            else:
                group.append(part)
    found = [series for alike in groups.values() for group in alike for series in _split(_sorted(group))]
    return Sorted(sorted(found, key=lambda item: (item.slices[0].series, -len(item.slices))), left_out, damaged)


def counted(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} x {kind}" for kind, count in sorted(left_out.items()))


def read_series(
    series: Series, max_voxels: int, options: VolumeOptions | None = None, steps: tuple[str, ...] = ()
) -> FileArray:
    """Return a series as its array [column, row, slice], values in units of the modality; raises ImageError."""
    options = options or VolumeOptions()
    slices = series.slices
    if len(slices) < LEAST:
        told = f" ({'; '.join(steps)})" if steps else ""
        raise ImageError(f"{series}: a volume needs at least {LEAST} slices{told}", "no_volume")
    orientation = np.array(slices[0].orientation)
    along = along_normal(np.array([part.position for part in slices]), orientation)
    first = np.concatenate([[True], np.diff(along) > SAME])
    kept = [part for part, is_first in zip(slices, first, strict=True) if is_first]
    positions = np.array([part.position for part in kept])
    along, offsets = along[first], aside(positions, orientation)
    spacing = slices[0].spacing
    shape = upright_shape((len(kept), *slices[0].size), offsets, spacing)
    is_upright = check_upright(offsets, along, options)
    places = even_places(along, options)
    check_size(
        (len(kept) if places is None else len(places), *(slices[0].size if is_upright else shape[1:])), max_voxels
    )

    stack = _stack(slices, first)
    if series.sequence:
        steps = (*steps, f"one of several volumes in a series: {series.sequence}")
    if dropped := len(slices) - len(kept):
        steps = (*steps, f"{dropped} slices at the places of others, equal to them, left out")
    start = np.zeros(2)
    if not is_upright:
        stack, start = straighten(stack, offsets, spacing, AIR if slices[0].modality == "CT" else 0.0)
        steps = (*steps, "leaning stack brought onto a straight grid")
    if places is not None:
        steps = (*steps, f"gaps: {len(kept)} slices interpolated to {len(places)}")
        stack, along = interpolate(stack, along, places), places
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * spacing[1]
    affine[:3, 1] = orientation[3:] * spacing[0]
    affine[:3, 2] = normal_of(orientation) * (along[-1] - along[0]) / (len(along) - 1)
    affine[:3, 3] = positions[0] + orientation[:3] * start[0] + orientation[3:] * start[1]
    return FileArray(
        stack.transpose(2, 1, 0), LPS_TO_RAS @ affine, is_scaled=True, modality=slices[0].modality, steps=steps
    )


def _is_parallel(one: Slice, other: Slice) -> bool:
    """Return whether two slices lie alike; what is rounded in headers is no difference."""
    turned = max(abs(first - second) for first, second in zip(one.orientation, other.orientation, strict=True))
    wider = max(abs(first / second - 1) for first, second in zip(one.spacing, other.spacing, strict=True))
    return turned < 2e-3 and wider < 1e-3


def _sorted(slices: list[Slice]) -> list[Slice]:
    along = along_normal(np.array([part.position for part in slices]), np.array(slices[0].orientation))
    return [slices[index] for index in np.argsort(along, kind="stable")]


def _split(slices: list[Slice]) -> list[Series]:
    """Return slices as volumes: more than one where slices share places and a tag tells them apart."""
    if not _has_doubles(slices):
        return [Series(tuple(slices))]
    for index, name in enumerate(APART):
        parts: dict[str, list[Slice]] = {}
        for part in slices:
            parts.setdefault(part.apart[index], []).append(part)
        whole_parts = all(len(part) >= LEAST and not _has_doubles(part) for part in parts.values())
        if len(parts) > 1 and "" not in parts and whole_parts:
            return [
                Series(tuple(part), f"{name} {number + 1} of {len(parts)}")
                for number, (_, part) in enumerate(sorted(parts.items(), key=lambda item: _by_number(item[0])))
            ]
    return [Series(tuple(slices))]


def _by_number(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return 0.0, value


def _has_doubles(slices: list[Slice]) -> bool:
    along = along_normal(np.array([part.position for part in slices]), np.array(slices[0].orientation))
    return bool((np.diff(along) <= SAME).any())


def _stack(slices: Sequence[Slice], first: np.ndarray) -> np.ndarray:
    """Return the values of slices [n, rows, columns], one for each place; raises ImageError where two of one place differ."""
    found: np.ndarray | None = None
    count, opened, dataset = -1, Path(), None
    for part, is_first in zip(slices, first, strict=True):
        try:
            if opened != part.path:
                opened, dataset = part.path, open_dicom(part.path)
            with quiet():
                values = _values(dataset, part)
        except ImageError as error:
            named = str(error).startswith(part.path.name)
            raise ImageError(str(error) if named else f"{part.path.name}: {error}", error.reason) from None
        if found is None:
            kind = np.int16 if part.modality == "CT" else np.float32
            found = np.empty((int(first.sum()), *part.size), kind)
        if is_first:
            count += 1
            found[count] = values
        elif not np.array_equal(found[count], values.astype(found.dtype)):
            raise _two_at_one_place(slices, part)
    assert found is not None
    return found


def _values(dataset: Any, part: Slice) -> np.ndarray:
    """Return a frame's values in units of the modality, padding as air, int16 of a CT; raises ImageError."""
    stored = decode_frame(dataset, part.frame)
    if stored.shape != part.size:
        raise ImageError(
            f"pixels of {list(stored.shape)}, expected {list(part.size)}: grey, of the header's size", "bad_header"
        )
    low, high = int(stored.min()), int(stored.max())
    by_level = (
        stored.dtype.kind in "iu" and high - low < stored.size
    )  # each value is worked out once, wherever it stands
    levels = np.arange(low, high + 1).astype(stored.dtype) if by_level else stored.ravel()
    values, padding = modality_values(levels, dataset, part.frame)
    if padding is not None:
        values[padding] = AIR if part.modality == "CT" else 0
    if part.modality == "CT":
        try:
            values = hounsfield.to_int16(values[None])[0]
        except ImageError as error:
            described = describe(dataset, part.frame, "PixelValueTransformationSequence")
            slope, intercept = (numbers(described, f"Rescale{name}")[:1] for name in ("Slope", "Intercept"))
            raise ImageError(f"{error} (its own slope {slope}, intercept {intercept})", error.reason) from None
    return np.asarray(values[stored.astype(np.int32) - low] if by_level else values.reshape(stored.shape))


def _two_at_one_place(slices: Sequence[Slice], part: Slice) -> ImageError:
    at = along_normal(np.array([part.position]), np.array(part.orientation))[0]
    differ = [name for index, name in enumerate(APART) if len({other.apart[index] for other in slices}) > 1]
    return ImageError(
        f"several slices with unequal pixels at one place ({at:.4g} mm along the normal): phases or echoes of one series that "
        f"no tag tells apart (differing: {', '.join(differ) or 'none'} of {', '.join(APART)}); give the files of one volume",
        "two_slices_at_one_place",
    )
