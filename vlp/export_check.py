"""Load an export as its users will, in a fresh offline process, and compare its embeddings with the native model's.

Run as a program, it is that process: `python -m vlp.export_check FORMAT FOLDER PROBES OUT`. Probes of exactly the model's
size need no resizing, so they compare weights, normalisation and tokenizer; larger ones show what the format's resizing
changes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .config import ConfigError

if TYPE_CHECKING:
    from .hub import Pretrained

TOLERANCE = {"vlp": 1e-6, "onnx": 1e-4}
"""Largest difference of an embedding's coordinates (unit length) that passes; 1e-5 for the other formats."""

LEAST_COSINE = 0.995
"""Similarity to the native embedding, on an image that has to be resized, below which `--approximate` is asked for.

Libraries round crops to other pixels and weight neighbours otherwise; that much is a matter of taste, more is another model.
"""

TEXTS = [
    "there is a small nodule in the right upper zone",
    "No pleural effusion. The heart is normal in size; no pneumothorax.",
    "x",
    "Findings: mild cardiomegaly, bilateral oedema (worse), 3.5 x 2 cm mass & a left-sided port",
]

Embed = Callable[[Sequence[Any]], np.ndarray]


def probes(loaded: Pretrained) -> dict[str, np.ndarray]:
    """Return probe images by name: three of the model's own size, one larger and oblong."""
    spec = loaded.preprocess.spec
    rng = np.random.default_rng(0)
    made = {}
    for name, shape in (*((f"same{index}", (spec.size, spec.size)) for index in range(3)), ("larger", (330, 270))):
        y, x = np.mgrid[: shape[0], : shape[1]]
        waves = sum(
            rng.uniform(20, 60) * np.sin(y * rng.uniform(-1, 1) / 7 + x * rng.uniform(-1, 1) / 7) for _ in range(4)
        )
        grey = np.clip(128 + waves + rng.normal(0, 4, shape), 0, 255).astype(np.uint8)
        made[name] = grey
    return made


def check(loaded: Pretrained, folder: Path, kind: str, approximate: bool) -> list[str]:
    """Compare an export with the native model; returns what was measured. Raises ConfigError when they differ."""
    pictures = probes(loaded)
    np.savez(str(folder / ".probes.npz"), allow_pickle=False, **pictures)
    out = folder / ".embeddings.npz"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    command = [sys.executable, "-m", "vlp.export_check", kind, str(folder), str(folder / ".probes.npz"), str(out)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    try:
        if run.returncode != 0:
            raise ConfigError(f"the {kind} export does not load in a fresh process: {_last_line(run.stderr)}")
        with np.load(out) as found:
            theirs = dict(found)
    finally:
        (folder / ".probes.npz").unlink(missing_ok=True)
        out.unlink(missing_ok=True)
    return compare(native(loaded, pictures, kind), theirs, kind, approximate)


def native(loaded: Pretrained, pictures: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """Return the native embeddings of the probes, as the format gives them (towers alone: before the heads)."""
    if kind in ("image", "text"):
        module = import_module(f"vlp.export_{kind}")
        result: dict[str, np.ndarray] = module.native(loaded, list(pictures.values()), TEXTS)
        return result
    return {
        "images": loaded.embed_images(list(pictures.values())).cpu().numpy(),
        "texts": loaded.embed_texts(TEXTS).cpu().numpy(),
    }


def compare(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], kind: str, approximate: bool) -> list[str]:
    """Return the measured differences as sentences; raises ConfigError for those beyond the tolerance."""
    limit = TOLERANCE.get(kind, 1e-5)
    notes = []
    for part in sorted(set(ours) & set(theirs)):
        if ours[part].shape != theirs[part].shape:
            raise ConfigError(f"the {kind} export's {part} are {theirs[part].shape}, the model's {ours[part].shape}")
        gap = np.abs(ours[part] - theirs[part]).max(1)
        same = float((gap[:-1] if part == "images" else gap).max())
        if not same <= limit:
            raise ConfigError(f"the {kind} export's {part} differ from the model's by {same:.2g}, more than {limit:g}")
        notes.append(f"{part}: equal to the native model's within {max(same, 1e-9):.1g}")
        cosine = float((ours[part][-1] * theirs[part][-1]).sum()) if part == "images" else 1.0
        if not cosine >= LEAST_COSINE and not approximate:
            raise ConfigError(
                f"the {kind} export resizes images otherwise than this model: their embeddings have a cosine of only "
                f"{cosine:.4f}. Give --approximate to accept that, train with image.interpolation=bicubic, or export with "
                "--format vlp"
            )
        if part == "images" and gap[-1] > limit:
            notes.append(f"images that have to be resized: a cosine of {cosine:.5f} with the native embedding")
    return notes


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it ended without a word"


def run(kind: str, folder: Path, probe_file: Path, out: Path) -> None:
    """Load `folder` with the format's own library and write the probes' embeddings."""
    with np.load(probe_file) as found:
        pictures = [found[name] for name in found.files]
    if kind == "vlp":
        from .hub import from_pretrained

        loaded = from_pretrained(folder)
        result = {"images": loaded.embed_images(pictures).numpy(), "texts": loaded.embed_texts(TEXTS).numpy()}
    else:
        result = import_module(f"vlp.export_{kind}").load(folder, pictures, TEXTS)
    np.savez(str(out), allow_pickle=False, **result)


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON file of an export."""
    tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return tree


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
