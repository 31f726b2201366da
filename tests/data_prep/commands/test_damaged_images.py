"""An image that does not decode is left out by its key and counted, by the commands that compare images."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.data_prep.sources import trees
from vlp.data.shards.manifest import Manifest
from vlp.sample import Sample
from vlp_prep.cli import main
from vlp_prep.pipeline.shard_writer import ShardWriter


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Four images of which the second is damaged, in a set whose hashes agree with that."""
    folder = tmp_path / "shards"
    with ShardWriter(folder, source="made up") as writer:
        for number in range(4):
            writer.write(Sample(key=f"k{number}", image=trees.encoded("PNG", number), patient=f"p{number}"))
    manifest = Manifest.read(folder)
    shard = folder / manifest.shards[0].shard
    content = bytearray(shard.read_bytes())
    offset, size = manifest.columns(0).members(1)["png"]
    content[offset + 40 : offset + size] = bytes(size - 40)
    shard.write_bytes(content)
    line = json.loads((folder / "manifest.jsonl").read_text())
    line |= {"sha256": hashlib.sha256(content).hexdigest(), "crc32": [0] * len(line["crc32"])}
    (folder / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    return folder


@pytest.mark.parametrize("words", [["dedup"], ["split", "--check", "--images"]], ids=lambda words: words[0])
def test_it_is_named_and_counted(shards: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main([*words, str(shards)]) == 2
    said = capsys.readouterr().err
    assert "rejected key 'k1'" in said and "1 of 4 samples rejected, more than --max-rejected 0.01" in said
    assert main([*words, str(shards), "--max-rejected", "0.5"]) == 0
    assert "1 of 4 samples rejected" in capsys.readouterr().err
