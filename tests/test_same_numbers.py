"""A refactoring changes no number: losses, weights, scores and shards are what `same_numbers.json` recorded.

They are computed in a process of their own with the kernels of AVX2, which every x86 server has: a newer processor would
render and train with others, of other last bits. On the kind of machine that recorded them (processor, torch) they are
equal to the bit, elsewhere to what floating-point sums allow. A commit that mends a fault on purpose writes the record
anew, with its reason in the message:

    python -m tests.test_same_numbers tests/same_numbers.json
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import ROOT, SHARED_DATA
from vlp_eval.cli import main as vlp_eval
from vlp_prep.cli import main as vlp_prep

RECORD = Path(__file__).with_name("same_numbers.json")
RECIPES = sorted(
    path.stem
    for path in (ROOT / "recipes").glob("*.yaml")
    if path.stem not in ("base", "real_cpu", "demo3d", "hlip", "fvlm")
)
SUITES = ("smoke", "synthetic", "covid_cxr")
SOURCES = ("synthetic", "covid_chestxray", "pairs")
OF_REAL_DATA = {"covid_cxr", "covid_chestxray", "pairs"}
FIELDS = ("key=id", "image=image", "report=qa_text", "patient=patient_id")
STEPS, ROWS = 10, 16
KERNELS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4,AVX512_ICL",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "OMP_NUM_THREADS": "1",
}

BERT = (
    "{model_type: bert, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64, "
    "hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0}"
)
TINY = (
    "image.size=64",
    "model.dim=32",
    f"model.text.config={BERT}",
    f"data.batch_size={ROWS}",
    "data.workers=0",
    "tokenizer.length=64",
    "engine.precision=fp32",
    f"train.samples={STEPS * ROWS}",
    "train.log_every=1",
    "train.validate_every=null",
    "train.checkpoint_every_steps=null",
    f"optim.warmup_samples={2 * ROWS}",
)
SMALL = {"vit_base_patch16_224": "vit_tiny_patch16_224", "resnet50": "resnet10t"}
"""What stands in for the large image tower of a recipe; a recipe with a small one keeps it."""


def machine() -> dict[str, str]:
    """Return what decides the bits of a sum: the processor and the build of torch."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "processor": cpu.partition(":")[2].strip() or platform.processor(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """The order of a sum depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def shards(folder: Path, source: str) -> Path:
    """Return the shards of a source, built once in `folder`."""
    out = folder / source
    words: dict[str, list[str]] = {
        "synthetic": ["synthetic", "--n", "240", "--size", "64", "--split", "0.6,0.1,0.3"],
        "covid_chestxray": ["covid_chestxray", "--raw", str(SHARED_DATA / "covid_cxr")],
        "pairs": ["pairs", "--raw", str(SHARED_DATA / "vqa_rad"), "--table", "pairs.jsonl", "--map", *FIELDS],
    }
    if not out.exists():
        assert vlp_prep(["build", *words[source], "--out", str(out), "--ids", "keep", "--workers", "0"]) == 0
    return out


def trained(folder: Path, name: str, *overrides: str) -> Path:
    """Return the run folder of a recipe, trained in this process."""
    from vlp.train.recipe import load_recipe
    from vlp.train.trainer import train

    data = shards(folder, "synthetic")
    words = [f"data.train={data}", f"out={folder / 'runs'}", *overrides]
    if not (folder / "runs" / name).exists():
        with one_thread():
            assert train(load_recipe(ROOT / "recipes" / f"{name}.yaml", words)) == "finished"
    return folder / "runs" / name


def tiny(folder: Path, name: str) -> Path:
    """Return the run folder of a recipe with tiny towers, ten steps long."""
    from vlp.train.recipe import load_recipe

    image = load_recipe(ROOT / "recipes" / f"{name}.yaml", ["data.train=x"]).model.image
    towers = [f"model.image.name={SMALL[image['name']]}"] if image["kind"] == "timm" else []
    return trained(folder, name, *TINY, *towers)


def losses(folder: Path, name: str) -> list[float]:
    """Return the losses of a recipe's objectives, a number a step."""
    lines = (tiny(folder, name) / "log.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if line["event"] == "train"]


def demo(folder: Path) -> Path:
    """Return the demo's recipe as it stands, stopped after ten steps."""
    return trained(folder / "demo", "demo", f"train.samples={10 * 64}", "train.validate_every=null")


def weights(folder: Path, name: str) -> str:
    """Return the hash of the weights after ten steps: of the demo as it stands, of other recipes with tiny towers."""
    run = demo(folder) if name == "demo" else tiny(folder, name)
    return hashlib.sha256((run / "last" / "model.safetensors").read_bytes()).hexdigest()


def scores(folder: Path, suite: str) -> dict[str, Any]:
    """Return every score of a suite of the demo's weights: `task/metric` to its value."""
    source = "covid_chestxray" if suite == "covid_cxr" else "synthetic"
    out = folder / "eval" / suite
    words = ["--suite", suite, "--data", str(shards(folder, source)), "--out", str(out)]
    with one_thread():
        assert vlp_eval(["run", "--model", str(demo(folder) / "last"), *words]) == 0
    tree = json.loads((out / "results.json").read_text())
    return {f"{task['id']}/{name}": row["value"] for task in tree["tasks"] for name, row in task["metrics"].items()}


def digests(folder: Path, source: str) -> dict[str, str]:
    """Return the hash of each shard of a source."""
    paths = sorted(shards(folder, source).glob("*.tar"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


RECORDED: dict[str, tuple[tuple[str, ...], Callable[[Path, str], Any]]] = {
    "losses": (tuple(RECIPES), losses),
    "scores": (SUITES, scores),
    "shards": (SOURCES, digests),
    "weights": (tuple(RECIPES), weights),
}
CASES = [(kind, name) for kind, (names, _) in RECORDED.items() for name in names]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the numbers of this tree, as the record has them."""
    out = tmp_path_factory.mktemp("same_numbers") / "found.json"
    command = [sys.executable, "-m", "tests.test_same_numbers", str(out)]
    done = subprocess.run(command, env={**os.environ, **KERNELS}, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(out.read_text()))


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind}-{name}" for kind, name in CASES])
def test_a_number_is_as_recorded(found: dict[str, Any], kind: str, name: str) -> None:
    record = json.loads(RECORD.read_text())
    expected, number = record[kind][name], found[kind].get(name)
    if number is None:
        pytest.skip("the small real data sets lie beside the project in ../shared/data, which is absent")
    if kind == "shards" or found["machine"] == record["machine"]:
        assert number == expected
    elif kind == "losses":
        assert number == pytest.approx(expected, rel=1e-3)
    elif kind == "scores":
        assert number.keys() == expected.keys()
        for metric, value in number.items():
            there = expected[metric]
            assert (value is None) == (there is None), metric
            assert value is None or math.isclose(value, there, abs_tol=0.05), metric
    else:
        pytest.skip(f"recorded on another machine: {record['machine']}")


def write_record(path: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        found: dict[str, Any] = {"machine": machine()}
        for kind, name in CASES:
            if name not in OF_REAL_DATA or SHARED_DATA.exists():
                found.setdefault(kind, {})[name] = RECORDED[kind][1](Path(place), name)
    path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(write_record(Path(sys.argv[1])))
