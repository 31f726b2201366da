"""Data preparation against a plain Pillow loop in the same run: `python -m benchmarks.prep [--images FOLDER] [--n 2000]`.

The peer does what a one-off script does, in one process: open, decode in full, convert, shrink, encode with the same
quality, write into a tar file with its JSON. Ours does that and checks, strips metadata, reads the report, finds concepts,
splits, hashes and indexes, on all cores, its start included. JPEG that is neither shrunk nor converted keeps its bytes:
there the peer is timed both as scripts are (encoding again) and as if it, too, only decoded the file to see that it can be,
and kept the bytes. Rates are wall time on an otherwise idle machine; on a busy one compare the CPU time beside them. With
`--memory` it compares the peak memory of builds of 200 and of 20,000 samples.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIDE, KEPT = 1024, 512
REPORT = (
    "FINDINGS: The heart is enlarged. No focal consolidation or pneumothorax.\nIMPRESSION: Cardiomegaly without edema."
)


def pictures(images: Path | None, n: int) -> list[np.ndarray]:
    """Return n different grey pictures of 1024 x 1024 with the detail and noise of radiographs."""
    rng = np.random.default_rng(0)
    sources = sorted(images.glob("*.jpg"))[:n] if images else []
    found = []
    for index in range(n):
        if sources:
            pixels = cv2.imread(str(sources[index % len(sources)]), cv2.IMREAD_GRAYSCALE)
        else:
            pixels = rng.integers(0, 256, (48, 48)).astype(np.uint8)
        pixels = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        noise = rng.normal(0, 3, (SIDE, SIDE)).astype(np.float32)
        found.append(np.clip(pixels + noise, 0, 255).astype(np.uint8))
    return found


def write_jpegs(folder: Path, images: Path | None, n: int, distinct: int = 50) -> None:
    """Write n JPEG files of 1024 pixels (about 300 kB each) and their table."""
    base = pictures(images, min(n, distinct))
    encoded = [cv2.imencode(".jpg", one, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes() for one in base]
    folder.mkdir()
    for index in range(n):
        (folder / f"i{index:06d}.jpg").write_bytes(encoded[index % len(encoded)])
    lines = [f'i{index:06d}.jpg,p{index // 3},"{REPORT}"' for index in range(n)]
    (folder / "pairs.csv").write_text("image,patient,report\n" + "\n".join(lines) + "\n")


def write_dicoms(folder: Path, images: Path | None, n: int, distinct: int = 50) -> None:
    """Write n computed radiographs of 1024 x 1024 in 12 bits, uncompressed, and text files beside them."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    folder.mkdir()
    base = pictures(images, min(n, distinct))
    for index in range(n):
        pixels = base[index % len(base)]
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, "1.2.840.10008.5.1.4.1.1.1"
        meta.MediaStorageSOPInstanceUID = generate_uid()
        file = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
        file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        file.PatientID, file.StudyInstanceUID, file.Modality = f"p{index}", f"1.2.{index}", "CR"
        file.Rows, file.Columns, file.SamplesPerPixel = SIDE, SIDE, 1
        file.PhotometricInterpretation, file.PixelRepresentation = "MONOCHROME1", 0
        file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
        file.WindowCenter, file.WindowWidth = "2048", "4096"
        file.PixelData = (4095 - pixels.astype(np.uint16) * 16).tobytes()
        file.save_as(folder / f"i{index:06d}.dcm", enforce_file_format=True)
        (folder / f"i{index:06d}.txt").write_text(REPORT)


def plain_loop(paths: list[Path], out: Path, read: Callable[[Path], Image.Image], side: int, keep: bool) -> int:
    """Do what a one-off script does, in one process; return the number of images. `keep` stores the bytes as read."""
    with tarfile.open(out, "w") as tar:
        for path in paths:
            image = read(path)
            if side:
                image.thumbnail((side, side))
            buffer = io.BytesIO(path.read_bytes() if keep else b"")
            if not keep:
                image.save(buffer, "JPEG", quality=95)
            members = {".jpg": buffer.getvalue(), ".json": json.dumps({"key": path.stem, "report": REPORT}).encode()}
            for ending, data in members.items():
                info = tarfile.TarInfo(path.stem + ending)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return len(paths)


def open_jpeg(path: Path) -> Image.Image:
    return Image.open(path).convert("L")


def open_dicom(path: Path) -> Image.Image:
    import pydicom

    file = pydicom.dcmread(path)
    values = file.pixel_array.astype(np.float32)
    values = (values - values.min()) / (values.max() - values.min())
    return Image.fromarray(np.rint((1 - values) * 255).astype(np.uint8))


def ours(room: Path, *words: object) -> None:
    """Run vlp-prep in a process of its own, its start included, from compiled modules as on every run but a first."""
    command = [sys.executable, "-m", "vlp_prep.cli", "build", *map(str, words)]
    environment = {**os.environ, "VLP_PREP_KEY": "a key for the benchmark", "PYTHONPYCACHEPREFIX": str(room / "pyc")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def timed(run: Callable[[], object], n: int) -> tuple[float, float]:
    """Return images per second of wall time, and CPU milliseconds per image, children included."""
    before = sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in WHO)
    start = time.perf_counter()
    run()
    wall = time.perf_counter() - start
    after = sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in WHO)
    return n / wall, 1000 * (after - before) / n


WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def compare(
    name: str, room: Path, paths: list[Path], read: Callable[[Path], Image.Image], side: int, keep: bool, *words: object
) -> None:
    """Print both rates and their ratio; ours and the peer's take turns twice, the better of each counts."""
    n = len(paths)
    mine, peer = [], []
    ours(room, *words, "--out", room / f"{name}-first", "--max-side", side, "--shard-of", "0/1000")
    for turn in range(2):
        peer.append(timed(lambda: plain_loop(paths, room / "peer.tar", read, side, keep), n))
        out = room / f"{name}-{turn}"
        mine.append(timed(lambda out=out: ours(room, *words, "--out", out, "--max-side", side), n))  # type: ignore[misc]
    rate, cpu = max(rate for rate, _ in mine), min(cpu for _, cpu in mine)
    peer_rate, peer_cpu = max(rate for rate, _ in peer), min(cpu for _, cpu in peer)
    print(
        f"{name:28} ours {rate:7.1f}/s ({cpu:5.1f} ms CPU)   Pillow loop {peer_rate:7.1f}/s ({peer_cpu:5.1f} ms CPU)   "
        f"ratio {rate / peer_rate:.2f}   CPU ratio {peer_cpu / cpu:.2f}",
        flush=True,
    )


def peak_memory(n: int, room: Path, workers: int) -> float:
    """Return the peak memory in MB of a build of n synthetic samples, and of its largest worker."""
    script = (
        "import resource, sys; from vlp_prep.cli import main; code = main(sys.argv[1:]); "
        "peak = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]; "
        "print('peak', max(peak)); sys.exit(code)"
    )
    words = ["build", "synthetic", "--n", n, "--size", 32, "--out", room / f"m{n}-{workers}", "--workers", workers]
    command = [sys.executable, "-c", script, *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return float(done.stdout.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of JPEG to make the pictures of (else synthetic ones)")
    parser.add_argument("--n", type=int, default=2000, help="JPEG files (default: 2000); half as many DICOM files")
    parser.add_argument(
        "--memory", action="store_true", help="compare the peak memory of 200 and 20,000 samples instead"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        if options.memory:
            for workers in (0, 2):
                small, large = (peak_memory(n, room, workers) for n in (200, 20_000))
                print(
                    f"{workers} workers: 200 samples {small:.0f} MB, 20,000 samples {large:.0f} MB, ratio {large / small:.2f}"
                )
            return
        print(
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, OpenCV {cv2.__version__}, Pillow {Image.__version__}"
        )
        write_jpegs(room / "jpeg", options.images, options.n)
        jpegs = sorted((room / "jpeg").glob("*.jpg"))
        words = ("pairs", "--raw", room / "jpeg", "--workers", os.cpu_count())
        compare("JPEG 1024 to 512", room, jpegs, open_jpeg, KEPT, False, *words)
        compare("JPEG 1024", room, jpegs, open_jpeg, 0, False, *words)
        compare("JPEG 1024, bytes kept", room, jpegs, open_jpeg, 0, True, *words)
        write_dicoms(room / "dicom", options.images, max(options.n // 2, 20))
        dicoms = sorted((room / "dicom").glob("*.dcm"))
        words = ("dicom_folder", "--raw", room / "dicom", "--reports", "sidecar", "--workers", os.cpu_count())
        compare("DICOM 1024 to 512", room, dicoms, open_dicom, KEPT, False, *words)
        compare("DICOM 1024", room, dicoms, open_dicom, 0, False, *words)


if __name__ == "__main__":
    main()
