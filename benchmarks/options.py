"""What a row is told, and the peers' other environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .result import ROOT

PEER_PACKAGES = ("webdataset==0.2.86", "braceexpand")
"""open_clip_train 3.3 does not run on newer ones."""


@dataclass(frozen=True)
class Options:
    """`quick`: sizes that show that it runs; `work`: a folder that is removed; `images`: a folder of JPEG radiographs."""

    quick: bool
    work: Path
    images: Path | None = None

    @property
    def repeats(self) -> int:
        return 2 if self.quick else 5


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of a measured process: one thread unless `extra` says otherwise, no GPU, no network."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
        **extra,
    }


class NoPeerError(RuntimeError):
    """The peer cannot run here; the message says why."""


def peer_environment() -> dict[str, str]:
    """Return the environment in which open_clip_train runs as it is: this one, with the webdataset it needs before ours.

    The packages are put into `runs/bench/peer` once, with uv. Everything else, torch above all, is the same on both sides.
    Raises NoPeerError.
    """
    folder = ROOT / "runs" / "bench" / "peer"
    if not (folder / "webdataset").is_dir():
        uv = shutil.which("uv")
        if uv is None:
            raise NoPeerError("open_clip_train needs an older webdataset, and there is no uv to fetch it with")
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--no-deps"]
        command += ["--target", str(folder), *PEER_PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
            raise NoPeerError(f"open_clip_train needs an older webdataset, which cannot be fetched: {said}")
    return environment(PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]))
