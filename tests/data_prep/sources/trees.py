"""Small fake raw folders for the tests: pictures, tables, DICOM files."""

import csv
import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def pixels(seed: int = 0, height: int = 40, width: int = 48) -> np.ndarray:
    """A grey picture with detail at several scales, different for each seed."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width))
    for cells in (3, 6, 12, 24):
        coarse = Image.fromarray(rng.uniform(-60 / cells**0.5, 60 / cells**0.5, (cells, cells)).astype(np.float32))
        picture += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(picture + 128, 0, 255).astype(np.uint8)


def encoded(
    form: str = "JPEG", seed: int = 0, mode: str = "L", height: int = 40, width: int = 48, **options: Any
) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, height, width)).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def picture(path: Path, seed: int = 0, **options: Any) -> Path:
    form = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}[path.suffix]
    return put(path, encoded(form, seed, **options))


def table(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a CSV, gzipped when the name says so."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
    return put(path, gzip.compress(data) if path.suffix == ".gz" else data)


def dicom(path: Path, stored: np.ndarray | None = None, **elements: Any) -> Path:
    """Write a computed radiograph; elements beyond the pixels by keyword."""
    from tests.data_prep.images.test_dicom import phantom, saved

    stored = pixels(len(str(path))).astype(np.uint16) * 16 if stored is None else stored
    return put(path, saved(phantom(stored, **{"Modality": "CR", **elements})))


def pairs(root: Path, n: int = 20) -> Path:
    """Write n pictures and `pairs.csv`, two pictures to a patient."""
    rows = []
    for number in range(n):
        picture(root / "images" / f"i{number}.jpg", number)
        rows.append(
            {"image": f"images/i{number}.jpg", "report": f"No effusion {number}.", "patient": f"p{number // 2}"}
        )
    table(root / "pairs.csv", rows)
    return root
