"""A new source is one file: entered by an import, or named by its place, it builds, lists itself and has help."""

from pathlib import Path

import pytest

from tests import ROOT
from tests.data_prep.pipeline.built import build, rejected, samples
from tests.data_prep.sources import trees
from vlp_prep.cli import main
from vlp_prep.sources.base import sources

PLACE = "tests.data_prep.sources.toy_layout:ToyLayout"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for name in ("ann-effusion", "bob-edema", "bob"):
        trees.picture(tmp_path / "raw" / f"{name}.png")
    return tmp_path / "raw"


def test_an_import_is_enough(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.data_prep.sources import toy_layout

    assert sources.get("toy_layout") is toy_layout.ToyLayout
    build("toy_layout", "--raw", raw, "--out", tmp_path / "out", "--max-rejected", 1, "--workers", 0)
    found = samples(tmp_path / "out")
    assert {key: (one.patient, one.labels, one.modality) for key, one in found.items()} == {
        "ann-effusion": ("ann", {"effusion": 1}, "CR"),
        "bob-edema": ("bob", {"edema": 1}, "CR"),
    }
    assert found["bob-edema"].source == "toy_layout" and found["bob-edema"].licence == "CC0-1.0"
    assert rejected(tmp_path / "out") == {"bob": "bad_label"}
    capsys.readouterr()
    assert main(["sources"]) == 0
    assert "toy_layout  " in (said := capsys.readouterr().out) and "A toy layout: pictures named" in said


def test_the_place_of_a_class_needs_no_import(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are processes of their own, which import it too."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    build(PLACE, "--raw", raw, "--out", tmp_path / "out", "--max-rejected", 1, "--workers", 1)
    assert sorted(samples(tmp_path / "out")) == ["ann-effusion", "bob-edema"]
