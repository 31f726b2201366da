"""Synthetic chest radiographs with reports: a data set for the demo, and a world with exact answers for tests.

`generate(index, seed)` is the whole interface; the same arguments give the same bytes, and the state and the report do
not depend on the size of the image. What it is not: a model of disease. Findings are independent, drawn where nothing
hides them, and each is there or not.
"""

from __future__ import annotations

from vlp.sample import Box, Sample

from .patient import FINDINGS, draw_patient, draw_state, stream
from .render import render
from .report import describe, write

_IMAGE, _TEXT = 3, 4


def identify(index: int, seed: int) -> tuple[str, str, str]:
    """Return key, patient and study of a sample without drawing it; raises ValueError for a negative index or seed."""
    return f"synthetic-{seed}-{index:07d}", f"p{seed}-{draw_patient(index, seed).number}", f"s{seed}-{index}"


def generate(index: int, seed: int, size: int = 128) -> Sample:
    """Return study `index` of the world `seed`: image uint8 [size, size], report, labels, boxes and exact mentions.

    `labels` says 1 or 0 for each of `FINDINGS`; `boxes` has one box for each instance, in pixels; `groups["state"]` is
    the same string exactly when two studies show the same findings, sizes and places. One to three consecutive indices
    share a patient. Raises ValueError for a negative index or seed, or a size under 32.
    """
    if size < 32:
        raise ValueError(f"a synthetic radiograph of {size} pixels shows nothing: size must be at least 32")
    state = draw_state(index, seed)
    image, spans = render(state, size, [seed, _IMAGE, index])
    report, mentions = write(state, stream(seed, _TEXT, index))
    patient = state.patient
    key, person, study = identify(index, seed)
    return Sample(
        key=key,
        image=image,
        report=report,
        study=study,
        patient=person,
        modality="CR",
        view="PA",
        labels={finding: int(state.has(finding)) for finding in FINDINGS},
        concepts=mentions,
        boxes=tuple(
            Box(describe(instance), span, instance.finding)
            for instance, span in zip(state.instances, spans, strict=True)
        ),
        groups={"site": patient.site, "sex": patient.sex, "age": patient.age, "state": str(state)},
        source="synthetic",
        licence="CC0-1.0",
    )
