"""The main job, small: the commands a user types, each in its own process, from raw data to a scored export."""

import json
import sys
from pathlib import Path

import pytest

from tests import ROOT, warm

COVID = ROOT.parent / "shared" / "data" / "covid_cxr"
TINY = [
    *("train.samples=96", "optim.warmup_samples=16", "data.batch_size=16", "data.workers=0", "train.validate_every=4"),
    *("model.image.width=8", "model.image.blocks=[1, 1, 1]", "model.text.config.hidden_size=32", "model.dim=32"),
]


def run(*command: object, code: int = 0) -> str:
    """Run a command as it is installed."""
    script, *rest = [str(part) for part in command]
    return said_by([str(Path(sys.executable).parent / script), *rest], code)


def run_warm(*command: object, code: int = 0) -> str:
    """Run a command that another test here has started as it is installed."""
    script, *rest = [str(part) for part in command]
    module = {"vlp-train": "vlp.train.cli", "vlp-eval": "vlp_eval.cli", "vlp-export": "vlp.export.cli"}[script]
    return said_by([sys.executable, "-m", module, *rest], code)


def said_by(command: list[str], code: int) -> str:
    done = warm.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == code, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout + done.stderr


def scores(folder: Path) -> dict[str, dict[str, float]]:
    tasks = json.loads((folder / "results.json").read_text())["tasks"]
    return {one["id"]: {name: entry["value"] for name, entry in one["metrics"].items()} for one in tasks}


def test_synthetic_radiographs_from_nothing_to_a_scored_export(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    run("vlp-prep", "build", "synthetic", "--n", 160, "--split", "0.6,0.1,0.3", "--workers", 0, "--out", shards)
    assert "sound: 160 samples" in run("vlp-prep", "verify", shards)
    run("vlp-train", "recipes/demo.yaml", f"data.train={shards}", f"out={tmp_path}", "name=model", *TINY)
    last = tmp_path / "model" / "last"
    run("vlp-export", last, "--to", tmp_path / "export")
    for run_it, model, out in ((run, last, "of_run"), (run_warm, tmp_path / "export", "of_export")):
        run_it("vlp-eval", "run", "--model", model, "--suite", "smoke", "--data", shards, "--out", tmp_path / out)
    found = scores(tmp_path / "of_run")
    assert found == scores(tmp_path / "of_export")
    assert {name.partition(".")[2] for name in found} == {"retrieval", "classification", "grounding"}
    page = (tmp_path / "of_run" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "<img" in page


@pytest.mark.skipif(not COVID.is_dir(), reason="the real radiographs are not beside this checkout")
def test_real_radiographs_the_four_lines_of_the_readme(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    said = run("vlp-prep", "build", "covid_chestxray", "--raw", COVID, "--out", shards)
    assert "read 235 = written 147 + rejected 88" in said
    tiny = [one for one in TINY if not one.startswith("data.batch_size")]
    run_warm("vlp-train", "recipes/smoke_cpu.yaml", f"data.train={shards}", f"out={tmp_path}", "name=covid", *tiny)
    last = tmp_path / "covid" / "last"
    run_warm("vlp-eval", "run", "--model", last, "--suite", "covid_cxr", "--data", shards, "--out", tmp_path / "eval")
    assert "covid_cxr.retrieval" in scores(tmp_path / "eval")
    run_warm("vlp-export", last, "--to", tmp_path / "export")
