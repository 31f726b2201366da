"""One case or more for every registered kind; `test_kinds` fails when a kind has none."""

from __future__ import annotations

import re
import sys
import types

from tests import ROOT
from tests.objectives import oracle_networks as n
from tests.objectives import oracle_volumes as v
from tests.objectives import oracles as o
from tests.objectives.kit import FACETS, FINDINGS, ORGANS, PLACES, Case
from vlp.batch import Batch, Grid
from vlp.objectives import objectives
from vlp.sample import concept_code

GUIDE = ROOT / "docs" / "objectives.md"
if "example_margin" not in objectives:
    (EXAMPLE,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    module = sys.modules["guide_example"] = types.ModuleType("guide_example")
    exec(compile(EXAMPLE, str(GUIDE), "exec"), module.__dict__)

CONCEPT = {"kind": "concept", "align": "none", "alpha": 1.0, "bias": -2.0}
PHRASES = {**CONCEPT, "of": "phrases", "pool": "lse", "loss": "softmax"}
MEDSLIP = {
    "kind": "medslip", "findings": ["nodule", "edema"], "places": PLACES, "width": 8, "layers": 1, "heads": 2,
    "dropout": 0.0, "negatives": 0,
}  # fmt: skip
MAE = {"kind": "mae", "patch": 4, "channels": 1, "width": 16, "depth": 1, "heads": 2}
ALONE = "a batch of 1"
BOXES = Grid((2, 2, 1), (8.0, 4.0, 4.0), (4.0, 2.0, 2.0))
PLANES = Grid((4, 1, 1), (4.0, 4.0, 4.0), (2.0, 2.0, 2.0))


def mentioned(b: Batch) -> o.Array:
    places, findings = list(PLACES.values()), ["nodule", "edema"]
    codes = {
        concept_code(finding, *place): (a, q) for a, place in enumerate(places) for q, finding in enumerate(findings)
    }
    return n.triplets(b, codes, len(places), len(findings))


CASES = [
    Case("guide", {"kind": "example_margin"}, lambda x, b, p: o.margin(x)),
    Case("convirt", {"kind": "convirt"}, lambda x, b, p: o.convirt(x)),
    Case("convirt/group", {"kind": "convirt", "positives": "group"}, lambda x, b, p: o.convirt(x, positive=o.groups(b))),
    Case("clip", {"kind": "clip"}, lambda x, b, p: o.clip(x), ("image", "text", "logit_scale")),
    Case("clip/label", {"kind": "clip", "positives": "label"}, lambda x, b, p: o.clip(x, o.same_labels(b))),
    Case("clip/group", {"kind": "clip", "positives": "group"}, lambda x, b, p: o.clip(x, o.groups(b))),
    Case("siglip", {"kind": "siglip"}, lambda x, b, p: o.siglip(x), ("image", "text", "logit_scale", "logit_bias")),
    Case("siglip/group", {"kind": "siglip", "positives": "group"}, lambda x, b, p: o.siglip(x, o.groups(b))),
    Case("siglip/ring", {"kind": "siglip", "exchange": "ring"}, lambda x, b, p: o.siglip(x)),
    Case(
        "mgca", {"kind": "mgca", "prototypes": 5}, lambda x, b, p: o.mgca(x, p),
        ("image", "text", "patches", "words"),
    ),
    Case(
        "mgca/preset", {"kind": "mgca", "prototypes": 5, "preset": "class_defaults", "ita": 2.0},
        lambda x, b, p: o.mgca(x, p, (2.0, 0.7, 0.5)),
    ),
    Case(
        "mgca/group", {"kind": "mgca", "prototypes": 5, "positives": "group"},
        lambda x, b, p: o.mgca(x, p, positive=o.groups(b)),
    ),
    Case("dhn_nce", {"kind": "dhn_nce"}, lambda x, b, p: o.dhn_nce(x), single=ALONE),
    Case(
        "dhn_nce/betas", {"kind": "dhn_nce", "beta_image": 1.0, "beta_text": 0.5, "alpha": 0.5, "reduction": "sum"},
        lambda x, b, p: 6 * o.dhn_nce(x, (1.0, 0.5), 0.5), single=ALONE,
    ),
    Case(
        "dhn_nce/group", {"kind": "dhn_nce", "positives": "group"},
        lambda x, b, p: o.dhn_nce(x, positive=o.groups(b)), single=ALONE,
    ),
    Case(
        "dhn_nce/released", {"kind": "dhn_nce", "variant": "released_code"},
        lambda x, b, p: o.released_dhn_nce(x), single=ALONE,
    ),
    Case(
        "concept/spans", CONCEPT,
        lambda x, b, p: o.concept(x, b, p, of="spans", how="max", matches="ignore"), ("patches", "tokens"),
    ),
    Case(
        "concept/published",
        {"kind": "concept", "matches": "negative", "mentions": "all"},
        lambda x, b, p: (
            o.siglip(x) + 0.5 * o.concept(x, b, p, of="spans", how="max", matches="negative", present=False)
        ),
        ("image", "text", "patches", "tokens"),
    ),
    Case(
        "concept/group", {"kind": "concept", "positives": "group"},
        lambda x, b, p: (
            o.siglip(x, o.groups(b)) + 0.5 * o.concept(x, b, p, of="spans", how="max", matches="ignore")
        ),
        ("image", "text", "patches", "tokens"),
    ),
    Case(
        "concept/report", {**CONCEPT, "per": "report", "pool": "lse", "matches": "positive"},
        lambda x, b, p: o.concept(x, b, p, of="spans", how="lse", matches="positive", per="report"),
        ("patches", "tokens"),
    ),
    Case(
        "concept/phrases", PHRASES,
        lambda x, b, p: o.concept_softmax(x, b, of="phrases", how="lse", matches="ignore"), ("patches", "phrases"),
    ),
    Case(
        "concept/positive", {**PHRASES, "matches": "positive", "align": "clip", "image_to_concept": 0.2},
        lambda x, b, p: (
            o.clip(x) + o.concept_softmax(x, b, of="phrases", how="lse", matches="positive", share=0.2)
        ),
        ("image", "text", "patches", "phrases"),
    ),
    Case(
        "concept/negative", {**PHRASES, "matches": "negative"},
        lambda x, b, p: o.concept_softmax(x, b, of="phrases", how="lse", matches="negative"), ("patches", "phrases"),
    ),
    Case(
        "gloria", {"kind": "gloria"}, lambda x, b, p: o.gloria(x), ("image", "text", "patches", "words"),
        magnitude=10,
    ),
    Case(
        "gloria/group", {"kind": "gloria", "positives": "group"}, lambda x, b, p: o.gloria(x, o.groups(b)), magnitude=10,
    ),
    Case(
        "medclip", {"kind": "medclip"}, lambda x, b, p: o.medclip(x, b.labels, b.labels, [x.text]),
        ("image", "text", "logit_scale"),
    ),
    Case(
        "medclip/views", {"kind": "medclip", "text_labels": "mentions", "views": 2},
        lambda x, b, p: o.medclip(x, b.labels, b.extras["text_labels"], [x.text, x.text_view]),
        ("image", "text", "text_view", "logit_scale"),
    ),
    Case(
        "medclip/cosine", {"kind": "medclip", "similarity": "cosine"},
        lambda x, b, p: o.medclip(x, b.labels, b.labels, [x.text], cosine=True),
    ),
    Case("label_aware", {"kind": "label_aware"}, lambda x, b, p: o.clip(x, o.same_labels(b))),
    Case(
        "label_aware/category", {"kind": "label_aware", "by": "category", "form": "sum"},
        lambda x, b, p: 2 * len(x.image) * o.clip(x, o.same_category(b)),
    ),
    Case(
        "label_aware/overlap", {"kind": "label_aware", "match": "overlap"}, lambda x, b, p: o.clip(x, o.jaccard(b)),
    ),
    Case(
        "assertion", {"kind": "assertion", "findings": FINDINGS}, lambda x, b, p: o.assertion(x, b),
        ("image", "prompts"), prompts=slice(0, 3),
    ),
    Case(
        "multi_text", {"kind": "multi_text", "texts": FACETS}, lambda x, b, p: o.multi_text(x, b),
        ("image", "prompts"), prompts=slice(3, 6),
    ),
    Case(
        "multi_text/unmentioned", {"kind": "multi_text", "texts": FACETS, "unmentioned": "negative"},
        lambda x, b, p: o.multi_text(x, b, True), ("image", "prompts"), prompts=slice(3, 6),
    ),
    Case("medslip", MEDSLIP, lambda x, b, p: n.medslip(x, mentioned(b), p, heads=2, layers=1), ("patches",)),
    Case(
        "medslip/deep", {**MEDSLIP, "layers": 2, "alpha": 0.5},
        lambda x, b, p: n.medslip(x, mentioned(b), p, heads=2, layers=2, alpha=0.5), ("patches",),
    ),
    Case("medslip/sampled", {**MEDSLIP, "negatives": 1}, None, ("patches",)),
    Case(
        "anatomy", {"kind": "anatomy", "organs": ORGANS}, lambda x, b, p: v.anatomy(x, b, p),
        ("patches", "extras.organs"), magnitude=2,
    ),
    Case(
        "anatomy/queries",
        {"kind": "anatomy", "organs": ORGANS, "masks": False, "matches": "own", "reduction": "mean"},
        lambda x, b, p: v.anatomy(x, b, p, masked=False, matches="own", mean=True),
        ("patches", "extras.organs"),
    ),
    Case(
        "anatomy/text", {"kind": "anatomy", "organs": ORGANS, "matches": "text"},
        lambda x, b, p: v.anatomy(x, b, p, matches="text"), ("patches", "extras.organs"), magnitude=2,
    ),
    Case("depth", {"kind": "depth", "sigma": 6.0}, lambda x, b, p: v.depth(x, b), ("patches", "extras.depths"), grid=PLANES),
    Case(
        "depth/released", {"kind": "depth", "sigma": 12.0, "renormalise": False, "temperature": 0.5},
        lambda x, b, p: v.depth(x, b, sigma=12.0, renormalise=False, temperature=0.5), ("patches", "extras.depths"),
        grid=PLANES,
    ),
    Case(
        "depth/max", {"kind": "depth", "sigma": 6.0, "pool": "max"}, lambda x, b, p: v.depth(x, b, best=True),
        ("patches", "extras.depths"), grid=BOXES,
    ),
    Case(  # its positions and pixels are fp32
        "mae", MAE, lambda x, b, p: n.mae(x, b, p, patch=(4, 4), heads=2, depth=1, window=(0, 255)),
        ("masked_patches",), exact=1e-6,
    ),
    Case(
        "mae/volume", {**MAE, "patch": [2, 2, 4], "window": [100, 160]},
        lambda x, b, p: n.mae(x, b, p, patch=(2, 2, 4), heads=2, depth=1, window=(20, 180)),
        ("masked_patches",), exact=1e-6, grid=BOXES,
    ),
]  # fmt: skip
"""Sampled negatives have no formula: `test_vectors` holds them to what they must keep."""
