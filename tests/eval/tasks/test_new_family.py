"""A task family of one file, registered: `run` scores it, `compare` compares what it declares, the page draws its section."""

from __future__ import annotations

import html
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.eval.conftest import Run
from vlp.core.config import config
from vlp_eval import results
from vlp_eval.data.dataset import Data, Findings
from vlp_eval.drawing.cards import Card, Note, Section, Table
from vlp_eval.intervals import of_mean
from vlp_eval.metrics.arithmetic import unit
from vlp_eval.results import TaskResult, metric
from vlp_eval.tasks.base import Comparable, Context, Outcome, Plan, Task, families, family_of

planned = []


@config
class Settings:
    """`text`: what every image is compared with."""

    text: str = "a chest radiograph"


@dataclass(kw_only=True)
class Chosen(Plan):
    """The images, and how often a plan was made before."""

    number: int


class Toy(Task[Chosen]):
    """The share of images whose cosine with a text is positive."""

    Config = Settings
    compares_samples = True
    titles = (("positive", "Images that agree with the text"),)
    meanings = (("positive", "share of images with a positive cosine"),)

    def plan(self, context: Context) -> Chosen:
        planned.append(self.spec.id)
        return Chosen(images=context.usable[:12], texts=[self.settings.text], number=len(planned))

    def run(self, context: Context, plan: Chosen) -> Outcome:
        text = unit(context.cache.texts(plan.texts))[0]
        cosines = unit(context.cache.images(context.data, plan.images)) @ text
        values = (cosines > 0).astype(np.float64)
        bounds = of_mean(values, context.draw(plan.images))
        rows = [
            context.row(index) | {"positive": float(value), "cosine": float(cosine)}
            for index, value, cosine in zip(plan.images, values, cosines, strict=True)
        ]
        metrics = {
            "positive": metric(float(values.mean()), bounds, primary=True),
            "cosine": metric(float(cosines.mean())),
        }
        return Outcome(plan.scored_records, metrics, rows=rows, scoring={"plan": plan.number})

    def check(self, data: Data) -> Findings:
        return {"toys": len(data)}, ["a toy problem"]

    @classmethod
    def comparable(cls, result: TaskResult) -> dict[str, Comparable]:
        return {"positive": super().comparable(result)["positive"]}

    @classmethod
    def section(cls, result: TaskResult) -> Section:
        best = max(result.rows, key=lambda row: row["cosine"])
        return [
            *super().section(result),
            [Card("A toy card", [Note("a toy note"), Table(("image", "value"), [("best", best["cosine"])])])],
        ]


@pytest.mark.usefixtures("planted")
def test_a_family_of_ones_own_runs_is_compared_and_drawn(
    run: Run, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(families, "_own", dict(families._table))  # registered for this test alone
    families.register("toy")(Toy)
    tasks = [{"id": "mine", "family": "toy"}]
    (tmp_path / "suite.yaml").write_text(json.dumps({"version": "1", "about": "x", "tasks": tasks}))
    words = ["--suite", tmp_path / "suite.yaml", "--data", shards, "--resamples", 50]
    for name in ("perfect", "random"):
        planned.clear()
        assert run("run", "--model", f"tests.eval.factories:{name}", *words, "--out", tmp_path / name) == 0
        assert planned == ["mine"]  # the plan that was encoded is the one that is run
    entry = results.read(tmp_path / "perfect")["tasks"][0]
    assert entry["scoring"] == {"plan": 1} and entry["data"]["n"] == 12
    page = html.unescape((tmp_path / "perfect" / "report.html").read_text())
    head = page[page.index('class="grid heads"') : page.index("<h2")]
    assert "Images that agree with the text" in head and "share of images with a positive cosine" in head
    assert "A toy card" in page and "a toy note" in page and "Cosine <code>cosine</code>" in page
    assert run("check", "mine", "--suite", tmp_path / "suite.yaml", "--data", shards) == 2
    said = capsys.readouterr().out
    assert "toys:" in said and "problem: a toy problem" in said
    assert run("compare", tmp_path / "perfect", tmp_path / "random", "--json", tmp_path / "table.json") == 0
    assert [row["metric"] for row in json.loads((tmp_path / "table.json").read_text())] == ["positive"]


def test_a_results_file_that_names_a_module_imports_nothing() -> None:
    assert family_of("antigravity:Family") is Task and "antigravity" not in sys.modules
    assert family_of("os:getcwd") is family_of("os:") is family_of(":") is Task
    assert family_of(f"{__name__}:Toy") is Toy and family_of("retrieval") is not Task


@pytest.mark.usefixtures("planted")
def test_compare_and_report_import_the_modules_that_the_user_names(
    run: Run, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [{"id": "mine", "family": f"{__name__}:Toy"}]
    (tmp_path / "suite.yaml").write_text(json.dumps({"version": "1", "about": "x", "tasks": tasks}))
    words = [
        "--model",
        "tests.eval.factories:perfect",
        "--suite",
        tmp_path / "suite.yaml",
        "--data",
        shards,
        "--resamples",
        50,
    ]
    assert run("run", *words, "--out", tmp_path / "out") == 0
    assert "A toy card" in (tmp_path / "out" / "report.html").read_text()
    assert run("compare", tmp_path / "out", tmp_path / "out", "--trust", __name__) == 0
    assert "positive" in capsys.readouterr().out
    assert run("report", tmp_path / "out", "--trust", "no_such_module") == 2
