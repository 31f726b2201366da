"""Every task of every public suite, from the publisher's own layout through `vlp-prep` to a score, on a tiny random model."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest
import yaml

from tests.eval.conftest import Run
from vlp_eval import results, suite


@pytest.mark.parametrize(
    "name", ["cxr_zero_shot", "cxr_retrieval", "cxr_grounding", "cxr_probe", "general", "segmentation"]
)
def test_a_public_suite_runs_on_shards_of_its_sources(
    name: str, run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.eval import public_trees

    wanted = suite.read(name)
    public_trees.build(wanted, tmp_path / "raw", tmp_path / "data")
    out = tmp_path / "out"
    words = ["--model", tiny, "--suite", name, "--data", tmp_path / "data", "--out", out, "--resamples", 50]
    code = run("run", *words)
    found = {one["id"]: one for one in results.read(out)["tasks"]}
    assert {key: one.get("reason") for key, one in found.items() if one["status"] != "ok"} == {}
    assert code == 0 and set(found) == {one.spec.id for one in wanted.tasks}
    for task in wanted.tasks:
        entry = found[task.spec.id]
        classes = getattr(task.settings, "classes", ())
        if task.spec.family == "classification":  # each class of the suite is one that the source writes
            assert set(entry["per_class"]) == set(classes)
            undefined = [one for one, values in entry["per_class"].items() if values["auroc"]["value"] is None]
            assert undefined == [], task.spec.id
            assert len(task.settings.prompts) >= 3
        assert [one["model"] for one in entry["references"]] == [one.model for one in task.spec.references]
        assert any(one.get("primary") and one["value"] is not None for one in entry["metrics"].values())
    capsys.readouterr()
    assert run("report", out, "--md") == 0
    told = capsys.readouterr().out
    for task in wanted.tasks:
        assert task.spec.id in told
        for one in task.spec.references:
            assert one.metric in {**found[task.spec.id]["metrics"], **found[task.spec.id]["per_class"]}
            assert f"{one.model} {one.value:.3f}" in told
    page = html.unescape((out / "report.html").read_text())
    for one in {one.source for task in wanted.tasks for one in task.spec.references}:
        assert one in page
    wordings = sum(len(getattr(task, "sets", ())) > 1 for task in wanted.tasks)
    assert page.count("Prompt sensitivity") == page.count("One row per prompt set") == wordings
    for task in wanted.tasks:
        capsys.readouterr()
        assert run("check", task.spec.id, "--suite", name, "--data", tmp_path / "data") == 0, task.spec.id
        facts, scored = yaml.safe_load(capsys.readouterr().out), found[task.spec.id]["data"]
        assert (facts["n"], facts["ids_sha256"]) == (scored["n"], scored["ids_sha256"]), task.spec.id
    if name == "cxr_zero_shot":
        assert run("show", "mimic5x200", "--data", tmp_path / "data") == 0
        assert (
            yaml.safe_load(capsys.readouterr().out)["split"]["ids_sha256"] == found["mimic5x200"]["data"]["ids_sha256"]
        )
        groups = found["nih_cxr14"]["subgroups"]
        assert {one: set(groups[one]["groups"]) for one in groups} == {
            "sex": {"M", "F"},
            "age": {"40-59"},
            "view": {"PA", "AP"},
        }
        assert set(found["chexpert_test.comp5"]["subgroups"]["age"]["groups"]) == {"40-59", "60-79"}


def test_years_are_put_together_and_other_columns_are_left_alone() -> None:
    from vlp.sample import Sample
    from vlp_eval.data.labels import group_of

    def group(name: str, **columns: str) -> str | None:
        return group_of(Sample(key="x", image=b"", view="PA", groups=columns), name)

    ages = ["0", "19", "20", "068Y", "58.0", "79", "80", "90+", "101", "40-60", "adult"]
    expected = ["0-19", "0-19", "20-39", "60-79", "40-59", "60-79", "80+", "80+", "80+", "40-60", "adult"]
    assert [group("age", age=one) for one in ages] == expected
    assert (group("view"), group("site", site="68"), group("age")) == ("PA", "68", None)


def test_our_own_list_of_single_findings_is_the_same_for_everyone(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most `per_class` images of each class, none with an uncertain one, chosen by hash: see mimic5x200."""
    import hashlib

    lines = ["file,a,b"]
    labels = [(1, 0), (1, -1), (0, 1), (1, 1), (1, 0), (1, 0), (0, 1), (0, 0), (1, 0), (0, 1)]
    from tests.data_prep.sources import trees

    for number, (first, second) in enumerate(labels):
        trees.picture(tmp_path / f"i{number}.png", number)
        lines.append(f"i{number}.png,{first},{second}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "mine.yaml").write_text('version: "1"\nabout: x\nclasses: {a: {pos: [a thing]}, b: {pos: [another]}}\n')
    data = {"table": "table.csv", "columns": {"image": "file", "labels": {"a": "a", "b": "b"}}}
    task = {"id": "list", "family": "classification", "kind": "multiclass", "classes": ["a", "b"], "per_class": 2}
    task |= {"prompts": ["mine.yaml"], "scoring": {"rule": "softmax"}, "data": data}
    (tmp_path / "suite.yaml").write_text(json.dumps({"version": "1", "about": "x", "tasks": [task]}))
    words = ["--model", tiny, "--suite", tmp_path / "suite.yaml", "--data", tmp_path, "--out", tmp_path / "out"]
    assert run("run", *words, "--resamples", 50, "--no-html") == 0
    rows = [json.loads(one) for one in (tmp_path / "out" / "samples" / "list.jsonl").read_text().splitlines()]
    alone = {"a": [0, 4, 5, 8], "b": [2, 6, 9]}
    hashed = {
        name: sorted(members, key=lambda one: hashlib.sha256(f"i{one}".encode()).hexdigest())
        for name, members in alone.items()
    }
    assert {one["id"] for one in rows} == {f"i{one}" for members in hashed.values() for one in members[:2]}
