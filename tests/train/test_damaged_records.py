"""Records that are no sample's, through the real commands: counted, named by key and field, and never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm
from tests.data.shards.test_damaged_records import BAD, FIELDS, spoil
from tests.data.toys import write_set
from tests.train.conftest import environment, run, write_recipe
from vlp_eval import results

SETTINGS = ("name=run", "data.workers=1", "train.samples=40", "train.checkpoint_every_steps=5")


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    return spoil(write_set(tmp_path / "set", n=14, val=4), BAD)


def score(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from vlp_eval.cli import main; sys.exit(main(sys.argv[1:]))"]
    return warm.run(
        [*command, *map(str, words)], capture_output=True, text=True, env=environment(), timeout=240, check=False
    )


def test_training_and_scoring_go_on_up_to_their_limits(spoiled: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, spoiled)
    strict = run(recipe, *SETTINGS, "name=strict")
    said = strict.stdout + strict.stderr
    assert strict.returncode not in (0, -9) and "Traceback" not in said and "samples are damaged" in said, said
    ended = run(recipe, *SETTINGS, "data.max_rejected=0.9")
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0 and "Traceback" not in said, said
    folder = tmp_path / "runs/run"
    counters = json.loads((folder / "last/state/counters.json").read_text())
    assert len(counters["rejected"]) == len(BAD) and "There is" not in said
    for key, field in FIELDS.items():
        assert any(repr(key) in line and field in line for line in said.splitlines()), (key, said)

    task = {"id": "back", "family": "retrieval", "data": {"split": "train"}}
    (tmp_path / "suite.yaml").write_text(json.dumps({"version": "1", "about": "a test", "tasks": [task]}))
    words = ("run", "--suite", tmp_path / "suite.yaml", "--model", folder / "last", "--data", spoiled)
    words = (*words, "--trust", "tests.train.toy_tower")
    refused = score(*words, "--out", tmp_path / "refused")
    said = refused.stdout + refused.stderr
    assert refused.returncode == 2 and "Traceback" not in said and "4 damaged records" in said, said
    scored = score(*words, "--out", tmp_path / "scored", "--allow-missing")
    said = scored.stdout + scored.stderr
    assert scored.returncode == 0 and "Traceback" not in said and "There is" not in said, said
    (done,) = results.read(tmp_path / "scored")["tasks"]
    assert done["status"] == "ok", done
