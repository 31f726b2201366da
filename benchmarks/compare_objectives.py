"""Train the objectives on synthetic radiographs, all else equal, and write a table of what each model can do.

    python benchmarks/compare_objectives.py --out runs/compare                    # hours on two cores
    python benchmarks/compare_objectives.py --out runs/compare --samples 2000 --seeds 0 --kinds convirt mgca

The demo's recipe (towers, data, schedule) with another list of objectives and without its companions; the same number of
samples and fresh data for each seed. A run that is already there is not repeated, so the script can be stopped and started.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FINDINGS = ["consolidation", "nodule", "effusion", "pneumothorax", "cardiomegaly", "edema", "atelectasis", "device"]
PLACES = {
    f"{side} {zone}".strip() or "anywhere": [side or None, zone or None]
    for side in ("left", "right", "bilateral", "")
    for zone in ("upper", "mid", "lower", "")
}
CONVIRT: dict[str, Any] = {"kind": "convirt", "image_to_text": 0.5, "positives": "group"}
PHRASES: dict[str, Any] = {
    "kind": "concept", "align": "none", "alpha": 1.0, "of": "phrases", "pool": "lse", "loss": "softmax",
}  # fmt: skip
ASSERTION: dict[str, Any] = {"kind": "assertion", "findings": {one: one for one in FINDINGS}}
TEXTS = {one: [f"{one} is present", f"radiograph with {one}", f"{one} on chest x-ray"] for one in FINDINGS}

KINDS: dict[str, list[dict[str, Any]]] = {
    "convirt": [{"kind": "convirt"}],
    "convirt, groups": [CONVIRT],
    "clip": [{"kind": "clip"}],
    "siglip": [{"kind": "siglip", "bias": -4.0}],
    "dhn_nce": [{"kind": "dhn_nce", "temperature": 0.1}],
    "mgca": [{"kind": "mgca", "prototypes": 100}],
    "gloria": [{"kind": "gloria"}],
    "label_aware": [{"kind": "label_aware"}],
    "medclip": [{"kind": "medclip"}],
    "concept, spans": [{"kind": "concept", "align": "clip", "align_scale": 10.0}],
    "convirt + concept": [CONVIRT, PHRASES],
    "convirt + assertion": [CONVIRT, ASSERTION],
    "convirt + multi_text": [CONVIRT, {"kind": "multi_text", "texts": TEXTS}],
    "convirt + medslip": [
        CONVIRT,
        {"kind": "medslip", "findings": FINDINGS, "places": PLACES, "layers": 1, "width": 128},
    ],
    "convirt + mae": [CONVIRT, {"kind": "mae", "patch": 8, "channels": 1, "width": 128, "depth": 1, "weight": 0.5}],
    "convirt + concept + assertion": [CONVIRT, PHRASES, ASSERTION],
}
COLUMNS = [
    ("image to report R@10", "synthetic.retrieval", "i2t_r@10"),
    ("report to image R@10", "synthetic.retrieval", "t2i_r@10"),
    ("macro AUROC", "synthetic.classification", "auroc_macro"),
    ("pointing", "synthetic.grounding", "pointing"),
    ("pointing minus shuffled", "synthetic.grounding", "pointing_minus_shuffled"),
    ("CNR", "synthetic.grounding", "cnr"),
]


def call(*command: str) -> None:
    program = Path(sys.executable).parent / command[0]
    subprocess.run([str(program), *command[1:]], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def scores(out: Path, name: str, seed: int, samples: int) -> dict[str, float | None]:
    """Train and score one list of objectives on one seed's data, unless it is done already."""
    shards = out / f"shards-{seed}"
    if not (shards / "manifest.jsonl").is_file():
        build = ("vlp-prep", "build", "synthetic", "--n", "8000", "--seed", str(seed), "--split", "0.85,0.02,0.13")
        call(*build, "--out", str(shards))
    run = "".join(one if one.isalnum() else "-" for one in name) + f"-{seed}"
    results = out / f"{run}-eval" / "results.json"
    if not results.is_file():
        # JSON is YAML: the list of objectives travels as one override.
        settings = [
            f"data.train={shards}",
            f"data.labels={json.dumps(FINDINGS)}",
            f"objectives={json.dumps(KINDS[name])}",
            f"train.samples={samples}",
            f"out={out}",
            f"name={run}",
            f"seed={seed}",
        ]
        call("vlp-train", "recipes/demo.yaml", *settings, "--resume")
        score = ("vlp-eval", "run", "--model", str(out / run / "last"), "--suite", "synthetic", "--data", str(shards))
        call(*score, "--out", str(results.parent))
    tasks = {one["id"]: one for one in json.loads(results.read_text(encoding="utf-8"))["tasks"]}
    return {title: tasks[task]["metrics"][metric]["value"] for title, task, metric in COLUMNS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=16000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    asked = parser.parse_args()
    out: Path = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{asked.samples} samples seen, {len(asked.seeds)} seed(s); mean (least to most).\n",
        f"| objectives | {' | '.join(title for title, *_ in COLUMNS)} |",
        f"|---|{'---|' * len(COLUMNS)}",
    ]
    print("\n".join(lines), flush=True)
    for name in asked.kinds:
        runs = [scores(out, name, seed, asked.samples) for seed in asked.seeds]
        cells = []
        for title, *_ in COLUMNS:
            values = [value for one in runs if (value := one[title]) is not None]
            spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}" if values else "–")
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
