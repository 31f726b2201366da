"""Tasks that share data: what each encodes, what is wrong with one of them, and what cannot be read, change no other."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.eval.conftest import Run, score
from vlp.data.shards.manifest import Manifest
from vlp.data.shards.shard_set import ShardSet
from vlp.data.shards.verify import index_folder
from vlp_eval import results
from vlp_eval.data import load as data
from vlp_eval.data import spec

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
    columns = [spec.Columns(image=name, key="case") for name in ("front", "side", "front")]
    found = [data.read(spec.DataSpec(table="table.csv", columns=mapping), tmp_path).digest for mapping in columns]
    assert found[0] == found[2] != found[1]


COLUMNS: dict[str, Any] = {"image": "file", "patient": "who", "split": "part", "report": "text", "boxes": "boxes"}
COLUMNS["labels"] = {"nodule": "nodule", "effusion": "effusion"}


def own_data(folder: Path, shards: Path, rows: int = 60) -> Path:
    """Write radiographs with labels, reports and boxes as a table; by turns train, val and test."""
    source = ShardSet(Manifest.read(shards))
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "who", "part", "text", "boxes", "nodule", "effusion"])
        for index in range(rows):
            one = source.sample(index)
            assert isinstance(one.image, bytes) and one.report is not None
            (folder / f"{index}.png").write_bytes(one.image)
            boxes = [{"phrase": box.phrase, "xyxy": box.xyxy, "label": box.label} for box in one.boxes]
            row = [f"{index}.png", f"p{index}", ("train", "val", "test")[index % 3], one.report.text, json.dumps(boxes)]
            writer.writerow([*row, *(one.labels[name] for name in ("nodule", "effusion"))])
    return folder


def task(family: str, name: str, **settings: Any) -> dict[str, Any]:
    return {"id": name, "family": family, "data": {"table": "table.csv", "columns": COLUMNS}, **settings}


TWO = {"classes": ["nodule", "effusion"]}
OTHER_SPLITS = [
    task("probe", "probe", **TWO, shares=[1.0]),
    task("classification", "calibrated", **TWO, prompts=["synthetic"], calibrate="val"),
    task("grounding", "prior", limit=5),
]


def test_an_unreadable_image_of_another_split_is_left_out_and_said(
    run: Run, shards: Path, tiny: Path, tmp_path: Path
) -> None:
    """Of what a probe is fitted on, a temperature is fitted on, and boxes are taken from."""
    folder, suite = own_data(tmp_path, shards), str(suite_of(tmp_path, OTHER_SPLITS))
    for number in (0, 1):
        (folder / f"{number}.png").write_bytes(b"not an image")
    assert score(run, folder, tmp_path / "strict", tiny, suite=suite) == 2
    reasons = {name: one["reason"] for name, one in entries(tmp_path / "strict").items()}
    for name, bad in (("probe", 0), ("calibrated", 1), ("prior", 0)):
        assert reasons[name].startswith(f"unreadable image '{bad}': ") and " at 0x" not in reasons[name]
    assert score(run, folder, tmp_path / "out", tiny, "--allow-missing", suite=suite) == 0
    for name, split in (("probe", "train"), ("calibrated", "val"), ("prior", "train")):
        one = entries(tmp_path / "out")[name]
        assert one["data"]["missing"] == 0
        assert f"1 unreadable images of table.csv, split '{split}', left out" in one["warnings"]
    assert entries(tmp_path / "out")["probe"]["scoring"]["train_images"] == 19


def test_a_cache_remembers_what_could_not_be_read(run: Run, shards: Path, tiny: Path, tmp_path: Path) -> None:
    tasks = [*OTHER_SPLITS, task("retrieval", "all"), task("corruption", "damage", **TWO, prompts=["synthetic"])]
    folder, suite = own_data(tmp_path, shards), suite_of(tmp_path, tasks)
    for number in (0, 2, 5):
        (folder / f"{number}.png").write_bytes(b"not an image")
    assert score(run, folder, tmp_path / "run", tiny, "--allow-missing", suite=str(suite)) == 0
    words = ["--suite", suite, "--data", folder, "--allow-missing"]
    assert run("embed", "--model", tiny, *words, "--out", tmp_path / "cache") == 0
    more = ["--embeddings", tmp_path / "cache", "--out", tmp_path / "score", "--resamples", 200, "--no-html"]
    assert run("score", *words, *more) == 0
    assert entries(tmp_path / "score") == entries(tmp_path / "run")
    assert run("score", *words[:-1], *more) == 2  # without --allow-missing every task names its image
    assert all(one["reason"].startswith("unreadable image") for one in entries(tmp_path / "score").values())


def test_what_embed_cannot_encode_it_says_and_goes_on(
    run: Run, shards: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent: dict[str, Any] = {"id": "absent", "family": "retrieval", "data": {"folder": "nowhere"}}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "here").symlink_to(shards)
    here: dict[str, Any] = {"id": "here", "family": "retrieval", "size": 20, "data": {"folder": "here"}}
    suite = suite_of(tmp_path, [absent, here])
    words = ["--suite", suite, "--data", tmp_path / "data"]
    assert run("embed", "--model", tiny, *words, "--out", tmp_path / "cache") == 3
    assert "absent: skipped: " in capsys.readouterr().out
    more = ["--embeddings", tmp_path / "cache", "--out", tmp_path / "score", "--resamples", 20, "--no-html"]
    assert run("score", *words, *more) == 3
    assert {name: one["status"] for name, one in entries(tmp_path / "score").items()} == {
        "absent": "skipped",
        "here": "ok",
    }
    only = suite_of(tmp_path, [absent])
    assert run("embed", "--model", tiny, "--suite", only, *words[2:], "--out", tmp_path / "none") == 2


def test_a_task_counts_the_unreadable_images_that_it_met_itself(
    run: Run, shards: Path, tiny: Path, tmp_path: Path
) -> None:
    """Not those of the tasks before it: alone, resumed or in another order, its result is the same."""
    tasks = [task("retrieval", "all"), task("retrieval", "some", size=5)]
    folder, suite = own_data(tmp_path, shards), str(suite_of(tmp_path, tasks))
    for number in (5, 50):  # the second and the seventeenth of the split
        (folder / f"{number}.png").write_bytes(b"not an image")
    out = tmp_path / "out"
    assert score(run, folder, out, tiny, "--allow-missing", suite=suite) == 0
    whole = entries(out)
    assert {name: one["data"]["missing"] for name, one in whole.items()} == {"all": 2, "some": 1}
    assert whole["some"]["data"]["n"] == 5 and whole["some"]["warnings"] == ["1 unreadable images left out"]
    tree = json.loads((out / "results.json").read_text())
    (out / "results.json").write_text(json.dumps(tree | {"tasks": tree["tasks"][:1]}))
    assert score(run, folder, out, tiny, "--allow-missing", "--resume", suite=suite) == 0
    assert entries(out) == whole


def masked(folder: Path, shards: Path, mask: bytes) -> None:
    """Write a few of the radiographs as another tool would, unchecked, with this mask for one of them."""
    source = ShardSet(Manifest.read(shards))
    folder.mkdir()
    with tarfile.open(folder / "test-0.tar", "w") as tar:
        for index in range(4):
            sample = source.sample(index)
            record = {**sample.to_json(), "masks": ["heart"], "split": "test"}
            members = {"json": json.dumps(record).encode(), "png": sample.image, "heart.mask.png": png(128)}
            for ending, data in {**members, **({"heart.mask.png": mask} if index == 2 else {})}.items():
                member = tarfile.TarInfo(f"{sample.key}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    index_folder(folder, "synthetic", "1")


def png(side: int) -> bytes:
    return bytes(cv2.imencode(".png", np.full((side, side), 255, np.uint8))[1].tobytes())


def test_bad_input_of_one_task_ends_no_other(run: Run, shards: Path, tiny: Path, tmp_path: Path) -> None:
    masked(tmp_path / "broken", shards, png(128)[:40])
    masked(tmp_path / "small", shards, png(64))
    (tmp_path / "here").symlink_to(shards)
    (tmp_path / "old.csv").write_bytes("image\ncafé.png\n".encode("latin-1"))
    heart: dict[str, Any] = {"family": "segmentation", "masks": {"heart": "cardiomegaly"}}
    here: dict[str, Any] = {"data": {"folder": "here"}}
    key = ShardSet(Manifest.read(shards)).record(2).key
    tasks: dict[str, tuple[dict[str, Any], str]] = {
        "broken": ({**heart, "data": {"folder": "broken"}}, f"broken: mask 'heart' of {key!r}: "),
        "small": (
            {**heart, "data": {"folder": "small"}},
            f"small: mask 'heart' of {key!r} has 64 x 64 pixels, its image 128 x 128",
        ),
        "sam": ({**heart, "sam": "nowhere/at/all", "data": {"folder": "small"}}, "no SAM in 'nowhere/at/all'"),
        "layer": (
            {"family": "grounding", "source": "gradcam", "layer": "stern", "limit": 2, **here},
            "no layer 'stern'",
        ),
        "latin": (
            {"family": "retrieval", "data": {"table": "old.csv"}},
            "old.csv is not utf-8 (byte 0xe9): give columns.encoding",
        ),
    }
    fine = {"id": "fine", "family": "retrieval", "size": 20, **here}
    suite = suite_of(tmp_path, [*({"id": name, **tree} for name, (tree, _) in tasks.items()), fine])
    assert score(run, tmp_path, tmp_path / "out", tiny, suite=str(suite)) == 3
    found = entries(tmp_path / "out")
    assert found.pop("fine")["status"] == "ok"
    for name, (_, reason) in tasks.items():
        assert found[name]["status"] == "failed" and reason in found[name]["reason"], found[name]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"corruption": "scrambel"}, "task out: no corruption 'scrambel': did you mean 'scramble'?"),
        ({"corruption": "scramble", "severity": 0}, "severity: Input should be greater than or equal to 1, found 0"),
    ],
)
def test_a_corruption_that_there_is_none_of_is_refused(
    run: Run,
    shards: Path,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    expected: str,
) -> None:
    suite = suite_of(tmp_path, [{"id": "out", "family": "ood", **TWO, "prompts": "synthetic", **settings}])
    assert score(run, shards, tmp_path / "out", tiny, suite=str(suite)) == 2
    assert expected in capsys.readouterr().err
