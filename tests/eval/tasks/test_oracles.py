"""Probes, controls, mismatch, corruptions and robustness through the whole way, each against its formula by another road."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.eval.conftest import Run
from vlp_eval import intervals, results
from vlp_eval.bootstrap import draw
from vlp_eval.metrics.arithmetic import unit

TWO = ["cardiomegaly", "effusion"]
pytestmark = pytest.mark.usefixtures("planted")


def scored(run: Run, shards: Path, folder: Path, model: object, *tasks: dict[str, Any]) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    (folder / "suite.yaml").write_text(json.dumps({"version": "1", "about": "x", "tasks": list(tasks)}))
    words = ["--model", model, "--suite", folder / "suite.yaml", "--data", shards, "--out", folder / "out"]
    assert run("run", *words, "--resamples", 100, "--no-html") == 0
    found: list[dict[str, Any]] = results.read(folder / "out")["tasks"]
    for one in found:
        path = folder / "out" / "samples" / f"{one['id']}.jsonl"
        one["rows"] = [json.loads(line) for line in path.read_text().splitlines()]
    return found


def embedded(shards: Path, tiny: Path, folder: Path, split: str) -> tuple[Any, Any, Any]:
    """Return unit embeddings as the harness keeps them, labels of the two findings, and the samples of a split."""
    from vlp_eval.data import load as data
    from vlp_eval.data import spec
    from vlp_eval.embeddings import cache
    from vlp_eval.models import load as embedder

    known = data.read(spec.DataSpec(split=split), shards)
    rows = cache.EmbeddingCache(folder / f"rows-{split}", embedder.load(str(tiny), "cpu")).images(
        known, range(len(known))
    )
    labels = np.array([[one.labels[name] for name in TWO] for one in known.records])
    return unit(rows), labels, known.records


def test_a_probe_is_scikit_learns_regression_on_each_share(
    run: Run, shards: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    for name in ("FEW_ON_A_SIDE", "TOO_FEW"):  # percentiles, however few they are of
        monkeypatch.setattr(intervals, name, 0)
    task = {"id": "probe", "family": "probe", "classes": TWO, "shares": [0.3, 1.0], "shots": [4]}
    (entry,) = scored(run, shards, tmp_path, tiny, task)
    seen, seen_labels, _ = embedded(shards, tiny, tmp_path, "train")
    test, test_labels, patients = embedded(shards, tiny, tmp_path, "test")

    def area(rows: Any, column: int) -> float:
        model = LogisticRegression(C=0.316, class_weight="balanced", max_iter=2000)
        model.fit(seen[rows], seen_labels[rows, column])
        return float(roc_auc_score(test_labels[:, column], model.decision_function(test)))

    model = LogisticRegression(C=0.316, class_weight="balanced", max_iter=2000)
    drawn, owners = [], sorted({str(record.patient) for record in patients})
    for resample in draw([str(record.patient) for record in patients], 100, 0).weights:
        areas = []
        for column in (0, 1):
            values = model.fit(seen, seen_labels[:, column]).decision_function(test)
            areas.append(roc_auc_score(test_labels[:, column], values, sample_weight=resample))
        drawn.append(np.mean(areas))
    assert len(owners) < len(test)  # so that whole patients are drawn
    assert entry["metrics"]["auroc_1"]["ci"] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=1e-4)
    assert all("ci" in one for one in entry["metrics"].values())
    for share in (0.3, 1.0):
        runs = []
        for seed in (0, 1, 2):
            rows = np.sort(np.random.default_rng(seed).permutation(len(seen))[: round(share * len(seen))])
            runs.append(np.mean([area(rows, column) for column in (0, 1)]))
        found = entry["metrics"][f"auroc_{share:g}"]
        assert found["seeds"] == 3 and found["images"] == round(share * len(seen))
        assert found["value"] == pytest.approx(np.mean(runs), abs=1e-4)
        assert found["std"] == pytest.approx(np.std(runs), abs=1e-4)
    assert entry["metrics"]["auroc_1"]["std"] < 1e-6 < entry["metrics"]["auroc_0.3"]["std"]  # all of it is one draw
    few = []
    for seed in (0, 1, 2):
        for column in (0, 1):
            mixed = np.random.default_rng(seed).permutation(np.arange(len(seen)))
            rows = np.concatenate([mixed[seen_labels[mixed, column] == one][:4] for one in (0, 1)])
            few.append(area(rows, column))
    assert entry["metrics"]["auroc_4_shots"]["value"] == pytest.approx(np.mean(few), abs=1e-4)


def test_the_robustness_index_leaves_out_the_same_patient(run: Run, shards: Path, tiny: Path, tmp_path: Path) -> None:
    """SO / (SO + OS) of the k nearest by cosine, counted one by one."""
    task = {"id": "hospitals", "family": "robustness", "biology": TWO, "k": [3, 7], "primary_k": 3}
    (entry,) = scored(run, shards, tmp_path, tiny, task)
    rows, labels, samples = embedded(shards, tiny, tmp_path, "test")
    alone = np.flatnonzero(labels.sum(1) == 1)
    kind, site = labels[alone].argmax(1), [samples[one].groups["site"] for one in alone]
    patient = [samples[one].patient for one in alone]
    weights = draw(patient, 100, 0).weights
    for k in (3, 7):
        counts = {"ss": 0, "so": 0, "os": 0, "oo": 0}
        parts = []
        for i, one in enumerate(alone):
            before = dict(counts)
            others = [j for j in range(len(alone)) if patient[j] != patient[i]]
            others.sort(key=lambda j, one=one: -float(rows[alone[j]] @ rows[one]))
            for j in others[:k]:
                counts["so"[int(kind[j] != kind[i])] + "so"[int(site[j] != site[i])]] += 1
            parts.append([counts[name] - before[name] for name in ("so", "os")])
        found = entry["metrics"][f"robustness_index@{k}"]
        assert {name: found[name] for name in counts} == counts
        assert found["value"] == pytest.approx(counts["so"] / (counts["so"] + counts["os"]))
        sums = [np.sum([count * np.array(part) for count, part in zip(row, parts, strict=True)], 0) for row in weights]
        bounds = np.percentile([so / (so + os) for so, os in sums], [2.5, 97.5])
        assert found["ci"] == pytest.approx(bounds)


@pytest.mark.parametrize(("model", "expected"), [("perfect", 1.0), ("inverted", 0.0), ("random", None)])
def test_wrong_texts_and_searches_by_class_of_known_embedders(
    run: Run, shards: Path, tmp_path: Path, model: str, expected: float | None
) -> None:
    tasks = (
        {"id": "wrong", "family": "mismatch", "text": "report"},
        {"id": "search", "family": "class_retrieval", "classes": TWO, "queries": "prompts", "prompts": "synthetic"},
        {
            "id": "name",
            "family": "class_retrieval",
            "classes": TWO,
            "gallery": "prompts",
            "prompts": "synthetic",
            "k": [1],
        },
    )
    wrong, search, name = scored(run, shards, tmp_path, f"tests.eval.factories:{model}", *tasks)
    if expected is None:
        for metric in ("notices_wrong_report", "notices_wrong_side", "notices_negation"):
            one = wrong["metrics"][metric]
            width = one["ci"][1] - one["ci"][0]
            assert one["ci"][0] - width / 2 <= 0.5 <= one["ci"][1] + width / 2, one
        return
    for edit in ("wrong_side", "negation"):
        assert wrong["metrics"][f"notices_{edit}"]["value"] == expected
    # some patients' reports say the same of another image, in other words: half a point each
    assert abs(wrong["metrics"]["notices_wrong_report"]["value"] - expected) < 0.03
    assert search["metrics"]["p@5"]["value"] == expected
    for one in (*search["metrics"].values(), *name["metrics"].values()):
        assert one["ci_method"].endswith("_patient")  # of the gallery where prompts are the queries
    assert (name["metrics"]["p@1"]["value"] == 1) == (expected == 1)


def test_each_grounding_score_stands_beside_its_controls(run: Run, shards: Path, tmp_path: Path) -> None:
    (entry,) = scored(
        run, shards, tmp_path, "tests.eval.factories:perfect", {"id": "maps", "family": "grounding", "limit": 40}
    )
    scores = ("pointing", "cnr", "miou", "pixel_auroc", "pixel_ap", "dice", "box_iou", "iobb")
    for name in scores:
        own = entry["metrics"][name]["value"]
        for control in ("shuffled", "wrong_phrase", "prior", "centre"):
            other = entry["metrics"][f"{name}_{control}"]["value"]
            assert other is not None and (control in ("prior", "centre") or other < own), (name, control)
    assert entry["metrics"]["dice"]["value"] > 0.5 and entry["metrics"]["iobb"]["value"] > 0.5
    above = entry["metrics"]["iobb"]["share_above"]
    values = [row["iobb"] for row in entry["rows"] if not row["bare"] and row["iobb"] is not None]
    for threshold in ("0.1", "0.25", "0.5", "0.75", "0.9"):
        assert above[threshold] == pytest.approx(np.mean(np.array(values) > float(threshold)))
    for row in entry["rows"]:
        assert row["cnr_absolute"] == pytest.approx(abs(row["cnr"]))


def test_true_recall_of_several_right_answers(run: Run, shards: Path, tiny: Path, tmp_path: Path) -> None:
    """Images of a patient with several studies have several right reports: any-hit and true recall differ."""
    task = {"id": "pairs", "family": "retrieval", "positives": "groups.site", "k": [1, 20]}
    (entry,) = scored(run, shards, tmp_path, tiny, task)
    from vlp_eval.models import load as embedder

    images, _, samples = embedded(shards, tiny, tmp_path, "test")
    texts = unit(embedder.load(str(tiny), "cpu").encode("text", [one.report.text for one in samples])["text"])
    site = np.array([one.groups["site"] for one in samples])
    order = np.argsort(-(texts @ images.T), axis=1)
    right = np.take_along_axis(site[:, None] == site, order, 1)
    for k in (1, 20):
        expected = np.mean(right[:, :k].sum(1) / right.sum(1))
        found = entry["metrics"][f"t2i_recall@{k}"]
        assert found["value"] == pytest.approx(expected, abs=2e-3)
        assert found["ci"][0] <= found["value"] <= found["ci"][1]
        assert entry["metrics"][f"t2i_r@{k}"]["value"] == pytest.approx(right[:, :k].any(1).mean(), abs=0.01)


def test_corruptions_do_what_they_say() -> None:
    from vlp_eval.data import corruptions

    flat = np.full((200, 200), 128, np.uint8)
    for severity in (1, 3, 5):
        assert corruptions.noise(flat, severity).std() == pytest.approx(255 * 0.04 * severity, rel=0.05)
        image = np.random.default_rng(0).integers(0, 255, (200, 200), dtype=np.uint8)
        faded = corruptions.contrast(image, severity)
        assert faded.std() == pytest.approx(image.std() * (1 - 0.16 * severity), rel=0.02)
        assert faded.mean() == pytest.approx(image.mean(), abs=0.5)
        assert (corruptions.occlusion(flat, severity) == 0).mean() == pytest.approx(0.04 * severity, rel=0.05)
        point = np.zeros((201, 201), np.uint8)
        point[100, 100] = 255
        rows = np.indices(point.shape)[0] - 100
        spread = corruptions.blur(np.where(np.abs(rows) < 30, 255, 0).astype(np.uint8), severity).astype(float)[:, 100]
        slope = -np.diff(spread)[100:160]  # the edge's derivative is the kernel
        centre = (np.arange(60) * slope).sum() / slope.sum()
        sigma = ((np.arange(60) - centre) ** 2 * slope).sum() / slope.sum()
        assert sigma**0.5 == pytest.approx(0.006 * severity * 201, rel=0.1)


@pytest.mark.parametrize("suite", ["synthetic", "synthetic_beyond"])
def test_whole_suites_score_from_the_cache_alone(
    run: Run, shards: Path, tiny: Path, tmp_path: Path, suite: str
) -> None:
    """What tasks encode on the way (other splits, damaged images) is in the cache too."""
    words = ["--suite", suite, "--data", shards, "--limit", 40]
    assert run("embed", "--model", tiny, *words, "--out", tmp_path / "cache") == 0
    more = ["--resamples", 20, "--no-html"]
    assert run("score", "--embeddings", tmp_path / "cache", *words, "--out", tmp_path / "score", *more) == 0
    assert run("run", "--model", tiny, *words, "--out", tmp_path / "run", *more) == 0
    assert results.read(tmp_path / "score")["tasks"] == results.read(tmp_path / "run")["tasks"]
    for task in results.read(tmp_path / "run")["tasks"]:
        main = {name: one for name, one in task["metrics"].items() if one.get("primary") and one["value"] is not None}
        assert main and all("ci" in one for one in main.values()), task["id"]
        if "auroc_corrupted" in main:  # what is lost and what is left are of the same resamples
            change, left, whole = (task["metrics"][f"{one}"] for one in ("change_blur", "auroc_blur", "auroc_macro"))
            assert change["value"] == pytest.approx(left["value"] - whole["value"])
            assert left["ci"][0] <= left["value"] <= left["ci"][1]
