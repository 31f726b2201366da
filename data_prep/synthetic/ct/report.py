"""Word a synthetic chest CT: sentences in random order, synonyms, negations, and an impression.

Wording of training stands in the constants below; those of `EVAL_PROMPTS`, `EVAL_PHRASES` and `phrase` belong
to evaluation alone.
"""

from __future__ import annotations

import numpy as np

from vlp.sample import Report

from ..sentences import Sentence, bare, capital, joined, pick, prompts_of, worded
from .state import FINDINGS, Instance, State

NAMES = {
    "nodule": ("nodule", "lung nodule", "pulmonary nodule", "nodular opacity"),
    "mass": ("mass", "lung mass", "pulmonary mass"),
    "consolidation": ("consolidation", "airspace consolidation", "airspace disease"),
    "effusion": ("effusion", "pleural effusion", "pleural fluid collection"),
    "emphysema": ("emphysema", "centrilobular emphysema", "emphysematous change"),
    "pneumothorax": ("pneumothorax",),
    "calcification": ("calcification", "coarse calcification"),
    "cardiomegaly": ("cardiomegaly", "cardiac enlargement", "enlarged heart"),
}
UNCOUNTED = ("consolidation", "disease", "emphysema", "change", "calcification", "cardiomegaly", "enlargement")
"""Names that end in one of these take no article."""

SIZES = {
    "small": ("small", "limited"),
    "large": ("large", "extensive"),
    "mild": ("mild", "slight"),
    "marked": ("marked", "severe"),
}
WHERE = {
    "effusion": ("on the {side}", "in the {side} pleural space", "layering on the {side}"),
    "pneumothorax": ("on the {side}", "in the {side} hemithorax", "anteriorly on the {side}"),
    "emphysema": ("in the {side} upper lobe", "in the {side} apex", "in the upper part of the {side} lung"),
    "aorta": ("by the descending vessel", "in the back of the mediastinum"),
    "heart": ("in front of the heart", "in the front of the mediastinum"),
    "cardiomegaly": ("",),
}
IN_LOBE = ("in the {side} {lobe} lobe", "within the {side} {lobe} lobe")
LEVEL = ("at the level of the {level}", "at {level} level")
POSITIVE = (
    "There is {a} {np}.",
    "{NP} is noted.",
    "{NP} is present on this study.",
    "We note {a} {np}.",
    "{NP}.",
    "The study reveals {a} {np}.",
)
NEGATIVE = ("No {x}.", "There is no {x}.", "No evidence of {x}.", "No {x} is identified.", "{X} is not seen.")
NORMAL = ("No acute abnormality of the chest.", "Normal chest CT.", "Unremarkable study.")

EVAL_NAMES = {
    "nodule": "a pulmonary nodule",
    "mass": "a pulmonary mass",
    "consolidation": "airspace consolidation",
    "effusion": "a pleural effusion",
    "emphysema": "emphysema",
    "pneumothorax": "a pneumothorax",
    "calcification": "calcification",
    "cardiomegaly": "cardiomegaly",
}
EVAL_PLACES = {
    "effusion": "{side} pleural space",
    "pneumothorax": "{side} hemithorax",
    "emphysema": "{side} upper lobe",
    "aorta": "back of the mediastinum",
    "heart": "front of the mediastinum",
}
EVAL_FRAMES = (
    ("The CT shows {a}.", "The CT shows no {x}."),
    ("{A} can be seen on this scan.", "No {x} can be seen on this scan."),
    ("{A} is visible in the chest.", "{A} is not visible in the chest."),
    ("On this CT we see {a}.", "On this CT we see no {x}."),
)


EVAL_PHRASES = {finding: bare(name) for finding, name in EVAL_NAMES.items()}
"""Finding -> a phrase without size and place, for grounding."""
EVAL_PROMPTS = prompts_of(EVAL_NAMES, EVAL_FRAMES)
"""Finding -> (affirming, denying) prompts for zero-shot scores: sentences that no training text contains."""


def write(state: State, rng: np.random.Generator) -> Report:
    """Return the report of a study, its sentences and its two sections."""
    stated = [_present(instance, rng) for instance in state.instances]
    denied = [
        _filled(pick(NEGATIVE, rng), pick(NAMES[finding], rng))
        for finding in FINDINGS
        if not state.has(finding) and rng.random() < 0.45
    ]
    found = stated + denied or [pick(NORMAL, rng)]
    findings = [found[number] for number in rng.permutation(len(found))]
    impression = [capital(f"{_named(instance, rng)}.") for instance in state.instances[:3]] or [pick(NORMAL, rng)]
    report, _ = joined(
        (name, f"{name.upper()}:", [Sentence(text) for text in texts])
        for name, texts in (("findings", findings), ("impression", impression))
    )
    return report


def phrase(instance: Instance) -> str:
    """Return a box's phrase, size, name and place, in words that no training text puts together like this."""
    if instance.finding == "cardiomegaly":
        return f"{instance.size} enlargement of the heart"
    kind = instance.lobe if instance.lobe in EVAL_PLACES else instance.finding
    place = EVAL_PLACES.get(kind, "{side} {lobe} lobe").format(side=instance.side, lobe=instance.lobe)
    return f"{instance.size} {NAMES[instance.finding][0]} of the {place}"


def _present(instance: Instance, rng: np.random.Generator) -> str:
    named = _named(instance, rng)
    if instance.finding != "cardiomegaly" and rng.random() < 0.6:
        named = f"{named} {pick(LEVEL, rng).format(level=instance.level)}"
    is_counted = not any(name in named for name in UNCOUNTED)
    return worded(pick(POSITIVE, rng), named, is_counted)


def _named(instance: Instance, rng: np.random.Generator) -> str:
    words = (pick(SIZES[instance.size], rng), pick(NAMES[instance.finding], rng), _place(instance, rng))
    return " ".join(word for word in words if word)


def _place(instance: Instance, rng: np.random.Generator) -> str:
    kinds = WHERE.get(instance.finding) or WHERE.get(instance.lobe) or IN_LOBE
    return pick(kinds, rng).format(side=instance.side, lobe=instance.lobe)


def _filled(frame: str, name: str) -> str:
    return frame.format(x=name, X=capital(name))
