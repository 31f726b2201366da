"""Load an export as its users will, in a fresh offline process, and compare its embeddings with the native model's.

Run as a program, it is that process: `python -m vlp.export.verify FORMAT SOURCE PROBES OUT [MODULE...]`. Probes of exactly
the model's size need no resizing, so they compare weights, normalisation and tokenizer; the larger one the resizing too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlp.core.config import ConfigError

from . import Exporter, exporters

if TYPE_CHECKING:
    from vlp.hub import Pretrained

TEXTS = [
    "there is a small nodule in the right upper zone",
    "No pleural effusion. The heart is normal in size; no pneumothorax.",
    "x",
    "Findings: mild cardiomegaly, bilateral oedema (worse), 3.5 x 2 cm mass & a left-sided port",
]
SENTENCE = "There is a new opacity in the left lower zone. "


def probe_texts(loaded: Pretrained) -> list[str]:
    """Return sentences; one is cut for its length, unless the model's tokenizer refuses such."""
    return TEXTS if loaded.tokenizer.overflow == "error" else [*TEXTS, SENTENCE * loaded.tokenizer.length]


def expected(loaded: Pretrained, exporter: Exporter) -> dict[str, np.ndarray]:
    """Return what the export should make of the probes."""
    return exporter.expected(loaded, loaded.preprocess.probes(), probe_texts(loaded))


def check(loaded: Pretrained, folder: Path, exporter: Exporter, approximate: bool) -> list[str]:
    """Compare an export with the native model; returns what was measured. Raises ConfigError when they differ."""
    return compare(expected(loaded, exporter), embed(loaded, str(folder), exporter), exporter, approximate)


def check_repository(
    loaded: Pretrained,
    folder: Path,
    exporter: Exporter,
    approximate: bool,
    repository: str,
    instead: Mapping[str, bytes],
) -> None:
    """As `check`, on what will be pushed, loaded by its Hub name: it is laid out as a download, `instead` in place."""
    with tempfile.TemporaryDirectory() as cache:
        place = Path(cache) / f"models--{repository.replace('/', '--')}"
        revision = "0" * 40
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(revision)
        for path in (path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            copy = place / "snapshots" / revision / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if name in instead:
                copy.write_bytes(instead[name])
            else:
                copy.symlink_to(path.resolve())
        found = embed(loaded, repository, exporter, HF_HUB_CACHE=cache)
        compare(expected(loaded, exporter), found, exporter, approximate)


def embed(loaded: Pretrained, source: str, exporter: Exporter, **environment: str) -> dict[str, np.ndarray]:
    """Return the probes' embeddings by the export at `source` (a folder or a cached Hub name), from a fresh process."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as work:
        given, out = Path(work) / "probes.npz", Path(work) / "embeddings.npz"
        probes = enumerate(loaded.preprocess.probes())
        images = {f"image{at}": np.frombuffer(x, np.uint8) if isinstance(x, bytes) else x for at, x in probes}
        np.savez(str(given), allow_pickle=False, texts=np.array(probe_texts(loaded)), **images)
        words = [exporter.name, source, str(given), str(out), *loaded.trust]
        command = [sys.executable, "-m", "vlp.export.verify", *words]
        variables = {**os.environ, **offline, **environment}
        done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
        if done.returncode != 0:
            said = done.stderr.strip().rpartition("\n")[2].strip()[:300] or "it ended without a message"
            raise ConfigError(f"the {exporter.name} export does not load in a fresh process: {said}")
        with np.load(out) as found:
            return dict(found)


def compare(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], exporter: Exporter, approximate: bool
) -> list[str]:
    """Return the measured differences as sentences; raises ConfigError for those beyond the tolerance."""
    limit, name = exporter.tolerance, exporter.name
    notes = []
    for part in sorted(set(ours) & set(theirs)):
        if ours[part].shape != theirs[part].shape:
            raise ConfigError(f"the {name} export's {part} are {theirs[part].shape}, the model's {ours[part].shape}")
        gap = np.abs(ours[part] - theirs[part]).max(1)
        same = float((gap[:-1] if part == "images" else gap).max())
        if not same <= limit:
            raise ConfigError(f"the {name} export's {part} differ from the model's by {same:.2g}, more than {limit:g}")
        notes.append(f"{part}: equal to the native model's within {max(same, 1e-9):.1g}")
        if part == "images" and not gap[-1] <= limit:
            cosine = float((ours[part][-1] * theirs[part][-1]).sum())
            least = exporter.least_cosine
            if not (approximate or (least is not None and cosine >= least)):
                raise ConfigError(
                    f"the {name} export resizes images otherwise than this model: their embeddings have a cosine of only "
                    f"{cosine:.5f}. Give --approximate to accept that, or export with --format vlp or onnx"
                )
            notes.append(f"images that have to be resized: a cosine of {cosine:.5f} with the native embedding")
    return notes


def run(name: str, source: str, probe_file: Path, out: Path, trust: Sequence[str]) -> None:
    """Load `source` with the format's own library and write the probes' embeddings; `trust` is for our own format."""
    with np.load(probe_file) as given:
        texts = [str(text) for text in given["texts"]]
        arrays = [given[key] for key in given.files if key != "texts"]
        images = [array.tobytes() if array.ndim == 1 else array for array in arrays]
    found = exporters.get(name)(name).load(source, images, texts, trust)
    np.savez(str(out), allow_pickle=False, **found)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:])
