"""The grey scale of DICOM: stored values to 8 bits by modality LUT, VOI LUT or window, each step recorded.

Formulas are those of PS3.3 (C.11.1 modality LUT, C.11.2 VOI LUT, C.7.6.16.2.9 and .10 the same in functional groups).
A slice and a whole volume are mapped by the same code: a `Scale` is chosen, then applied to each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from vlp.core.config import config

from .errors import ImageError

Array = np.ndarray[Any, Any]


@config
class DicomOptions:
    """How stored values become 8 bits.

    `window`: "file" the VOI LUT or the first window of the file, and the full range where it has none; "range" always
    the full range; or "center,width" in units of the modality (Hounsfield units for CT).
    """

    window: str = "file"


@dataclass(frozen=True, slots=True)
class Window:
    """A window in units of the modality and its function (LINEAR, LINEAR_EXACT, SIGMOID)."""

    center: float
    width: float
    function: str = "LINEAR"


@dataclass(frozen=True, slots=True)
class Range:
    """The full range of an image or a volume, in units of the modality."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Table:
    """A VOI LUT: what it maps `first`, `first + 1`, ... to, and its highest output."""

    first: int
    entries: tuple[int, ...]

    @property
    def top(self) -> int:
        """The output that is white: by the bits that the entries need, which may be fewer than the file declares."""
        return (1 << max(8, max(self.entries).bit_length())) - 1


Scale = Window | Range | Table


def numbers(dataset: Any, name: str) -> list[float]:
    """Return the values of an element that holds numbers, decimal commas read as points; raises ImageError naming it."""
    if name not in dataset:
        return []
    try:
        value = dataset[name].value
        if value is None or value == "":
            return []
        parts = value.split("\\") if isinstance(value, str) else value if hasattr(value, "__iter__") else [value]
        found = [float(str(part).strip().replace(",", ".")) for part in parts]
    except Exception:  # pydicom raises many kinds; what they say quotes the value
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise ImageError(f"DICOM {name} holds what is no number", "bad_header")
    return found


def number(dataset: Any, name: str, default: float) -> float:
    """Return the first value of an element, `default` where there is none; raises ImageError."""
    return (numbers(dataset, name) or [default])[0]


def whole(dataset: Any, name: str, default: int | None = None) -> int:
    """Return an element that must be a whole number; raises ImageError where it is not, or is missing."""
    found = numbers(dataset, name) or ([] if default is None else [default])
    if not found or found[0] != int(found[0]):
        raise ImageError(f"DICOM {name} is {'no whole number' if found else 'missing'}", "bad_header")
    return int(found[0])


def text(dataset: Any, name: str, default: str = "") -> str:
    """Return an element as text, without blanks around it."""
    return str(getattr(dataset, name, "") or default).strip()


def describe(dataset: Any, index: int, macro: str) -> Any:
    """Return what describes a frame: its functional group of that name, else the shared one, else the dataset."""
    each = getattr(dataset, "PerFrameFunctionalGroupsSequence", None) or []
    shared = getattr(dataset, "SharedFunctionalGroupsSequence", None) or []
    for group in [*each[index : index + 1], *shared[:1]]:
        found = getattr(group, macro, None)
        if found:
            return found[0]
    return dataset


def choose_scale(dataset: Any, index: int, options: DicomOptions) -> Window | Table | None:
    """Return the VOI LUT or window of a frame that the options ask for, None for the full range; raises ImageError."""
    if options.window == "range":
        return None
    if options.window != "file":
        center, _, width = options.window.partition(",")
        try:
            return Window(float(center), float(width))
        except ValueError:
            raise ImageError(f"window {options.window!r}: expected file, range or center,width", "bad_option") from None
    described = describe(dataset, index, "FrameVOILUTSequence")
    for place in (described, dataset):
        if getattr(place, "VOILUTSequence", None):
            return Table(*_lut(place.VOILUTSequence[0], dataset, "VOILUTSequence"))
    middle, span = numbers(described, "WindowCenter"), numbers(described, "WindowWidth")
    function = text(described, "VOILUTFunction", "LINEAR").upper()
    if not middle or not span or span[0] <= 0 or (function == "LINEAR" and span[0] < 1):
        return None
    return Window(middle[0], span[0], function)


def value_range(stored: Array, dataset: Any, index: int) -> Range:
    """Return the range of a frame's values in units of the modality, padding apart; raises ImageError."""
    modal, padding = modality_values(_levels(stored, dataset)[0], dataset, index)
    seen = modal if padding is None else modal[~padding]
    seen = seen[np.isfinite(seen)]
    if seen.size == 0:
        raise ImageError("DICOM pixels: no finite number among them")
    return Range(float(seen.min()), float(seen.max()))


def modality_values(stored: Array, dataset: Any, index: int) -> tuple[Array, Array | None]:
    """Return stored values in units of the modality, float64, and where they are padding, or None; raises ImageError."""
    padding = _padding(stored, dataset, [])
    return _modality_lut(stored.astype(np.float64), dataset, index, []), padding


def map_grey(stored: Array, dataset: Any, index: int, scale: Scale) -> tuple[Array, tuple[str, ...]]:
    """Return stored values [H, W] as uint8, and the steps taken, in their order."""
    steps: list[str] = []
    levels, place = _levels(stored, dataset)
    padding = _padding(levels, dataset, steps)
    modal = _modality_lut(levels.astype(np.float64), dataset, index, steps)
    scaled = _apply(modal, scale, steps)
    if text(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        scaled = 255.0 - scaled
        steps.append("MONOCHROME1 inverted")
    grey: Array = np.nan_to_num(np.rint(np.clip(scaled, 0, 255)), nan=0.0).astype(np.uint8)
    if padding is not None:
        grey[padding] = 0
    return (grey if place is None else place(grey)), tuple(steps)


def _levels(stored: Array, dataset: Any) -> tuple[Array, Callable[[Array], Array] | None]:
    """Return values to map, in order, and how to put what they become in their places.

    Every step maps a value whatever its place, so it is done once per value and not once per pixel: several times faster.
    Images of so many values that it does not pay are returned as they are.
    """
    unsigned = {1: np.uint8, 2: np.uint16}.get(stored.dtype.itemsize)
    if unsigned is None or stored.dtype.kind not in "iu" or stored.size == 0:
        return stored, None
    low, high = int(stored.min()), int(stored.max())
    if high - low >= stored.size:
        return stored, None
    places: Array = stored.view(unsigned)  # of a value in a table of all values: its bits, whatever its sign
    size = 1 << (8 * stored.dtype.itemsize)
    levels: Array = np.arange(low, high + 1).astype(stored.dtype)
    if "PixelPaddingValue" in dataset or "ModalityLUTSequence" in dataset:
        # values between those that occur would widen the full range that is scaled when there is no window
        occurs = np.zeros(size, bool)
        occurs[places] = True
        levels = levels[occurs[levels.view(unsigned)]]

    def place(grey: Array) -> Array:
        table: Array = np.zeros(size, np.uint8)
        table[levels.view(unsigned)] = grey
        return np.asarray(cv2.LUT(places, table))

    return levels, place


def _padding(values: Array, dataset: Any, steps: list[str]) -> Array | None:
    """Return where the pixels are padding outside of the detector, None where there is none (PS3.3 C.7.5.1.1.2)."""
    if not numbers(dataset, "PixelPaddingValue"):
        return None
    first = whole(dataset, "PixelPaddingValue")
    last = whole(dataset, "PixelPaddingRangeLimit", first)
    if values.dtype.kind == "u":  # the value may be written as if it were signed
        size = 1 << (values.dtype.itemsize * 8)
        first, last = first % size, last % size
    inside = (values >= min(first, last)) & (values <= max(first, last))
    if not inside.any() or inside.all():
        return None
    steps.append("padding black")
    return np.asarray(inside)


def _modality_lut(values: Array, dataset: Any, index: int, steps: list[str]) -> Array:
    """Apply the modality LUT: a table, or slope and intercept (PS3.3 C.11.1)."""
    if getattr(dataset, "ModalityLUTSequence", None):
        steps.append("modality LUT table")
        return _look_up(values, Table(*_lut(dataset.ModalityLUTSequence[0], dataset, "ModalityLUTSequence")))
    described = describe(dataset, index, "PixelValueTransformationSequence")
    slope = number(described, "RescaleSlope", 1) or 1.0
    intercept = number(described, "RescaleIntercept", 0)
    if (slope, intercept) == (1.0, 0.0):
        return values
    steps.append(f"rescaled: slope {slope:g}, intercept {intercept:g}")
    return values * slope + intercept


def _lut(item: Any, dataset: Any, name: str) -> tuple[int, tuple[int, ...]]:
    """Return the first value that a table maps, and its entries; raises ImageError."""
    descriptor = [int(value) for value in numbers(item, "LUTDescriptor")]
    content = getattr(item, "LUTData", None)
    if len(descriptor) != 3 or content is None:
        raise ImageError(f"DICOM {name} holds no table", "bad_header")
    count = descriptor[0] or 1 << 16
    if isinstance(content, bytes):
        kind = "u1" if len(content) <= count + 1 else "<u2"
        content = np.frombuffer(content[: len(content) - len(content) % np.dtype(kind).itemsize], kind)
    entries = tuple(int(value) for value in np.atleast_1d(np.asarray(content))[:count])
    if not entries or min(entries) < 0:
        raise ImageError(f"DICOM {name} holds no table", "bad_header")
    first = descriptor[1]
    if first >= 1 << 15 and whole(dataset, "PixelRepresentation", 0) == 1:
        first -= 1 << 16
    return first, entries


def _look_up(values: Array, table: Table) -> Array:
    """Return what a table maps values to; those outside of it become its first or last entry."""
    places = np.clip(np.rint(values).astype(np.int64) - table.first, 0, len(table.entries) - 1)
    return np.asarray(table.entries, np.float64)[places]


def _apply(values: Array, scale: Scale, steps: list[str]) -> Array:
    """Return values mapped to 0..255 by a VOI LUT, a window or their full range (PS3.3 C.11.2)."""
    if isinstance(scale, Table):
        steps.append("VOI LUT table")
        return _look_up(values, scale) * (255.0 / scale.top)
    if isinstance(scale, Window):
        steps.append(f"window: center {scale.center:g}, width {scale.width:g}, {scale.function.lower()}")
        return apply_window(values, scale.center, scale.width, scale.function)
    steps.append(f"full range: {scale.low:g}..{scale.high:g}")
    return (values - scale.low) * 255.0 / max(scale.high - scale.low, 1e-12)


def apply_window(values: Array, center: float, width: float, function: str = "LINEAR") -> Array:
    """Return values windowed to 0..255 (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return 255.0 / (1.0 + np.exp(-4.0 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0.0, 1.0) * 255.0
    if width == 1:
        return np.where(values <= center - 0.5, 0.0, 255.0)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0.0, 1.0) * 255.0


def widest(ranges: Iterable[Range]) -> Range:
    """Return the range that holds all of them."""
    lows, highs = zip(*((part.low, part.high) for part in ranges), strict=True)
    return Range(min(lows), max(highs))
