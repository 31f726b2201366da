"""Row 4 at N = 65,536: ours once, in bounded memory. The peer's dense form cannot run: its logits alone are 16 GiB a matrix.

What it would need is counted in matrices that it held at N = 8,192 (extra memory over the size of one).
"""

from __future__ import annotations

from collections.abc import Iterator

from vlp.core.process import cores

from ..options import Options
from ..result import Result
from .losses import alone

HELD = {"clip": 4.1, "siglip": 5.1}
"""N x N matrices of 4 bytes that open_clip's losses hold at once at N = 8,192 (1,056 and 1,296 MiB)."""


def run(options: Options) -> Iterator[Result]:
    count = 8192 if options.quick else 65536
    threads = cores()
    for kind, name in (("clip", "ClipLoss"), ("siglip", "SigLipLoss")):
        found = alone(kind, count, threads)
        dense = HELD[kind] * count**2 * 4 / 2**20
        note = f"{found['cpu_s']:.0f} s of CPU, {found['wall_s']:.0f} s on {threads} threads; the peer by arithmetic"
        yield Result("4 large", f"{kind} loss at N = {count:,}, D = 512, extra memory", f"open_clip's {name}", "MiB",
                     found["extra_mib"], dense, dense / found["extra_mib"], 4.0, note)  # fmt: skip
