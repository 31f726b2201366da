"""The whole harness on synthetic shards: embedders with known answers, resuming, what does not change a digit, the verbs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests import ROOT, warm
from tests.eval.conftest import Run, read, score
from vlp.sample import Sample
from vlp_eval import results
from vlp_eval.data.checks import prevalence

pytestmark = pytest.mark.usefixtures("planted")


def value(task: dict[str, Any], name: str) -> float:
    number = task["metrics"][name]["value"]
    assert isinstance(number, float)
    return number


def test_a_perfect_embedder_scores_one(run: Run, shards: Path, tmp_path: Path) -> None:
    assert score(run, shards, tmp_path / "out", "tests.eval.factories:perfect") == 0
    tasks = read(tmp_path / "out")
    for name in ("i2t_r@1", "t2i_r@1", "i2t_mrr"):
        assert value(tasks["retrieval"], name) == 1
    assert tasks["retrieval"]["metrics"]["i2t_r@1"]["oracle"] == 1
    assert value(tasks["classification"], "auroc_macro") == 1
    assert value(tasks["classification"], "ap_macro") == 1
    assert value(tasks["grounding"], "pointing") == 1
    assert value(tasks["grounding"], "cnr") > 2
    assert value(tasks["grounding"], "pointing_shuffled") < 0.6


def test_an_inverted_embedder_scores_zero(run: Run, shards: Path, tmp_path: Path) -> None:
    assert score(run, shards, tmp_path / "out", "tests.eval.factories:inverted") == 0
    tasks = read(tmp_path / "out")
    assert value(tasks["retrieval"], "i2t_r@10") == 0
    assert value(tasks["classification"], "auroc_macro") == 0
    assert value(tasks["grounding"], "pointing") == 0
    assert value(tasks["grounding"], "cnr") < -1


def test_a_random_embedder_scores_chance_within_its_interval(run: Run, shards: Path, tmp_path: Path) -> None:
    assert score(run, shards, tmp_path / "out", "tests.eval.factories:random") == 0
    tasks = read(tmp_path / "out")
    for task, name in (("retrieval", "i2t_r@10"), ("classification", "auroc_macro"), ("grounding", "cnr")):
        one = tasks[task]["metrics"][name]
        low, high = one["ci"]
        slack = (high - low) / 2  # of many intervals at 95 % some miss; half a width more does not
        assert low - slack <= one["chance"] <= high + slack, (name, one)


def test_the_number_of_workers_and_the_order_change_no_digit(
    run: Run, shards: Path, tiny: Path, tmp_path: Path
) -> None:
    assert score(run, shards, tmp_path / "one", tiny, "--workers", 1) == 0
    assert score(run, shards, tmp_path / "four", tiny, "--workers", 4) == 0
    alike = [
        json.dumps({k: v for k, v in results.read(tmp_path / one).items() if k != "run"}) for one in ("one", "four")
    ]
    assert alike[0] == alike[1]
    for name in ("retrieval", "classification", "grounding"):
        files = [(tmp_path / one / "samples" / f"smoke.{name}.jsonl").read_bytes() for one in ("one", "four")]
        assert files[0] == files[1]


def test_an_embedding_does_not_depend_on_its_company(shards: Path, tiny: Path, tmp_path: Path) -> None:
    from vlp_eval.data import load as data
    from vlp_eval.data import spec
    from vlp_eval.embeddings import cache
    from vlp_eval.models import load as embedder

    model = embedder.load(str(tiny), "cpu")
    known = data.read(spec.DataSpec(), shards)
    together, alone = cache.EmbeddingCache(tmp_path / "a", model), cache.EmbeddingCache(tmp_path / "b", model)
    rows = together.images(known, range(40))
    for index in (39, 0, 7):
        assert (alone.images(known, [index])[0] == rows[index]).all()
    for size in (7, 32, 33):  # asked for in batches of any size, in any order
        parts = cache.EmbeddingCache(tmp_path / f"by-{size}", model)
        for start in reversed(range(0, 40, size)):
            assert (parts.images(known, range(start, min(40, start + size))) == rows[start : start + size]).all()
    texts = [str(one.report.text) for one in known.records[:20] if one.report] + ["nodule"]
    both = together.texts(texts)
    for index in (20, 3, 11):
        assert (alone.texts([texts[index]])[0] == both[index]).all()


def test_two_runs_into_one_cache_do_not_write_over_each_other(shards: Path, tiny: Path, tmp_path: Path) -> None:
    """Both open the cache while it is empty; then each adds images and texts that the other one does not."""
    import threading

    from vlp_eval.data import load as data
    from vlp_eval.data import spec
    from vlp_eval.embeddings import cache
    from vlp_eval.models import load as embedder

    known, alone = (
        data.read(spec.DataSpec(), shards),
        cache.EmbeddingCache(tmp_path / "alone", embedder.load(str(tiny), "cpu")),
    )
    expected = alone.images(known, range(80))
    texts = [f"a nodule of {one} millimetres" for one in range(8)]
    stores = [cache.EmbeddingCache(tmp_path / "cache", embedder.load(str(tiny), "cpu")) for _ in range(2)]
    halves = [range(40), range(40, 80)]
    for one, half in zip(stores, halves, strict=True):  # each has looked at what is there
        one.texts([f"text {half.start}"])
        one.images(known, [half.start])

    def encode(at: int) -> None:
        for start in range(halves[at].start, halves[at].stop, 8):
            stores[at].images(known, range(start, start + 8))
        for text in texts[at::2]:
            stores[at].texts([text])

    both = [threading.Thread(target=encode, args=(at,)) for at in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    for at, half in enumerate(halves):
        assert (stores[at].images(known, half) == expected[half.start : half.stop]).all()
        assert (stores[at].texts(texts[at::2]) == alone.texts(texts[at::2])).all()
    cached = cache.EmbeddingCache(tmp_path / "cache", None)
    assert (cached.images(known, range(80)) == expected).all()
    assert (cached.texts(texts) == alone.texts(texts)).all()


def test_a_cache_of_many_parts_needs_few_open_files(shards: Path, tiny: Path, tmp_path: Path) -> None:
    import resource

    from vlp_eval.embeddings import cache
    from vlp_eval.models import load as embedder

    made = cache.EmbeddingCache(tmp_path, embedder.load(str(tiny), "cpu"))
    rows = [made.texts([f"text {number}"])[0] for number in range(40)]
    assert len(list((tmp_path / "text").glob("*.safetensors"))) == 40
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 8, hard))
    try:
        found = cache.EmbeddingCache(tmp_path, None).texts([f"text {number}" for number in reversed(range(40))])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (found == np.stack(rows[::-1])).all()


def kill_when(run_again: list[str], there: Callable[[], bool]) -> None:
    """Start a run and kill it -9 as soon as `there` says so."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with warm.Popen(
        [sys.executable, "-m", "vlp_eval.cli", *run_again],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as running:
        while running.poll() is None and not there():
            time.sleep(0.002)
        running.kill()
        assert running.stderr is not None
        told = running.stderr.read().decode()
    assert running.returncode == -signal.SIGKILL, told


def apart_from_time(out: Path) -> dict[str, bytes]:
    """Return every file of a run, the three values that tell the time left out of the results."""
    files = {str(one.relative_to(out)): one.read_bytes() for one in out.rglob("*") if one.is_file()}
    text, times = re.subn(rb'"(started|seconds|finished)": [^\n]*', b"", files["results.json"])
    assert times >= 2
    return {**files, "results.json": text}


def test_a_run_killed_twice_resumes_to_the_same_bytes(run: Run, shards: Path, tmp_path: Path) -> None:
    """Once while it encodes, once between two tasks; what is on disk at the end is what an unbroken run writes."""
    assert score(run, shards, tmp_path / "whole", "tests.eval.factories:noisy") == 0
    cut = tmp_path / "cut"
    words = [
        "run",
        "--model",
        "tests.eval.factories:slow",
        "--suite",
        "smoke",
        "--data",
        str(shards),
        "--out",
        str(cut),
    ]
    words += ["--resamples", "200", "--no-html"]
    kill_when(words, lambda: any((cut / ".embeddings").rglob("*.safetensors")))
    assert not (cut / "results.json").exists()
    kill_when([*words, "--resume"], (cut / "results.json").exists)
    kept = [one["status"] for one in json.loads((cut / "results.json").read_text())["tasks"]]
    assert kept and set(kept) == {"ok"} and len(kept) < 3
    assert score(run, shards, cut, "tests.eval.factories:slow", "--resume") == 0
    assert apart_from_time(cut) == apart_from_time(tmp_path / "whole")


def test_the_order_of_the_tasks_and_of_the_records_changes_no_digit(
    run: Run, shards: Path, tiny: Path, tmp_path: Path
) -> None:
    import yaml

    from vlp_eval import suite

    tree = yaml.safe_load((suite.FOLDER / "smoke.yaml").read_text())
    found = {}
    for name, tasks in (("there", tree["tasks"]), ("back", tree["tasks"][::-1])):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "smoke.yaml"
        path.write_text(yaml.safe_dump({**tree, "tasks": tasks}))
        assert score(run, shards, tmp_path / name / "out", tiny, suite=str(path)) == 0
        found[name] = {one["id"]: json.dumps(one) for one in results.read(tmp_path / name / "out")["tasks"]}
    assert found["there"] == found["back"]


def test_resume_scores_only_what_is_missing(run: Run, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert score(run, shards, out, "tests.eval.factories:noisy") == 0
    whole = results.read(out)
    tree = json.loads((out / "results.json").read_text())
    tree["tasks"] = tree["tasks"][:1]
    (out / "results.json").write_text(json.dumps(tree))
    before = (out / "samples" / "smoke.retrieval.jsonl").stat().st_mtime_ns
    assert score(run, shards, out, "tests.eval.factories:noisy", "--resume") == 0
    assert results.read(out)["tasks"] == whole["tasks"]
    assert (out / "samples" / "smoke.retrieval.jsonl").stat().st_mtime_ns == before


def test_resuming_with_another_model_is_refused(run: Run, shards: Path, tmp_path: Path, capsys: Any) -> None:
    assert score(run, shards, tmp_path / "out", "tests.eval.factories:noisy") == 0
    assert score(run, shards, tmp_path / "out", "tests.eval.factories:perfect", "--resume") == 2
    assert "another model" in capsys.readouterr().err


def test_cached_embeddings_score_the_same_without_the_model(run: Run, shards: Path, tiny: Path, tmp_path: Path) -> None:
    assert score(run, shards, tmp_path / "run", tiny) == 0
    assert run("embed", "--model", tiny, "--suite", "smoke", "--data", shards, "--out", tmp_path / "cache") == 0
    words = ["--suite", "smoke", "--data", shards, "--out", tmp_path / "score", "--resamples", 200, "--no-html"]
    assert run("score", "--embeddings", tmp_path / "cache", *words) == 0
    assert results.read(tmp_path / "run")["tasks"] == results.read(tmp_path / "score")["tasks"]


def test_no_patient_and_no_text_of_real_data_leaves(run: Run, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert score(run, shards, out, "tests.eval.factories:noisy") == 0
    rows = (out / "samples" / "smoke.retrieval.jsonl").read_text()
    assert '"p7-' not in rows and '"patient"' in rows


# The other verbs


def test_compare_pairs_runs(run: Run, shards: Path, tmp_path: Path) -> None:
    for name in ("perfect", "random"):
        assert score(run, shards, tmp_path / name, f"tests.eval.factories:{name}") == 0
    same, other = tmp_path / "same.json", tmp_path / "other.json"
    assert run("compare", tmp_path / "random", tmp_path / "random", "--json", same, "--resamples", 200) == 0
    assert all(one["difference"] == 0 and one["p"] == 1 for one in json.loads(same.read_text()))
    assert run("compare", tmp_path / "random", tmp_path / "perfect", "--json", other, "--resamples", 200) == 0
    table = {(one["task"], one["metric"]): one for one in json.loads(other.read_text())}
    for key in (
        ("smoke.retrieval", "i2t_r@1"),
        ("smoke.classification", "auroc_macro"),
        ("smoke.grounding", "pointing"),
    ):
        assert table[key]["ci"][0] > 0 and table[key]["p"] < 0.05


def test_a_run_anew_keeps_no_loss_curve_of_the_last(run: Run, shards: Path, tmp_path: Path) -> None:
    out, curve = tmp_path / "out", tmp_path / "out" / "training.json"
    assert score(run, shards, out, "tests.eval.factories:random", "--limit", 40) == 0
    rows = [{"event": "train", "step": one, "samples": 8 * one, "loss": 1 / one} for one in range(1, 5)]
    curve.write_text(json.dumps(rows))
    assert score(run, shards, out, "tests.eval.factories:random", "--limit", 40, "--resume") == 0 and curve.is_file()
    assert score(run, shards, out, "tests.eval.factories:random", "--limit", 40) == 0 and not curve.exists()


def test_compare_refuses_other_images(run: Run, shards: Path, tmp_path: Path, capsys: Any) -> None:
    assert score(run, shards, tmp_path / "all", "tests.eval.factories:random") == 0
    assert score(run, shards, tmp_path / "few", "tests.eval.factories:random", "--limit", 60) == 0
    assert run("compare", tmp_path / "all", tmp_path / "few") == 2
    assert "same images" in capsys.readouterr().err


def test_ls_show_and_check(run: Run, shards: Path, capsys: Any) -> None:
    assert run("ls", "--data", shards) == 0
    assert "chexpert5x200" in capsys.readouterr().out
    assert run("show", "smoke.classification") == 0
    assert "The radiograph shows no pulmonary nodule." in capsys.readouterr().out
    assert run("check", "smoke.classification", "--data", shards, "--train", shards) == 0
    told = capsys.readouterr().out
    assert "patients_shared: 0" in told and "prevalence" in told
    assert run("check", "smoke.classification", "--data", shards, "--train", shards, "--train-split", "test") == 2
    assert "problem:" in capsys.readouterr().out
    assert run("show", "smoke.clasification") == 2
    assert run("show", "chestx_det10", "--suite", "cxr_grounding") == 0
    capsys.readouterr()
    assert run("show", "chestx_det10") == 2
    assert "is in cxr_grounding and cxr_zero_shot: say which with --suite" in capsys.readouterr().err


def test_check_counts_what_scoring_takes_for_the_truth() -> None:
    records = [Sample(key=kind, image=b"", modality=kind) for kind in ("CT", "tomogram", "X-ray")]
    records.append(Sample(key="unknown", image=b"", groups={"modality": "CT"}))
    counts = prevalence(SimpleNamespace(records=records), {"CT": ("CT", "tomogram")}, "modality")  # type: ignore[arg-type]
    assert counts == {"CT": {"positive": 2, "negative": 1, "uncertain": 0, "unknown": 1}}


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, vlp_eval.cli; vlp_eval.cli.parser(); print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_markdown_and_csv(run: Run, shards: Path, tmp_path: Path, capsys: Any) -> None:
    assert score(run, shards, tmp_path / "out", "tests.eval.factories:perfect") == 0
    capsys.readouterr()
    assert run("report", tmp_path / "out", "--md") == 0
    assert "| smoke.retrieval | Image to text, R@10 | 1.000 |" in capsys.readouterr().out
    assert run("report", tmp_path / "out", "--csv") == 0
    assert "smoke.classification,nodule,auroc,1.0" in capsys.readouterr().out


def test_prompts_are_the_worlds_own() -> None:
    from vlp_eval import suite
    from vlp_eval.zero_shot import prompts
    from vlp_prep.synthetic.patient import FINDINGS
    from vlp_prep.synthetic.report import EVAL_PHRASES, EVAL_PROMPTS

    found = prompts.read("synthetic", FINDINGS, pairs=True)
    assert {name: (one.pos, one.neg) for name, one in found.texts.items()} == EVAL_PROMPTS
    grounding = suite.find_task("synthetic.grounding", None)
    assert grounding.settings.bare == EVAL_PHRASES
