"""The suites of volumes on shards of their sources' layout: every name is scored, and it is said of what and of how many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data.toys import make_scan
from vlp_eval import results, suite
from vlp_eval.compare import compare_runs
from vlp_eval.data.load import read
from vlp_eval.data.spec import DataSpec
from vlp_prep.pipeline.shard_writer import ShardWriter
from vlp_prep.sources.ct_rate import LABELS
from vlp_prep.sources.rad_chestct import STANDARD

SUITES = ["ct_rate", "rad_chestct", "merlin_findings", "ct_retrieval", "ct_grounding"]
STUDIES = 12
MERLIN = [name.replace(" ", "_") for _, task in suite.every_task("merlin_findings") for name in task.settings.classes]


def write(folder: Path, names: list[str], volumes: int = 1, spacing: float = 24.0) -> None:
    """Write studies, each with so many volumes of one report, and each name true of every second, third, ... study."""
    with ShardWriter(folder, source=folder.name, version="1") as writer:
        for study in range(STUDIES):
            sample = make_scan(study, 3, spacing)
            labels = {name: int((study + at) % (2 + at % 3) == 0) for at, name in enumerate(names)}
            for number in range(1, volumes + 1):
                key = f"valid_{study}_a_{number}"
                record = replace(sample, key=key, source=folder.name, split="test", labels=labels, groups={})
                writer.write(record)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    write(root / "ct_rate", list(LABELS), volumes=2)
    write(root / "rad_chestct", list(STANDARD))
    write(root / "merlin", MERLIN)
    write(root / "inspect", [])
    write(root / "ct_grounding", ["Lung nodule"], spacing=12.0)
    return root


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_of_volumes_runs_on_shards_of_its_sources(
    name: str, data: Path, tiny3d: Path, tmp_path: Path, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", tiny3d, "--suite", name, "--data", data, "--out", tmp_path, "--resamples", 20, "--no-html"]
    code, wanted = run("run", *words), suite.read(name)
    found = {task["id"]: task for task in results.read(tmp_path)["tasks"]}
    assert {key: task.get("reason") for key, task in found.items() if task["status"] != "ok"} == {} and code == 0
    for task in wanted.tasks:
        entry = found[task.spec.id]
        if task.spec.family == "classification":
            assert set(entry["per_class"]) == set(task.settings.classes) and len(task.settings.prompts) >= 3
            undefined = [label for label, values in entry["per_class"].items() if values["auroc"]["value"] is None]
            assert undefined == []
        assert entry["data"]["unit"] in ("volume", "study") and len(entry["data"]["ids_sha256"]) == 64
        for reference in task.spec.references:
            assert reference.metric in entry["metrics"]


def test_volumes_and_studies_are_told_apart(data: Path, tiny3d: Path, tmp_path: Path, run: Any) -> None:
    words = ["--model", tiny3d, "--suite", "ct_rate", "--data", data, "--out", tmp_path, "--resamples", 20, "--no-html"]
    assert run("run", *words) == 0
    found = {task["id"]: task for task in results.read(tmp_path)["tasks"]}
    facts = {key: (task["data"]["unit"], task["data"]["n"], task["data"]["n_studies"]) for key, task in found.items()}
    assert facts == {
        "ct_rate.studies": ("study", STUDIES, STUDIES),
        "ct_rate.volumes": ("volume", 2 * STUDIES, STUDIES),
        "ct_rate.sixteen": ("study", STUDIES, STUDIES),
    }
    assert [len(found[key]["per_class"]) for key in facts] == [18, 18, 16]
    assert any(f"{2 * STUDIES} volumes of {STUDIES} studies" in line for line in found["ct_rate.volumes"]["warnings"])
    assert not any("volumes of" in line for line in found["ct_rate.studies"]["warnings"])


def test_one_volume_of_a_study_is_the_first_by_its_key(data: Path) -> None:
    records = read(DataSpec(folder="ct_rate", one_per="study"), data).records
    assert sorted(record.key for record in records) == sorted(f"valid_{study}_a_1" for study in range(STUDIES))
    assert len(read(DataSpec(folder="ct_rate"), data)) == 2 * STUDIES


def test_the_field_that_came_later_leaves_other_tasks_their_hash() -> None:
    task = suite.find_task("nih_boxes", None)
    with_field = suite.digest(
        {"spec": suite.to_tree(task.spec), "settings": suite.to_tree(task.settings), "shown": task.describe()}
    )
    assert suite.config_digest(task) != with_field
    assert "one_per" in suite.to_tree(task.spec)["data"]


def test_a_mean_over_sixteen_names_is_not_compared_with_one_over_eighteen(
    data: Path, tiny3d: Path, tmp_path: Path, run: Any
) -> None:
    for count in (18, 16):
        task = {
            "id": "names",
            "family": "classification",
            "prompts": ["chest-ct-short"],
            "classes": list(LABELS)[:count],
        }
        tree = {"version": "1", "about": "for a test", "tasks": [task | {"data": {"folder": "ct_rate"}}]}
        (tmp_path / f"{count}.yaml").write_text(yaml.safe_dump(tree))
        words = [
            "--model",
            tiny3d,
            "--suite",
            tmp_path / f"{count}.yaml",
            "--data",
            data,
            "--out",
            tmp_path / f"{count}",
        ]
        assert run("run", *words, "--resamples", 20, "--no-html", "--cache", tmp_path / "cache") == 0
    table, notes = compare_runs([tmp_path / "18", tmp_path / "16"], 20)
    assert not any("macro" in row["metric"] for row in table) and len(table) >= 16
    told = [note for note in notes if "auroc_macro" in note]
    assert told and "18 classes and one over 16" in told[0] and LABELS[16] in told[0]
