"""Tasks that share data: what each encodes, what is wrong with one of them, and what cannot be read, change no other."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, score

from vlp_eval import data, results

pytestmark = pytest.mark.usefixtures("planted")
Entries = dict[str, dict[str, Any]]


def suite_of(folder: Path, tasks: Sequence[dict[str, Any]]) -> Path:
    path = folder / "suite.yaml"
    path.write_text(json.dumps({"version": "1", "about": "a test", "tasks": list(tasks)}))
    return path


def entries(out: Path) -> Entries:
    return {one["id"]: one for one in results.read(out)["tasks"]}


def test_two_tasks_on_other_records_of_one_set_score_as_each_alone(
    run: Run, shards: Path, tiny: Path, tmp_path: Path
) -> None:
    place = {"family": "grounding", "limit": 20, "id": "places"}
    pair = {"id": "pairs", "family": "retrieval"}
    tasks: list[dict[str, Any]] = [place | {"data": {"where": {"site": "harbour"}}}, pair]
    assert score(run, shards, tmp_path / "both", tiny, suite=str(suite_of(tmp_path, tasks))) == 0
    for task in tasks:
        out = tmp_path / str(task["id"])
        assert score(run, shards, out, tiny, suite=str(suite_of(tmp_path, [task]))) == 0
        assert entries(out)[str(task["id"])] == entries(tmp_path / "both")[str(task["id"])]


def test_an_image_of_another_column_is_another_image(tmp_path: Path) -> None:
    """Two columns of a table, as alike in size and time as can be: none may get the embedding of the other."""
    for name in ("front", "side"):
        (tmp_path / f"{name}.png").write_bytes(name[:4].encode())
        os.utime(tmp_path / f"{name}.png", (0, 0))
    (tmp_path / "table.csv").write_text("case,front,side\n1,front.png,side.png\n")
    columns = [data.Columns(image=name, key="case") for name in ("front", "side", "front")]
    found = [data.read(data.DataSpec(table="table.csv", columns=one), tmp_path).digest for one in columns]
    assert found[0] == found[2] != found[1]
