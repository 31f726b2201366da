"""What `docs/scaling.md` says can be computed: memory per layout, and the bytes of a gathered side."""

from __future__ import annotations

import re

import pytest

from tests import ROOT
from vlp.train.dry_run import memory_table

PAGE = (ROOT / "docs" / "scaling.md").read_text()


def rows(title: str) -> dict[str, list[str]]:
    """Return the rows of the first table after a line that holds `title`, by their first cell."""
    table = re.search(rf"{re.escape(title)}(?s:.*?)\n\n((?:\|.*\n)+)", PAGE)
    assert table is not None, title
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]
    return {first: rest for first, *rest in cells[2:]}


def number(cell: str) -> float:
    return float(re.match(r"[\d.,]+", cell)[0].replace(",", ""))  # type: ignore[index]


def test_memory_of_each_layout_on_8_64_and_512_ranks() -> None:
    names = {"DDP, ZeRO 0": "ddp / zero 0", "ZeRO 1": "zero 1", "ZeRO 2": "zero 2", "ZeRO 3": "zero 3"}
    table = rows("Bytes for each trained parameter")
    assert table.keys() == {*names, "FSDP2"}
    for title, (_, *shown) in table.items():
        name = names.get(title, "fsdp2 (shard)")
        for world, cell in zip((8, 64, 512), shown, strict=False):
            each = dict(memory_table(2**20, 0, world))[name]  # MiB of 2^20 parameters: bytes of one
            assert number(cell) == pytest.approx(each, abs=0.051), f"{title} on {world}"
        gib = dict(memory_table(150_000_000, 0, 8))[name] / 1024
        assert number(shown[3]) == pytest.approx(gib, abs=0.051), title


def test_what_clip_gathers_on_8_64_and_512_ranks() -> None:
    table, dim, own = rows("Arithmetic, D = 512"), 512, 256
    assert list(table) == ["8", "64", "512"]
    for ranks, (whole, gathered, logits, gradients) in table.items():
        world = int(ranks)
        assert number(whole) == world * own
        assert number(gathered) == 8 * world * own * dim / 2**20
        assert number(logits) == 4 * own * world * own / 2**20
        assert number(gradients) == pytest.approx(2 * (world - 1) / world * 4 * 150e6 / 2**30, abs=0.051)


def test_what_was_counted_is_what_the_formula_gives() -> None:
    """32 rows a rank and D = 256: `python -m benchmarks.communication`."""
    (shown,) = [cells for title, cells in rows("Counted at the collectives").items() if title.startswith("convirt")]
    for world, cell in zip((2, 4), shown, strict=False):
        assert number(cell) == pytest.approx(8 * 32 * world * 256 / 2**20, abs=0.006)
