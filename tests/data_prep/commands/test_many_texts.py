"""50,000 short reports through the commands, from shards on disk: what looks at all of them ends within minutes."""

import io
import json
import random
import time
from pathlib import Path

import pytest
from PIL import Image

from vlp.sample import Report, Sample
from vlp_prep.cli import main
from vlp_prep.pipeline.shard_writer import ShardWriter

COUNT = 50_000
EQUAL = 20_000
WORDS = "no small large left right effusion pneumothorax edema nodule fracture opacity heart lung base apex rib tube".split()  # noqa: SIM905


@pytest.mark.slow
def test_dedup_and_scan_of_fifty_thousand_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    rng = random.Random(0)
    texts = ["No effusion."] * EQUAL + [" ".join(rng.choices(WORDS, k=12)) for _ in range(COUNT - EQUAL)]
    texts[-1] = texts[-2].upper() + "!"  # the same words
    texts[-3] += " MRN: 1234567"
    folder = tmp_path / "shards"
    with ShardWriter(folder, shard_size=10_000, source="made up") as writer:
        for index, text in enumerate(texts):
            writer.write(Sample(key=f"k{index:05}", image=file.getvalue(), report=Report(text), patient=f"p{index}"))
    start = time.perf_counter()
    assert main(["dedup", str(folder), "--by", "text", "--out", str(tmp_path / "groups.jsonl")]) == 0
    groups = [json.loads(line)["keys"] for line in (tmp_path / "groups.jsonl").read_text().splitlines()]
    assert len(groups[0]) == EQUAL and groups[0][0] == "k00000" and groups[0][-1] == f"k{EQUAL - 1:05}"
    assert [f"k{COUNT - 2}", f"k{COUNT - 1}"] in groups
    assert sum(map(len, groups[1:])) < 100
    assert main(["scan", str(folder), "--out", str(tmp_path / "found.jsonl")]) == 1
    assert [json.loads(line)["key"] for line in (tmp_path / "found.jsonl").read_text().splitlines()] == [
        f"k{COUNT - 3}"
    ]
    assert time.perf_counter() - start < 300
    assert "1 of 50000 samples" in capsys.readouterr().out
