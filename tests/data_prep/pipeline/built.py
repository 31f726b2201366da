"""Running a build in this process, and reading back what it wrote and refused."""

import json
from pathlib import Path

from vlp.data.shards.manifest import Manifest
from vlp.data.shards.shard_set import ShardSet
from vlp.sample import Sample
from vlp_prep.cli import main


def build(*words: object, code: int = 0) -> None:
    assert main(["build", *map(str, words)]) == code


def samples(folder: Path) -> dict[str, Sample]:
    shards = ShardSet(Manifest.read(folder))
    return {shards.key(index): shards.sample(index) for index in range(len(shards))}


def rejected(folder: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    return {line["key"]: line["reason"] for line in lines}
