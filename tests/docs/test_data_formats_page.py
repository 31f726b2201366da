"""The page on data formats is true: each section's files are written, its commands run, and its statements hold."""

import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests import ROOT
from vlp.data.shards.manifest import Manifest
from vlp.data.shards.shard_set import ShardSet
from vlp.sample import Sample
from vlp_prep.cli import main

PAGE = ROOT / "docs" / "data_formats.md"
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?(?: encoding=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def samples(folder: str) -> dict[str, Sample]:
    shards = ShardSet(Manifest.read(Path(folder)))
    return {shards.key(index): shards.sample(index) for index in range(len(shards))}


def draw(prose: str) -> None:
    """Make the images that the page names, each another one, 48 x 40."""
    for number, name in enumerate(sorted(set(re.findall(r"`([\w/]+\.(?:png|jpg))`", prose)))):
        if "/" in name:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(name, np.random.default_rng(number).integers(0, 255, (40, 48), np.uint8))


@pytest.mark.parametrize("title", SECTIONS)
def test_a_section_holds(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = SECTIONS[title]
    draw(BLOCK.sub("", text))
    ran = 0
    for kind, name, encoding, body in BLOCK.findall(text):
        if name:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(body.encode(encoding or "utf-8"))
        elif kind == "bash":
            for line in body.splitlines():
                command, *words = shlex.split(line)
                assert command == "vlp-prep"
                assert main([*words, *(["--workers", "0"] if words[0] == "build" else [])]) == 0, line
        else:
            assert kind == "python"
            exec(
                compile(body, f"{PAGE.name}: {title}", "exec"), {"samples": samples, "Path": Path, "Manifest": Manifest}
            )
            ran += 1
    assert ran or title == "Reports beside DICOM files"


def test_the_page_names_every_field_of_a_table_and_of_a_record() -> None:
    from dataclasses import fields

    from vlp_eval.data.spec import Columns
    from vlp_prep.sources.table import ALIASES, FIELDS

    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w.]+)`", text))
    assert set(FIELDS) <= named and {alias for names in ALIASES.values() for alias in names} <= named
    assert {item.name for item in fields(Columns)} <= named
    assert {item.name for item in fields(Sample)} - {"image"} <= named
