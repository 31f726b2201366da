"""From raw phantoms through `vlp-prep build` to shards: every volume is its body, every box lies around its finding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data_prep.synthetic.ct.test_raw_files import CORRELATION, SPEC, agreement
from vlp.modalities.volume.processor import VolumeProcessor
from vlp.sample import Sample
from vlp_prep.cli import main
from vlp_prep.readers.samples import Reading
from vlp_prep.synthetic.ct import body
from vlp_prep.synthetic.ct.generate import words
from vlp_prep.synthetic.ct.raw import forms_of
from vlp_prep.synthetic.ct.state import FINDINGS, State, draw_state

SEED, START, COUNT, VOXEL = 7, 17, 6, 4.0
"""Studies 17 to 22: three of NIfTI (las, sagittal, oblique), three of DICOM."""


def samples(folder: Path) -> list[tuple[State, Sample]]:
    found = [sample for _, sample in Reading(folder, 0.0).samples()]
    return [(draw_state(int(str(sample.study).rpartition("-")[2]), SEED), sample) for sample in found]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "raw"
    counts = ["--n", str(COUNT), "--start", str(START), "--seed", str(SEED), "--voxel", str(VOXEL), "--workers", "0"]
    assert main(["phantoms", "--out", str(out), *counts]) == 0
    return out


def test_nifti_files_become_their_bodies(raw: Path, tmp_path: Path) -> None:
    told = ["--raw", str(raw / "nifti"), "--table", "reports.jsonl", "--map", "groups=state", "--ids", "keep"]
    assert main(["build", "nifti", *told, "--workers", "0", "--out", str(tmp_path / "out")]) == 0
    found = samples(tmp_path / "out")
    assert len(found) == sum(len(forms_of(index)) for index in (17, 18, 19))
    for state, sample in found:
        volume = VolumeProcessor(SPEC).native(sample.image)
        correlation, error = agreement(state, volume)
        assert correlation >= CORRELATION - 0.01 and error <= 30, (correlation, error)  # at 4 mm, with its noise
        assert sample.report is not None and sample.report.text == words(state).text
        assert sample.groups["state"] == str(state)
        assert sample.labels == {finding: int(state.has(finding)) for finding in FINDINGS}
        x, y, z = np.array([volume.shape[2], volume.shape[1], volume.shape[0]])
        inside = body.masks(state, body.grid((x, y, z), volume.affine))
        for box in sample.boxes:
            places = np.argwhere(inside[str(box.label)])  # x, y, z
            assert np.abs(places.min(0) - box.xyxy[:3]).max() <= 1, box
            assert np.abs(places.max(0) + 1 - box.xyxy[3:]).max() <= 1, box
        assert {box.label for box in sample.boxes} == {instance.finding for instance in state.instances}


def test_dicom_series_become_their_bodies(raw: Path, tmp_path: Path) -> None:
    told = [
        "--raw",
        str(raw / "dicom"),
        "--series",
        "volume",
        "--table",
        "reports.csv",
        "--ids",
        "keep",
        "--split",
        "none",
    ]
    mapped = ["--map", "accession=study", "report=report"]
    assert main(["build", "dicom_folder", *told, *mapped, "--workers", "0", "--out", str(tmp_path / "out")]) == 0
    found = [sample for _, sample in Reading(tmp_path / "out", 0.0).samples()]
    assert len(found) == sum(len(forms_of(index)) for index in (20, 21, 22))
    bodies = {words(state).text: state for state in (draw_state(index, SEED) for index in (20, 21, 22))}
    for sample in found:
        assert sample.report is not None
        correlation, error = agreement(bodies[sample.report.text], VolumeProcessor(SPEC).native(sample.image))
        assert correlation >= CORRELATION - 0.01 and error <= 30, (correlation, error)
