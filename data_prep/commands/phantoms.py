"""`vlp-prep phantoms`: raw chest CTs of synthetic bodies, NIfTI and DICOM, with a table of reports: to try a build on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vlp.core.config import ConfigError
from vlp.core.output import hold
from vlp.core.process import cores

OWN = ("nifti", "dicom")
"""What a folder of phantoms holds."""


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Declare the options."""
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the files and tables")
    parser.add_argument("--n", type=int, default=100, help="studies; each third has two scans (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bodies")
    parser.add_argument("--start", type=int, default=0, help="the first study's number (default: %(default)s)")
    parser.add_argument("--voxel", type=float, default=6.0, help="about how many mm a voxel has (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=cores(), help="processes (default: all cores)")


def run(args: argparse.Namespace) -> int:
    """Write the files and print how many there are."""
    from ..synthetic.ct.raw import write_raw

    if args.n < 1 or args.seed < 0 or args.start < 0 or not 0.5 <= args.voxel <= 20:
        raise ConfigError("--n >= 1, --seed >= 0, --start >= 0 and --voxel from 0.5 to 20 mm are needed")
    taken = [name for name in OWN if (args.out / name).exists()]
    if taken:
        raise ConfigError(f"{args.out} holds {', '.join(taken)} already: choose another folder")
    with hold(args.out, "vlp-prep phantoms", OWN):
        scans = sum(write_raw(args.out, args.n, args.seed, args.start, args.voxel, args.workers))
    sys.stdout.write(f"{args.out}: {args.n} studies, {scans} scans\n")
    return 0
