"""M3D-Cap: 120,092 series of pictures from Radiopaedia, with a text for each case.

Layout, below the raw folder or its `M3D_Cap/`: `{ct_case,ct_quizze}/<five digits>/`, in it one `.txt` and a folder of 8-bit
JPEG or PNG for each series, named by a number; a `.json` with lists of train, validation and test. Neither values in
Hounsfield units nor millimetres are known: the volumes are stored as greys of modality OT with a spacing of 0, which a
recipe that asks for millimetres refuses. Pictures are taken to be as they are shown, the patient's front above and right on
the left, in the order of their numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vlp.core.config import ConfigError
from vlp.core.untrusted import read_json
from vlp.modalities.image.decode import decode, image_size, read_image
from vlp.modalities.image.errors import ImageError
from vlp.modalities.volume.hounsfield import unscaled
from vlp.modalities.volume.options import LEAST, check_size
from vlp.modalities.volume.volume import FileAxes, Volume
from vlp.sample import Sample

from ..images.modality_codes import OTHER
from .base import Record, Reject, Source, sources

PARTS = ("ct_case", "ct_quizze")
PICTURES = (".jpg", ".jpeg", ".png")
SPLITS = {"train": "train", "validation": "val", "test": "test"}
HEADINGS = ("study_findings:", "discussion:")
UNKNOWN = "slices as pictures: neither HU nor spacing nor orientation is known"
AS_SHOWN = FileAxes((2, 1, 0), (False, True, True))


@sources.register("m3d_cap")
class M3dCap(Source):
    name = "m3d_cap"
    licence = "see Radiopaedia's terms of the images"
    homepage = "https://huggingface.co/datasets/GoodBaiBai88/M3D-Cap"
    modality = OTHER
    language = "en"

    def holds_volumes(self) -> bool:
        return True

    def records(self) -> Iterator[Record]:
        base = self.raw / "M3D_Cap" if (self.raw / "M3D_Cap").is_dir() else self.raw
        parts, splits = [part for part in PARTS if (base / part).is_dir()], _splits(base)
        if not parts:
            raise ConfigError(f"m3d_cap: {self.raw} has no {' or '.join(PARTS)}: is this the folder as published?")
        for part in parts:
            for case in sorted(path for path in (base / part).iterdir() if path.is_dir()):
                study = f"{part}_{case.name}"
                place = case.relative_to(self.raw).as_posix()
                for series in sorted(path.name for path in case.iterdir() if path.is_dir()):
                    yield Record(
                        f"{study}_{series}",
                        {"case": place, "file": f"{place}/{series}"},
                        study,
                        study,
                        splits.get(study),
                    )

    def sample(self, record: Record) -> Sample:
        case, folder = self.path(record.data["case"]), self.path(record.data["file"])
        texts = sorted(case.glob("*.txt"))
        if len(texts) != 1:
            raise Reject("report_missing", f"{len(texts)} texts in the folder of a case, expected one")
        pictures = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and _number(path) is not None]
        volume = self._stack(sorted(pictures, key=lambda path: _number(path) or 0))
        return self.sample_of(record, volume, report=_told(self.text(self.path(texts[0].relative_to(self.raw)))))

    def _stack(self, pictures: list[Path]) -> Volume:
        """Return pictures as a volume, those of another size than most left out; raises ImageError."""
        data = [read_image(path) for path in pictures]
        sizes = Counter(map(image_size, data))
        if not sizes or sizes.most_common(1)[0][1] < LEAST:
            raise ImageError(
                f"{len(data)} pictures of {len(sizes)} sizes: a volume has {LEAST} slices of one", "no_volume"
            )
        size, count = sizes.most_common(1)[0]
        check_size((count, *size), self.max_voxels)
        if 2 * count < len(data):
            raise ImageError(f"{len(data)} pictures, the most of one size are {count}: no one volume", "sizes_differ")
        kept = [decode(picture, 1).reshape(size) for picture in data if image_size(picture) == size]
        voxels, span = unscaled(AS_SHOWN.to_volume(np.stack(kept).transpose(2, 1, 0)), (1.0, 0.0))
        dropped = len(data) - count
        steps = (UNKNOWN, *([f"left out: {dropped} slices of other sizes"] if dropped else []))
        return Volume(voxels, np.diag([0.0, 0.0, 0.0, 1.0]), OTHER, span, AS_SHOWN, steps)


def _splits(base: Path) -> dict[str, str]:
    """Return the split of each case that the publisher's lists name, by the part and the number in the paths there."""
    found: dict[str, str] = {}
    for path in sorted(base.glob("*.json")):
        lists = read_json(path)
        for name, split in SPLITS.items():
            for entry in lists.get(name, ()) if isinstance(lists, dict) else ():
                parts = str(entry.get("image", "")).replace("\\", "/").split("/")
                known = next((at for at, part in enumerate(parts[:-1]) if part in PARTS), None)
                if known is not None:
                    found.setdefault(f"{parts[known]}_{parts[known + 1]}", split)
    return found


def _number(path: Path) -> int | None:
    match = re.fullmatch(r"\d{1,9}", path.stem)
    return int(match[0]) if match else None


def _told(text: str) -> str:
    """Return what stands behind `study_findings:`, else behind `discussion:`, else all of it."""
    lowered: Any = text.lower()
    for heading in HEADINGS:
        if heading in lowered:
            return text[lowered.index(heading) + len(heading) :].strip()
    return text.strip()
