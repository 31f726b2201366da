"""The published numbers of the shipped suites, against the tables that they were read in; and that each is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.eval.conftest import Run, score
from vlp_eval import suite

Numbers = dict[tuple[str, str, str], float]

ZERO_SHOT = """
            openi padchest nih_cxr14 chexpert_test.comp5 cxr_zero_shot/chestx_det10 siim_acr rsna_pneumonia
GLoRIA      .589  .565     .610      .750                .645                       -        -
BioViL-T    .702  .655     .729      .789                .708                       -        -
MedKLIP     .759  .629     .726      .879                .713                       .897     .869
KAD         .807  .750     .789      .905                .735                       -        -
CARZero     .838  .810     .811      .923                .796                       .924     .747
RadZero     .847  .841     .804      .900                .787                       .924     .834
"""
ACCURACY = """
            chexpert5x200:accuracy chexpert5x200:f1_macro rsna_pneumonia:accuracy_macro siim_acr:accuracy_macro
CLIP        .201                   .091                   .250                          .494
GLoRIA      .533                   .490                   .292                          .226
PRIOR       .349                   .306                   .768                          .500
MGCA        .436                   .414                   .608                          .300
MedCLIP     .575                   .560                   .431                          .584
EGMA        .613                   .604                   .770                          .636
"""
PLACES = """
                  ms_cxr:pointing cxr_grounding/chestx_det10:pointing_macro rsna_boxes:dice
GLoRIA            -               .367                                      .347
BioViL            -               -                                         .439
BioViL-T          .719            .351                                      -
MedKLIP           .407            .481                                      .465
KAD               -               .391                                      -
G2D               -               -                                         .477
CARZero           .749            .543                                      .540
RadZero           .844            .622                                      .546
RadZero_at_224_px -               -                                         .562
"""
PNEUMOTHORAX = """
                  siim_masks:dice siim_masks:pixel_auroc
MedKLIP           .044            .648
G2D               .051            -
CARZero           .100            .856
CARZero_(logits)  .081            .928
RadZero           .171            .947
RadZero_at_224_px .121            -
"""
CARD = """
                   ms_cxr:cnr_absolute_macro ms_cxr:miou_macro
BioViL             1.07                .229
BioViL-L           1.21                .202
BioViL-T           1.33                .240
"""
MASKS = """
                     breast_ultrasound.masks:dice brain_mri.masks:dice lung_xray.masks:dice lung_ct.masks:dice
MedCLIP-SAMv2        .7776                        .7652                .7579                .8038
MedCLIP-SAMv2_rerun  .5625                        .1720                -                    -
"""
TO_IMAGE, TO_TEXT = "chexpert8x200.text_to_image", "chexpert8x200.image_to_text"
SEARCH = f"""
          {TO_IMAGE}:p@1 {TO_IMAGE}:p@5 {TO_IMAGE}:p@10 {TO_TEXT}:p@1 {TO_TEXT}:p@5 {TO_TEXT}:p@10
CLIP      .050  .125  .125  .128  .125  .100
MedCLIP   .125  .125  .150  .145  .160  .159
MGCA      .450  .475  .440  .350  .278  .233
GLoRIA    .525  .490  .503  .388  .316  .245
ConVIRT   .603  .600  .575  -     -     -
EGMA      .800  .745  .695  .427  .375  .288
"""
PROBES = " ".join(
    f"{task}.probe:auroc_{share}"
    for task in ("chexpert", "rsna_pneumonia", "siim_acr")
    for share in ("0.01", "0.1", "1")
)
PROBED = f"""
           {PROBES}
MGCA-RN50  .858 .877 .893 .852 .875 .892 .861 .897 .922
GLoRIA     .866 .878 .881 .861 .880 .886 - - -
BioViL     .820 .854 .886 .818 .857 .886 - - -
MedKLIP    - - - .873 .880 .893 - - -
MedCLIP    .857 .875 .880 .876 .882 .891 - - -
"""
FINDINGS = (
    ("Cardiomegaly", 0.904), ("Lung Opacity", 0.931), ("Pleural Effusion", 0.914), ("Atelectasis", 0.836), ("Edema", 0.891),
    ("Consolidation", 0.880), ("Pneumonia", 0.864), ("Pneumothorax", 0.862), ("Enlarged Cardiomediastinum", 0.858),
    ("Support Devices", 0.852), ("Lung Lesion", 0.822), ("Fracture", 0.708), ("Pleural Other", 0.650),
)  # fmt: skip
NOTEBOOK = {
    "comp5": {"Atelectasis": 0.812, "Cardiomegaly": 0.913, "Consolidation": 0.890, "Edema": 0.899, "auroc_macro": 0.889}
    | {"Pleural Effusion": 0.932},
    "all": {"Enlarged Cardiomediastinum": 0.916, "Fracture": 0.560, "Lung Lesion": 0.736, "Lung Opacity": 0.921}
    | {"Pleural Other": 0.603, "Pneumonia": 0.780, "Pneumothorax": 0.652, "Support Devices": 0.774},
}
VOLUMES = {
    ("ct_rate.studies", "auroc_macro"): {
        "RadFinder": 0.838,
        "ARC-CT (supervised)": 0.867,
        "RevCT v0.3.2 (supervised)": 0.8715,
    },
    ("ct_rate.sixteen", "auroc_macro"): {
        "fVLM, released weights": 0.6267,
        "HLIP rerun": 0.758,
    },
    ("rad_chestct", "auroc_macro"): {"RadFinder": 0.770},
    ("ct_rate.reports", "t2i_r@50"): {"CT-CLIP rerun": 0.176},
    ("ct_rate.reports", "t2i_r@10"): {"RadFinder": 0.315},
}
MODALITIES = {
    "rsna_pneumonia.general": (0.554, 0.526, 0.688),
    **dict.fromkeys(("messidor", "fives", "refuge", "odir200x3"), (0.229, 0.258, 0.312)),
    "ct_organ": (0.440, 0.661, 0.855),
    **dict.fromkeys(("acl_mri", "meniscus_mri"), (0.646, 0.637, 0.688)),
    **dict.fromkeys(("breast_ultrasound", "thyroid_ultrasound"), (0.492, 0.625, 0.686)),
    **dict.fromkeys(
        ("lc25000_lung", "lc25000_colon", "pcam", "nct_crc", "bach", "sicap", "osteo"), (0.545, 0.536, 0.600)
    ),
}


def table(text: str) -> Numbers:
    """Return (task, metric, model) -> value of a table; a column without a metric is of `auroc_macro`."""
    head, *lines = [line.split() for line in text.strip().splitlines()]
    found = {}
    for model, *values in lines:
        for column, value in zip(head, values, strict=True):
            task, _, metric = column.partition(":")
            if value != "-":
                found[task, metric or "auroc_macro", model.replace("_", " ")] = float(value)
    return found


def read() -> Numbers:
    found: Numbers = {}
    for one in (ZERO_SHOT, ACCURACY, PLACES, PNEUMOTHORAX, CARD, MASKS, SEARCH, PROBED):
        found |= table(one)
    found |= {("chexpert_test.all", name, "MedSigLIP"): value for name, value in FINDINGS}
    found["chexpert_test.all", "auroc_macro", "MedSigLIP"] = 0.844
    found["chexpert_test.all", "auroc_macro", "ELIXR"] = 0.824
    for task, values in NOTEBOOK.items():
        found |= {(f"chexpert_test.{task}", name, "CheXzero"): value for name, value in values.items()}
    for (task, metric), models in VOLUMES.items():
        found |= {(task, metric, model): value for model, value in models.items()}
    for task, three in MODALITIES.items():
        found |= {
            (task, "accuracy", m): v for m, v in zip(("BiomedCLIP", "PMC-CLIP", "UniMed-CLIP"), three, strict=True)
        }
    return found


def test_every_number_that_was_read_stands_at_its_task_and_no_other_does() -> None:
    own: Numbers = {}
    ids = [task.spec.id for _, task in suite.every_task()]
    for home, task in suite.every_task():
        name = task.spec.id if ids.count(task.spec.id) == 1 else f"{home.name}/{task.spec.id}"
        for one in task.spec.references:
            assert (name, one.metric, one.model) not in own
            own[name, one.metric, one.model] = one.value
            assert one.source and one.tag in ("R", "S")
            classes = getattr(task.settings, "classes", ())
            assert one.metric not in classes or task.spec.family == "classification"
    assert own == read()


def test_published_numbers_are_printed_and_drawn_beside_ours(
    run: Run, shards: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a metric and of a class: on the console, in the markdown table, and on the page as marks, in words and as rows."""
    references = [
        {"model": "Alpha", "metric": "auroc_macro", "value": 0.623, "source": "its card, 12 images", "tag": "R"},
        {"model": "Beta", "metric": "auroc_macro", "value": 0.711, "source": "a later table", "tag": "S"},
        {"model": "Alpha", "metric": "nodule", "value": 0.587, "source": "its card, 12 images", "tag": "R"},
    ]
    task = {"id": "mine", "family": "classification", "classes": ["nodule", "effusion"], "prompts": ["synthetic"]}
    task["about"] = "See `ids_sha256` & <b>."
    (tmp_path / "suite.yaml").write_text(
        json.dumps({"version": "1", "about": "x", "tasks": [task | {"references": references}]})
    )
    out = tmp_path / "out"
    assert score(run, shards, out, tiny, suite=str(tmp_path / "suite.yaml")) == 0
    entry = json.loads((out / "results.json").read_text())["tasks"][0]
    own, nodule = entry["metrics"]["auroc_macro"]["value"], entry["per_class"]["nodule"]["auroc"]["value"]
    told = capsys.readouterr().out
    both = "Beta 0.711, Alpha 0.623 (a later table; its card, 12 images)"
    assert f"published beside mine auroc_macro {own:.3f}: {both}" in told
    assert f"published beside mine AUROC of nodule {nodule:.3f}: Alpha 0.587 (its card, 12 images)" in told
    assert run("report", out, "--md") == 0
    told = capsys.readouterr().out
    assert f"| mine | Macro AUROC | {own:.3f} |" in told and f"| {both} |" in told
    assert f"| mine | AUROC of nodule | {nodule:.3f} |" in told
    assert run("report", out, "--html") == 0
    page = (out / "report.html").read_text()
    assert "See <code>ids_sha256</code> &amp; &lt;b&gt;." in page
    assert '<a href="#mine">mine</a><b>Macro AUROC</b>' in page
    for one in references:
        place = 100 * float(str(one["value"]))
        words = f"{one['model']} {one['value']:.3f} ({one['source']}; {one['tag']})"
        assert f'<span class="mark reference" style="left:{place:g}%" title="{words}"></span>' in page
        assert f"<td>{one['model']}</td><td>{one['metric']}</td><td>{one['value']:.3f}</td>" in page
    assert "<span>Beta 0.711</span> · <span>Alpha 0.623</span>" in page and "<span>nodule 0.587</span>" in page
