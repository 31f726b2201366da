"""`make bench`: every benchmark that needs no data of yours, one after the other, each printing ours beside its peer."""

from __future__ import annotations

import subprocess
import sys

QUICK = ("loader", "objectives", "evaluation")
"""`prep` needs a folder of real images, `compare_objectives` most of an hour: run them by name, `python -m benchmarks.NAME`."""

if __name__ == "__main__":
    codes = [subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode for name in QUICK]
    sys.exit(max(codes))
