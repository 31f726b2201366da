"""Row 11: volumes. A random crop out of a shard beside `.nii.gz`, the whole of a sample beside MONAI's pipeline, memory.

The volume is a synthetic chest of 240 x 480 x 480 voxels with noise of 25 HU. CPU milliseconds, both sides of the same
process, their files in the page cache. MONAI's chain is what released recipes do: LoadImaged, EnsureChannelFirst, Orientation,
Spacing, ScaleIntensityRange, ResizeWithPadOrCrop; it takes all of the volume to any crop.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..options import NoPeerError, Options
from ..result import Result, compare, cpu_ms, interleave

SHAPE, SPACING = (240, 480, 480), (1.2, 0.6, 0.6)
CROP = (64, 224, 224)
TARGET, SIZE = (3.0, 1.5, 1.5), (96, 192, 192)
WINDOW = (-1000.0, 1000.0)


def run(options: Options) -> Iterator[Result]:
    try:
        import monai.transforms as monai
        import nibabel
    except ImportError:
        raise NoPeerError("volumes need nibabel and MONAI: install vlp with the extra `volume`") from None
    from vlp.modalities.volume import store
    from vlp.modalities.volume.processor import VolumeProcessor
    from vlp.modalities.volume.spec import VolumeSpec
    from vlp.modalities.volume.volume import Volume

    shape = tuple(side // 4 for side in SHAPE) if options.quick else SHAPE
    voxels, affine = chest(shape), np.diag([*SPACING[::-1], 1.0])
    nifti, stored = options.work / "scan.nii.gz", options.work / "scan.b2nd"
    nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), affine), nifti)  # type: ignore[no-untyped-call]
    stored.write_bytes(store.encode(Volume(voxels, affine)))
    rng = np.random.default_rng(0)
    crop = tuple(min(want, side) for want, side in zip(CROP, shape, strict=True))

    def corner() -> tuple[slice, ...]:
        starts = [int(rng.integers(0, side - want + 1)) for side, want in zip(shape, crop, strict=True)]
        return tuple(slice(start, start + want) for start, want in zip(starts, crop, strict=True))

    def ours() -> object:
        return np.asarray(store.decode(stored.read_bytes(), 1 << 30).voxels[corner()])

    def theirs() -> object:
        return np.asanyarray(nibabel.load(nifti).dataobj)[corner()[::-1]]  # type: ignore[attr-defined]

    took = timed({"ours": ours, "nii.gz": theirs}, options)
    sizes = f"{stored.stat().st_size / 2**20:.1f} MiB, .nii.gz {nifti.stat().st_size / 2**20:.1f} MiB"
    what = f"a random crop of {' x '.join(map(str, crop))} of {' x '.join(map(str, shape))} voxels"
    yield compare("11", what, "nibabel on .nii.gz", "ms CPU", took["ours"], took["nii.gz"], 10.0, note=sizes)

    size = tuple(min(want, side // 3) for want, side in zip(SIZE, shape, strict=True))
    spec = VolumeSpec(spacing=TARGET, size=(size[0], size[1], size[2]), windows=("0/2000",))
    processor = VolumeProcessor(spec)
    chain = monai.Compose(
        [
            monai.LoadImage(image_only=True),
            monai.EnsureChannelFirst(),
            monai.Orientation(axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            monai.Spacing(pixdim=TARGET[::-1]),
            monai.ScaleIntensityRange(*WINDOW, 0.0, 1.0, clip=True),
            monai.ResizeWithPadOrCrop(size[::-1], value=0.0),
        ]
    )

    def prepared() -> object:
        return processor.eval(processor.read(stored.read_bytes()))[0]

    took = timed({"ours": prepared, "monai": lambda: chain(nifti)}, options)
    what = f"a volume to {' x '.join(map(str, size))} voxels of {' x '.join(map(str, TARGET))} mm, by area"
    note = "MONAI's is trilinear, without a low pass"
    yield compare("11", what, "MONAI's Compose on .nii.gz", "ms CPU", took["ours"], took["monai"], 3.0, note=note)
    peaks = [peak(stored, count) for count in ((2, 8) if options.quick else (4, 32))]
    yield Result(
        "11", "peak memory after 8 times as many volumes", "a flat line", "MiB", peaks[1], peaks[0],
        peaks[0] / peaks[1], 0.95, "read and prepared one after another in a process of its own",
    )  # fmt: skip


def timed(sides: dict[str, Callable[[], object]], options: Options) -> dict[str, list[float]]:
    return interleave({name: lambda run=run: cpu_ms(run) for name, run in sides.items()}, options.repeats)


def chest(shape: tuple[int, ...]) -> np.ndarray:
    """Return a synthetic chest [D, H, W] int16, with noise."""
    from vlp_prep.synthetic.ct import body
    from vlp_prep.synthetic.ct.state import draw_state

    step = [288.0 / shape[2], 240.0 / shape[1], 288.0 / shape[0]]
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = [-144.0, -120.0, -144.0]
    scan: np.ndarray = body.scan(draw_state(2, 0), (shape[2], shape[1], shape[0]), affine, 25.0)
    return np.ascontiguousarray(scan.transpose(2, 1, 0))


def peak(stored: Path, count: int) -> float:
    """Return the peak of a process that prepares the volume so many times, in MiB."""
    command = [sys.executable, "-m", __name__, str(stored), str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024


def main(stored: str, count: str) -> None:
    from vlp.modalities.volume.processor import VolumeProcessor
    from vlp.modalities.volume.spec import VolumeSpec

    processor: Any = VolumeProcessor(VolumeSpec(spacing=TARGET, size=SIZE))
    for _ in range(int(count)):
        processor.eval(processor.read(Path(stored).read_bytes()))
    status = Path("/proc/self/status").read_text()  # getrusage would tell the peak of the process that started this one
    sys.stdout.write(re.findall(r"VmHWM:\s+(\d+)", status)[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
