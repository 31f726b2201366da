"""Sources: one file per data set layout, entered into `base.sources` on import. Add yours to the imports below."""

# ruff: noqa: F401
from . import (
    chestx_det10,
    chexpert,
    chexpert5x200,
    chexpert8x200,
    coco,
    covid_chestxray,
    ct_rate,
    dicom_folder,
    hf,
    inspect,
    label_captions,
    linked_concepts,
    m3d_cap,
    merlin,
    mimic_cxr,
    ms_cxr,
    nifti,
    nih_cxr14,
    openi,
    padchest,
    pairs,
    pmc_oa,
    quilt1m,
    rad_chestct,
    roco,
    rsna_pneumonia,
    siim_acr,
    synthetic,
    synthetic_ct,
    vindr_cxr,
    voc,
    vqa_rad,
    yolo,
)
from .base import Source, sources

__all__ = ["Source", "sources"]
