"""`make demo3d`: the whole job on synthetic chest CTs, from raw NIfTI files and DICOM series to scores and an export."""

from __future__ import annotations

import sys

from .demo import Demo, Floor, main

LARGE = ("mass", "consolidation", "effusion", "emphysema", "pneumothorax", "cardiomegaly")
"""The findings that are larger than a cell of the model's grid."""

VOLUMES = Demo(
    name="demo3d",
    about="the whole job on synthetic chest CTs",
    parts=("raw", "shards", "model", "eval", "export"),
    steps=(
        (
            "Scan 2,400 synthetic patients: NIfTI files in five orientations, DICOM series of three scales, tables of reports",
            "vlp-prep phantoms --n 2400 --seed {seed} --out {out}/raw",
        ),
        (
            "Read the NIfTI files into one orientation and unit, as webdataset shards",
            "vlp-prep build nifti --raw {out}/raw/nifti --table reports.jsonl --map groups=state --ids keep"
            " --out {out}/shards/nifti",
        ),
        (
            "Read the DICOM series alike",
            "vlp-prep build dicom_folder --raw {out}/raw/dicom --series volume --table reports.csv"
            " --map accession=study report=report --split none --ids keep --workers 2 --out {out}/shards/dicom",
        ),
        (
            "Train a small dual encoder from scratch",
            'vlp-train {recipe} data.train=[{{"path":"{out}/shards/nifti","weight":0.95}},'
            '{{"path":"{out}/shards/dicom","weight":0.05}}] data.val={out}/shards/nifti out={out} name=model seed={seed}',
        ),
        (
            "Score the checkpoint zero-shot: retrieval, classification, grounding",
            "vlp-eval run --model {out}/model/last --suite synthetic_ct --data {out}/shards/nifti --out {out}/eval",
        ),
        (
            "Export it, reload the export in a fresh process, compare",
            "vlp-export {out}/model/last --to {out}/export",
        ),
    ),
    floors=(
        Floor(
            "volume to report, R@10 of 200",
            "retrieval",
            "i2t_r@10",
            0.45,
            (("chance", ".chance"), ("oracle", ".oracle")),
        ),
        Floor(
            "report to volume, R@10 of 200",
            "retrieval",
            "t2i_r@10",
            0.45,
            (("chance", ".chance"), ("oracle", ".oracle")),
        ),
        Floor("zero-shot macro AUROC, 6 larger findings", "classification", "auroc", 0.75, of=LARGE),
        Floor(
            "pointing game, 6 larger findings",
            "grounding",
            "pointing",
            0.75,
            (("another volume", "pointing_shuffled"), ("text alone", "pointing_prior")),
            of=LARGE,
        ),
        Floor(
            "pointing game, all 8 findings",
            "grounding",
            "pointing",
            "pointing_shuffled",
            (("another volume", "pointing_shuffled"), ("text alone", "pointing_prior")),
            above=("pointing_shuffled", 0.25),
        ),
    ),
)

if __name__ == "__main__":
    sys.exit(main(demo=VOLUMES))
