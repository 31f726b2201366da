"""The table of results: on the console, and as the generated block of `docs/measured.md`."""

from __future__ import annotations

import datetime
import platform
import re
import textwrap
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vlp.core.process import cores

from .result import Result

BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"
COLUMNS = ("row", "what", "ours", "against", "peer", "ratio", "limit", "distance", "note")
VERSIONS = (
    "torch",
    "open_clip_torch",
    "webdataset",
    "transformers",
    "tokenizers",
    "simplejpeg",
    "opencv-python-headless",
)


def cells(result: Result) -> tuple[str, ...]:
    """Return a result's columns as text."""
    distance = result.distance
    return (
        result.row,
        result.what,
        measure(result.ours, result.unit),
        result.against,
        measure(result.peer, result.unit),
        "-" if result.ratio is None else times(result.ratio),
        "-" if result.least is None else times(result.least),
        "-" if distance is None else f"{distance:+.0%}",
        result.note,
    )


def measure(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def times(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio < 100 else f"{ratio:.0f}x"


def show(results: Sequence[Result], console: Console) -> None:
    """Print the table; what falls short of its limit is red."""
    table = Table(title=machine(), title_justify="left", show_lines=True)
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in ("ours", "peer", "ratio", "limit", "distance") else "left")
    for result in results:
        distance = result.distance
        style = "" if distance is None else "red" if distance < 0 else "green"
        if result.ours is None:
            style = "yellow"
        table.add_row(*cells(result), style=style)
    console.print(table)


def machine() -> str:
    """Return the machine, its cores and the versions that matter, in a line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        name = found.group(1) if found else name
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = ", ".join(f"{package} {version(package)}" for package in VERSIONS)
    return f"{name}, {cores()} cores, {device}; Python {platform.python_version()}, {versions}"


def write(results: Sequence[Result], path: Path, load: float) -> None:
    """Put the results into the block of a page, in the place of older ones of the same rows; the rest stays as it is."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    block, _, after = rest.partition(END)
    if not rest:
        before, after = text.rstrip() + "\n\n## Speed, beside open_clip\n\n", "\n"
    today = datetime.date.today().isoformat()
    fresh = {result.row for result in results}
    lines = [
        line for line in block.splitlines() if re.match(r"\| \d", line) and line.split("|")[1].strip() not in fresh
    ]
    lines += [f"| {' | '.join(one.replace('|', '/') for one in cells(result))} | {today} |" for result in results]
    lines.sort(key=lambda line: int(re.findall(r"\d+", line)[0]))  # stable: the order within a row is the benchmark's
    head = f"| {' | '.join(COLUMNS)} | measured |\n|{'---|' * (len(COLUMNS) + 1)}"
    about = textwrap.fill(
        f"Written by `make bench` ({machine()}; load {load:.1f} at the start). Both sides of a line ran in the same run, in "
        "turn; figures are medians, the ratio is the median of the pairs' ratios: how many times better ours is.",
        width=125,
    )
    path.write_text(f"{before}{BEGIN}\n{about}\n\n{head}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")
