"""Bad input: a clear line and exit code 2, or a counted exclusion and 0; 3 where some tasks could be scored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.eval.conftest import Run, read, score
from vlp_eval import results

pytestmark = pytest.mark.usefixtures("planted")


def test_absent_data_is_exit_2_and_says_what_to_do(run: Run, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert score(run, tmp_path / "empty", tmp_path / "out", tiny) == 2
    for task in results.read(tmp_path / "out")["tasks"]:
        assert task["status"] == "skipped" and "manifest.jsonl" in task["reason"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--suite", "smok"], "did you mean 'smoke'?"),
        (["--model", "nowhere/at/all"], "no such folder"),
        (["--model", "open_clip:ViT-B-33"], "did you mean"),
        (["--model", "hf:nowhere"], "no config.json"),
        (["--model", "tests.eval.factories:perfekt"], "cannot import"),
        (["--device", "quda"], "--device quda: "),
    ],
)
def test_a_wrong_name_is_one_line_and_exit_2(
    run: Run, shards: Path, tmp_path: Path, capsys: Any, words: list[str], expected: str
) -> None:
    told = {
        "--suite": "smoke",
        "--model": "tests.eval.factories:perfect",
        "--data": str(shards),
        "--out": str(tmp_path / "out"),
    }
    told |= dict(zip(words[::2], words[1::2], strict=True))
    assert run("run", *[word for pair in told.items() for word in pair]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_a_checkpoint_without_tokenizer_is_exit_2(
    run: Run, shards: Path, tiny: Path, tmp_path: Path, capsys: Any
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    shutil.rmtree(broken / "tokenizer")
    assert score(run, shards, tmp_path / "out", broken) == 2
    assert "tokenizer" in capsys.readouterr().err


def suite_file(folder: Path, task: dict[str, Any], prompts: str | None = None) -> Path:
    if prompts:
        (folder / "mine.yaml").write_text(prompts)
    path = folder / "suite.yaml"
    path.write_text(json.dumps({"version": "1", "about": "a test", "tasks": [task]}))
    return path


TASK = {"id": "mine", "family": "classification", "classes": ["nodule"], "prompts": ["mine.yaml"]}
PROMPTS = 'version: "1"\nabout: x\nclasses:\n  nodule: {pos: [a nodule], neg: [no nodule]}\n'

BRACES = 'version: "1"\nabout: x\ntemplates: {pos: ["{} in {place}"], neg: ["no {}"]}\nnames: {nodule: [a nodule]}\n'


@pytest.mark.parametrize(
    ("task", "prompts", "expected"),
    [
        (TASK, PROMPTS.replace("nodule:", "nodul:"), "did you mean 'nodul'?"),
        (TASK, PROMPTS.replace("pos:", "posi:"), "mine.yaml: unknown key 'classes.nodule.posi': did you mean 'pos'?"),
        (TASK, PROMPTS.replace(", neg: [no nodule]", ""), "0 denying"),
        (TASK, PROMPTS.replace("[a nodule]", "[]"), "class 'nodule' has no affirming prompt"),
        (TASK, PROMPTS.replace("classes:", "clases:"), "did you mean 'classes'?"),
        (TASK, PROMPTS.replace("[a nodule]", "[' ']"), "class 'nodule' has an empty prompt"),
        (TASK, BRACES, "must hold {} once, and no other brace"),
        ({**TASK, "classes": []}, PROMPTS, "task mine: `classes` is empty"),
        ({**TASK, "prompts": []}, PROMPTS, "task mine: `prompts` is empty"),
        ({**TASK, "prompts": ["none.yaml"]}, PROMPTS, "no prompt file "),
        ({**TASK, "prompts": ["synthetik"]}, PROMPTS, "did you mean 'synthetic'?"),
        ({**TASK, "promts": []}, PROMPTS, "did you mean 'prompts'?"),
        ({**TASK, "family": "clasification"}, PROMPTS, "did you mean 'classification'?"),
        ({**TASK, "scoring": {"rule": "pairs"}}, PROMPTS, "scoring.rule"),
        ({**TASK, "scoring": {"rule": "cosine"}}, PROMPTS, "scoring.rule"),  # once another name of softmax
        (
            {**TASK, "scoring": {"rule": "pair", "normalise": "zscore"}},
            PROMPTS,
            "normalise does nothing under rule pair",
        ),
        (
            {**TASK, "scoring": {"rule": "xplainer", "pooling": "mean-raw"}},
            PROMPTS,
            "pooling does nothing under rule x",
        ),
        (
            {**TASK, "scoring": {"rule": "score-logit", "local": 0.5}},
            PROMPTS,
            "local does nothing under rule score-logit",
        ),
        (
            {**TASK, "scoring": {"rule": "softmax", "top_patches": 9}},
            PROMPTS,
            "top_patches does nothing without `local`",
        ),
        ({**TASK, "scoring": {"rule": "pair", "temperature": 0}}, PROMPTS, "temperature must be positive, found 0"),
    ],
)
def test_a_typo_in_a_task_or_its_prompts_is_exit_2(
    run: Run, shards: Path, tmp_path: Path, capsys: Any, task: dict[str, Any], prompts: str, expected: str
) -> None:
    suite = suite_file(tmp_path, task, prompts)
    assert score(run, shards, tmp_path / "out", "tests.eval.factories:perfect", suite=str(suite)) == 2
    assert expected in capsys.readouterr().err


def table(folder: Path, shards: Path, rows: int = 24) -> Path:
    """Write a CSV of images with a broken one, a class without positives, and boxes, one of them outside of its image."""
    from vlp.data.shards.manifest import Manifest
    from vlp.data.shards.shard_set import ShardSet

    source = ShardSet(Manifest.read(shards).select("test"))
    lines = ["file,who,text,nodule,never,boxes"]
    for index in range(rows):
        sample = source.sample(index)
        assert isinstance(sample.image, bytes) and sample.report is not None
        (folder / f"{index}.png").write_bytes(sample.image)
        box = [{"phrase": "nodule", "xyxy": [500, 500, 520, 520] if index == 0 else [10, 10, 40, 40]}]
        boxes = json.dumps(box).replace('"', '""')
        text = sample.report.text.replace('"', "'").replace("\n", " ")
        lines.append(f'{index}.png,{sample.patient},"{text}",{sample.labels["nodule"]},0,"{boxes}"')
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder


def own_task(family: str, **settings: Any) -> dict[str, Any]:
    columns = {
        "image": "file",
        "patient": "who",
        "report": "text",
        "labels": {"nodule": "nodule", "never": "never"},
        "boxes": "boxes",
    }
    return {"id": f"mine.{family}", "family": family, "data": {"table": "table.csv", "columns": columns}, **settings}


def test_a_table_of_ones_own_is_scored_and_what_cannot_be_is_counted(
    run: Run, shards: Path, tiny: Path, tmp_path: Path, capsys: Any
) -> None:
    folder = table(tmp_path, shards)
    prompts = PROMPTS + "  never: {pos: [never], neg: [always]}\n"
    task = own_task("classification", classes=["nodule", "never"], prompts=["mine.yaml"], subgroups=["sex"])
    suite = suite_file(tmp_path, task, prompts)
    assert score(run, folder, tmp_path / "out", tiny, suite=str(suite)) == 0
    entry = read(tmp_path / "out")["classification"]
    assert entry["per_class"]["never"]["auroc"] == {"value": None, "reason": "no positive", "higher_is_better": True}
    assert entry["metrics"]["auroc_macro"]["n_classes"] == 1
    assert any("never" in one for one in entry["warnings"])
    assert "subgroups by 'sex' left out: no image says its sex" in entry["warnings"]

    suite = suite_file(tmp_path, own_task("grounding"))
    assert score(run, folder, tmp_path / "boxes", tiny, suite=str(suite)) == 0
    entry = read(tmp_path / "boxes")["grounding"]
    assert sum(entry["data"]["excluded"].values()) == 1
    whole, *others = entry["warnings"]
    assert "names no split: all of its 24 records are scored" in whole and entry["data"]["split"] is None
    assert others == ["1 left out: box outside of the image or of what the model sees"]
    capsys.readouterr()
    assert run("check", "mine.grounding", "--suite", suite, "--data", folder, "--decode") == 2
    assert "problem: image '0': a box of a phrase lies outside of it" in capsys.readouterr().out


def test_an_empty_class_is_undefined_and_said(run: Run, shards: Path, tiny: Path, tmp_path: Path) -> None:
    """A class that no image shows, among classes that occur; when only one occurs there is nothing to tell apart."""
    classes = ["consolidation", "nodule", "unicorn"]
    lines = "".join(f"  {one}: {{pos: [{one}]}}\n" for one in classes)
    task = {"id": "mine.some", "family": "classification", "kind": "multiclass", "prompts": ["mine.yaml"]}
    task |= {"scoring": {"rule": "softmax"}, "classes": classes}
    suite = suite_file(tmp_path, task, f'version: "1"\nabout: x\nclasses:\n{lines}')
    assert score(run, shards, tmp_path / "out", tiny, suite=str(suite)) == 0
    entry = read(tmp_path / "out")["some"]
    assert entry["per_class"]["unicorn"]["auroc"]["value"] is None
    assert entry["metrics"]["accuracy"]["n_classes"] == entry["metrics"]["auroc_macro"]["n_classes"] == 2
    assert entry["warnings"] == ["unicorn: no positive; left out of the means"]
    suite = suite_file(tmp_path, task | {"classes": classes[1:]})
    assert score(run, shards, tmp_path / "one", tiny, suite=str(suite)) == 2
    assert "only one of the classes nodule, unicorn occurs" in results.read(tmp_path / "one")["tasks"][0]["reason"]


@pytest.mark.parametrize("damage", ["missing", "unreadable"])
def test_a_bad_image_stops_the_task_or_is_counted(
    run: Run, shards: Path, tiny: Path, tmp_path: Path, damage: str
) -> None:
    folder = table(tmp_path, shards)
    if damage == "missing":
        (folder / "3.png").unlink()
    else:
        (folder / "3.png").write_bytes(b"not an image")
    suite = suite_file(tmp_path, own_task("retrieval"))
    assert score(run, folder, tmp_path / "strict", tiny, suite=str(suite)) == 2
    entry = results.read(tmp_path / "strict")["tasks"][0]
    assert entry["status"] == "failed" and "'3'" in entry["reason"]
    assert " at 0x" not in entry["reason"]  # a message is the same in each run
    assert score(run, folder, tmp_path / "lenient", tiny, "--allow-missing", suite=str(suite)) == 0
    entry = results.read(tmp_path / "lenient")["tasks"][0]
    assert entry["data"]["missing"] == 1 and entry["data"]["n"] == 23


@pytest.mark.parametrize("family", ["retrieval", "grounding"])
def test_an_image_that_cannot_be_read_never_ends_a_run(
    run: Run, shards: Path, tiny: Path, tmp_path: Path, family: str
) -> None:
    """Each task that needs it fails and names it; the others go on."""
    folder = table(tmp_path, shards)
    (folder / "3.png").write_bytes(b"not an image")
    fine = {"id": "mine.fine", "family": "retrieval", "data": {"folder": "there"}, "size": 20}
    (folder / "there").symlink_to(shards)
    suite = tmp_path / "suite.yaml"
    suite.write_text(json.dumps({"version": "1", "about": "x", "tasks": [own_task(family), fine]}))
    assert score(run, folder, tmp_path / "out", tiny, suite=str(suite)) == 3
    entry = read(tmp_path / "out")[family]
    assert entry["status"] == "failed" and entry["reason"].startswith("unreadable image '3'")
    assert read(tmp_path / "out")["fine"]["status"] == "ok"


def test_a_truncated_shard_fails_the_tasks_that_read_it(run: Run, shards: Path, tiny: Path, tmp_path: Path) -> None:
    data = table(tmp_path, shards)
    shutil.copytree(shards, data / "cut")
    (tar,) = (data / "cut").glob("test-*.tar")
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    bad = {"id": "mine.cut", "family": "retrieval", "data": {"folder": "cut"}}
    suite = tmp_path / "suite.yaml"
    suite.write_text(json.dumps({"version": "1", "about": "x", "tasks": [bad, own_task("retrieval")]}))
    assert score(run, data, tmp_path / "out", tiny, suite=str(suite)) == 3
    entry = read(tmp_path / "out")["cut"]
    assert entry["status"] == "failed" and "lies beyond the end of the file" in entry["reason"]


def test_no_character_inside_of_a_cell_ends_a_row(run: Run, shards: Path, tiny: Path, tmp_path: Path) -> None:
    """Newlines of a quoted report, and what Unicode calls the end of a line, are text."""
    import csv

    from vlp_eval.data import load as data
    from vlp_eval.data.spec import Columns, DataError, DataSpec

    texts = ["no pleural\neffusion", "one\u2028line\u0085of text", 'a "nodule"']
    columns = Columns(image="file", report="text")
    with (tmp_path / "table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "text"), *((f"{at}.png", text) for at, text in enumerate(texts))])
    rows = [json.dumps({"file": f"{at}.png", "text": text}, ensure_ascii=False) for at, text in enumerate(texts)]
    (tmp_path / "table.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for name in ("table.csv", "table.jsonl"):
        found = data.read(DataSpec(table=name, columns=columns, split=None), tmp_path)
        assert [one.report.text for one in found.records if one.report] == texts
    (tmp_path / "bad.jsonl").write_text(f"{rows[0]}\n\n[1, 2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.jsonl, line 3: not JSON: .*in 5 characters"):
        data.read(DataSpec(table="bad.jsonl", columns=columns, split=None), tmp_path)
    (tmp_path / "bad.csv").write_text(f'file,text\n0.png,"{"x" * 2000}\n')  # the quote is never closed
    with pytest.raises(DataError, match=r"bad\.csv, line 2: unexpected end of data"):
        data.read(DataSpec(table="bad.csv", columns=columns, split=None), tmp_path)

    folder = table(tmp_path, shards)
    listed = (folder / "table.csv").read_text().replace('""nodule""', '""no\u2028dule""')
    (folder / "table.csv").write_text(listed, encoding="utf-8")
    suite = suite_file(tmp_path, own_task("grounding"))
    assert score(run, folder, tmp_path / "out", tiny, "--show-text", suite=str(suite)) == 0
    (task,) = results.read(tmp_path / "out")["tasks"]
    assert {one["phrase"] for one in results.read_samples(tmp_path / "out", task)} == {"no\u2028dule"}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (("file", ""), "line 2: column 'file' names no image"),
        (("nodule", "perhaps"), "line 2: column 'nodule': expected 1, 0, -1, yes, no or empty, found 7 characters"),
        (("nodule", "2"), "line 2: column 'nodule': expected 1, 0, -1, yes, no or empty, found another number"),
        (("nodule", "0.7"), "line 2: column 'nodule': expected 1, 0, -1, yes, no or empty, found a share between"),
        (("boxes", "[1, 2"), "line 2: column 'boxes': expected JSON"),
        (("boxes", '[{"phrase": "x", "xyxy": [1, 2, 3]}]'), "line 2: column 'boxes': expected boxes, found a number"),
        (("boxes", '[{"phrase": "x", "xyxy": [1, 2, NaN, 3]}]'), "line 2: column 'boxes': a box with NaN"),
        (("boxes", '["x"]'), "line 2: column 'boxes': expected boxes, found 1 characters of text"),
        (("file", "../0.png"), "line 2: '../0.png' is refused: expected a relative path below"),
        (("file", "/etc/hostname"), "line 2: '/etc/hostname' is refused: expected a relative path below"),
        (("file", "http://example.org/0.png"), "is refused: expected a relative path below"),
    ],
)
def test_a_cell_that_makes_no_sense_is_named(
    run: Run, shards: Path, tiny: Path, tmp_path: Path, cells: tuple[str, str], expected: str
) -> None:
    import csv

    folder = table(tmp_path, shards, rows=4)
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    rows[0][cells[0]] = cells[1]
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    suite = suite_file(tmp_path, own_task("grounding"))
    assert score(run, folder, tmp_path / "out", tiny, suite=str(suite)) == 2
    assert expected in results.read(tmp_path / "out")["tasks"][0]["reason"]


def test_images_of_one_name_in_two_folders_are_two_images(run: Run, shards: Path, tiny: Path, tmp_path: Path) -> None:
    """As in CheXpert, where each is called view1_frontal.jpg: none may get the embedding of another."""
    folder = table(tmp_path, shards, rows=6)
    lines = (folder / "table.csv").read_text().splitlines()
    for number, line in enumerate(lines[1:]):
        (folder / f"study{number}").mkdir()
        (folder / f"{number}.png").rename(folder / f"study{number}" / "view.png")
        lines[number + 1] = line.replace(f"{number}.png", f"study{number}/view.png", 1)
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    task = own_task("retrieval", k=[1])
    assert score(run, folder, tmp_path / "out", tiny, suite=str(suite_file(tmp_path, task))) == 0
    rows = [json.loads(one) for one in (tmp_path / "out" / "samples" / "mine.retrieval.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"study{number}/view" for number in range(6)]
    task["data"]["columns"]["key"] = "never"  # the same in each row
    assert score(run, folder, tmp_path / "same", tiny, suite=str(suite_file(tmp_path, task))) == 2
    assert "two images have the key '0'" in results.read(tmp_path / "same")["tasks"][0]["reason"]


def test_a_box_without_area_is_counted(run: Run, shards: Path, tiny: Path, tmp_path: Path) -> None:
    folder = table(tmp_path, shards)
    text = (folder / "table.csv").read_text()
    (folder / "table.csv").write_text(text.replace("[500, 500, 520, 520]", "[40, 40, 10, 10]"))
    suite = suite_file(tmp_path, own_task("grounding"))
    assert score(run, folder, tmp_path / "out", tiny, suite=str(suite)) == 0
    assert read(tmp_path / "out")["grounding"]["warnings"][1:] == ["1 left out: box without area"]


def test_results_that_were_damaged_are_not_gone_on_with(run: Run, shards: Path, tmp_path: Path, capsys: Any) -> None:
    assert score(run, shards, tmp_path / "out", "tests.eval.factories:perfect", "--limit", 40) == 0
    path = tmp_path / "out" / "results.json"
    path.write_text(path.read_text()[:500])
    capsys.readouterr()
    assert score(run, shards, tmp_path / "out", "tests.eval.factories:perfect", "--limit", 40, "--resume") == 2
    assert "results.json: not JSON" in capsys.readouterr().err
    assert score(run, shards, tmp_path / "out", "tests.eval.factories:perfect", "--limit", 40) == 0


@pytest.mark.parametrize("words", [["--limit", "0"], ["--resamples", "-1"], ["--workers", "two"]])
def test_a_number_that_makes_no_sense_is_refused(run: Run, shards: Path, tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        score(run, shards, tmp_path / "out", "tests.eval.factories:perfect", *words)
    assert refused.value.code == 2


def test_a_cache_that_serves_some_tasks_is_exit_3(run: Run, shards: Path, tiny: Path, tmp_path: Path) -> None:
    from vlp_eval import suite

    tree = (suite.FOLDER / "smoke.yaml").read_text()
    (tmp_path / "one.yaml").write_text(tree[: tree.index("  - id: smoke.grounding")])
    words = ["--data", shards]
    assert run("embed", "--model", tiny, "--suite", tmp_path / "one.yaml", *words, "--out", tmp_path / "cache") == 0
    more = ["--embeddings", tmp_path / "cache", "--out", tmp_path / "out", "--resamples", 20, "--no-html"]
    assert run("score", "--suite", "smoke", *words, *more) == 3
    found = read(tmp_path / "out")
    assert {name: one["status"] for name, one in found.items()} == {
        "retrieval": "ok",
        "classification": "ok",
        "grounding": "failed",
    }
    assert "patch features" in found["grounding"]["reason"]


def test_shards_of_another_set_are_not_taken_for_the_one_asked_for(
    run: Run, shards: Path, tiny: Path, tmp_path: Path
) -> None:
    """`--data` may be the folder of the set itself, where that is its name."""
    shutil.copytree(shards, tmp_path / "nodules")
    tasks = [
        {"id": f"of.{one}", "family": "retrieval", "size": 20, "data": {"folder": one}} for one in ("nodules", "rsna")
    ]
    path = tmp_path / "suite.yaml"
    path.write_text(json.dumps({"version": "1", "about": "two", "tasks": tasks}))
    for data, out in ((tmp_path, "above"), (tmp_path / "nodules", "itself")):
        assert score(run, data, tmp_path / out, tiny, suite=str(path)) == 3
        found = read(tmp_path / out)
        assert found["nodules"]["status"] == "ok" and found["rsna"]["status"] == "skipped"
        assert "manifest.jsonl" in found["rsna"]["reason"] or "no such folder" in found["rsna"]["reason"]
    assert "is not named 'rsna'" in found["rsna"]["reason"]


def test_some_tasks_without_data_is_exit_3(run: Run, shards: Path, tmp_path: Path) -> None:
    tasks = [
        {"id": "here", "family": "retrieval", "size": 20},
        {"id": "there", "family": "retrieval", "data": {"table": "absent.csv"}},
    ]
    path = tmp_path / "two.yaml"
    path.write_text(json.dumps({"version": "1", "about": "two", "tasks": tasks}))
    (tmp_path / "empty").mkdir()
    tasks[1]["data"] = {"split": "nope"}
    path.write_text(json.dumps({"version": "1", "about": "two", "tasks": tasks}))
    assert score(run, shards, tmp_path / "out", "tests.eval.factories:perfect", suite=str(path)) == 3
    assert [one["status"] for one in results.read(tmp_path / "out")["tasks"]] == ["ok", "failed"]
