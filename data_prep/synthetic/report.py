"""Word a synthetic study: sentences in random order, synonyms, negations alone and together, and an impression.

All wording stands in the constants below, so that a test can prove what training texts never say: the sentences of
`EVAL_PROMPTS` and `EVAL_PHRASES` belong to evaluation alone. In templates `⟦...⟧` marks a mention of a finding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from vlp.sample import Assertion, Mention, Report

from .patient import FINDINGS, Instance, State

NAMES = {
    "consolidation": ("consolidation", "airspace consolidation", "airspace disease", "airspace opacity"),
    "nodule": ("nodule", "lung nodule", "pulmonary nodule", "nodular opacity"),
    "effusion": ("effusion", "pleural effusion", "pleural fluid collection"),
    "pneumothorax": ("pneumothorax",),
    "cardiomegaly": ("cardiomegaly", "cardiac enlargement", "enlargement of the heart"),
    "edema": ("edema", "pulmonary edema", "interstitial edema", "lung edema"),
    "atelectasis": ("atelectasis", "atelectatic change", "plate-like atelectasis"),
    "device": ("implanted device", "support device", "device"),
}
"""What a finding is called, the plain name first; a device that is there is called by `DEVICES`."""

DEVICES = {
    "pacemaker": ("pacemaker", "cardiac pacemaker", "pacemaker device", "implanted pacemaker device"),
    "port": ("port", "chest port", "port device", "implanted port device"),
}

MASS = ("consolidation", "airspace disease", "cardiomegaly", "enlargement", "edema", "atelectasis")
"""Names that take no article contain one of these."""

SIZE_WORDS = {
    ("consolidation", "small"): ("small", "patchy", "limited"),
    ("consolidation", "large"): ("large", "extensive", "dense"),
    ("nodule", "small"): ("small", "tiny"),
    ("effusion", "small"): ("small", "minor"),
    ("pneumothorax", "small"): ("small", "shallow"),
    ("edema", "mild"): ("mild", "slight"),
    ("atelectasis", "mild"): ("mild", "minor", "slight"),
    ("atelectasis", "severe"): ("marked", "extensive"),
}
GENERAL_SIZES = {"small": ("small",), "large": ("large", "sizeable"), "mild": ("mild",), "severe": ("severe", "marked")}

BEFORE = {
    "upper": ("{side} upper zone", "{side} upper lobe"),
    "mid": ("{side} mid zone", "{side} midzone"),
    "lower": ("{side} lower zone", "{side} lower lobe", "{side} basal"),
    "effusion": ("{side}", "{side}-sided"),
    "pneumothorax": ("{side} apical", "{side}-sided apical"),
    "edema": ("bilateral", "diffuse bilateral"),
    "device": ("{side}", "{side}-sided", "{side} chest wall"),
}
"""Places that stand before a name, by zone or by finding; `AFTER` those that follow it."""

AFTER = {
    "upper": ("in the {side} upper zone", "in the {side} upper lung", "in the upper zone of the {side} lung"),
    "mid": ("in the {side} mid zone", "in the {side} mid lung", "in the mid zone of the {side} lung"),
    "lower": ("in the {side} lower zone", "at the {side} base", "at the {side} lung base"),
    "effusion": ("on the {side}", "in the {side} pleural space", "layering on the {side}"),
    "pneumothorax": ("at the {side} apex", "in the {side} apex"),
    "edema": ("in both lungs", "throughout both lungs", "bilaterally"),
    "device": ("on the {side}", "in the {side} chest wall", "over the {side} chest"),
}
LOBES = {("right", "mid"): "in the right middle lobe", ("left", "mid"): "in the lingula"}

POSITIVE = {
    "northgate": (
        "There is {a} {np}.",
        "{A} {np} is noted.",
        "{A} {np} is identified.",
        "{A} {np} is present on the current study.",
        "We note {a} {np}.",
        "The study reveals {a} {np}.",
        "There is evidence of {a} {np}.",
    ),
    "harbour": (
        "{NP}.",
        "{NP} present.",
        "{NP} again seen.",
        "There is {a} {np}.",
        "{NP} is demonstrated.",
        "Appearances of {a} {np}.",
    ),
}
"""Sentences that state a finding, by site. `{np}` has size, name and place; `{a}` its article; capitals begin."""

STANDING = ("No interval change in the {np}.", "Unchanged {np}.")
HEDGED = ("Possible {np}.", "{A} {np} cannot be excluded.", "Appearances may represent {a} {np}.", "Suspected {np}.")
HEART = ("The {heart}.", "The {heart} on this projection.")
HEART_SPANS = {
    "mild": ("heart is mildly enlarged", "cardiac silhouette is mildly enlarged", "heart size is mildly increased"),
    "severe": (
        "heart is markedly enlarged",
        "cardiac silhouette is severely enlarged",
        "heart size is markedly increased",
    ),
}

NEGATIVE = (
    "No {x}.",
    "There is no {x}.",
    "No evidence of {x}.",
    "There is no evidence of {x}.",
    "No {x} is identified.",
    "No {x} seen.",
    "{X} is not seen.",
    "No visible {x}.",
)
JOINT = (
    "No {x} or {y}.",
    "There is no {x} or {y}.",
    "No evidence of {x} or {y}.",
    "Neither {x} nor {y} is identified.",
    "No {x}, {y} or {z}.",
    "There is no {x}, {y} or {z}.",
    "No evidence of {x}, {y}, or {z}.",
)
NORMAL_HEART = ("{S} is normal.", "{S} is within normal limits.")
NORMAL_HEART_SPANS = ("heart size", "cardiac silhouette", "heart")
CLEAR = ("The ⟦lungs are clear⟧.", "⟦Lungs are clear⟧.", "Both ⟦lungs are clear⟧.")
"""Said when there is no shadow in a lung; it denies what `CLEAR_DENIES` lists."""
CLEAR_DENIES = ("consolidation", "edema")
FILLERS = (
    "The trachea is midline.",
    "The mediastinal contours are unremarkable.",
    "Bony structures are intact.",
    "The visualized bones are unremarkable.",
    "Inspiration is adequate.",
    "The radiograph is of diagnostic quality.",
    "The film is slightly rotated.",
    "Single view of the chest can be compared with the earlier image.",
    "The radiograph shows the whole chest.",
    "The soft tissues are unremarkable.",
)
NORMAL = (
    "No acute cardiopulmonary abnormality.",
    "Normal chest radiograph.",
    "Unremarkable study.",
    "No acute abnormality.",
)
HEADINGS = {"northgate": ("FINDINGS:", "IMPRESSION:"), "harbour": ("Findings:", "Conclusion:")}

EVAL_NAMES = {
    "consolidation": "consolidation",
    "nodule": "a pulmonary nodule",
    "effusion": "a pleural effusion",
    "pneumothorax": "a pneumothorax",
    "cardiomegaly": "cardiomegaly",
    "edema": "pulmonary edema",
    "atelectasis": "atelectasis",
    "device": "an implanted device",
}
EVAL_FRAMES = (
    ("The radiograph shows {a}.", "The radiograph shows no {x}."),
    ("{A} can be seen on this image.", "No {x} can be seen on this image."),
    ("{A} is visible in the chest.", "{A} is not visible in the chest."),
    ("On this film we see {a}.", "On this film we see no {x}."),
)


def _bare(name: str) -> str:
    return re.sub("^(a|an) ", "", name)


def _fill(frame: str, name: str) -> str:
    return frame.format(a=name, A=name[0].upper() + name[1:], x=_bare(name))


EVAL_PROMPTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    finding: (
        tuple(_fill(affirm, EVAL_NAMES[finding]) for affirm, _ in EVAL_FRAMES),
        tuple(_fill(deny, EVAL_NAMES[finding]) for _, deny in EVAL_FRAMES),
    )
    for finding in FINDINGS
}
"""Finding -> (affirming, denying) prompts for zero-shot scores: sentences that no training text contains.

They are made of words that training texts use, since a tower trained from scratch knows no others; neither are they the
"there is X" that the assertion objective is trained with.
"""

EVAL_PHRASES = {finding: _bare(name) for finding, name in EVAL_NAMES.items()}
"""Finding -> a phrase without any place, for grounding: training sentences always say where, or how large."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What a sentence says of a finding."""

    code: str
    assertion: Assertion
    side: str | None = None
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence with marked mentions, and one or more facts for each mark: `facts[i]` belong to the i-th."""

    marked: str
    facts: tuple[tuple[Fact, ...], ...] = ()


class Writer:
    """Draws the words for one study."""

    def __init__(self, state: State, rng: np.random.Generator) -> None:
        self.state, self.rng = state, rng
        self.site = state.patient.site

    def pick(self, options: tuple[str, ...]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def name(self, instance: Instance) -> str:
        return self.pick(DEVICES[instance.size] if instance.finding == "device" else NAMES[instance.finding])

    def phrase(self, instance: Instance, name: str, before: bool) -> str:
        """Return size, marked name and place, without an article."""
        words = [] if instance.finding == "device" else [self.pick(size_words(instance))]
        lobe = LOBES.get((instance.side, instance.zone))
        if lobe and instance.finding != "pneumothorax" and not before and self.rng.random() < 0.3:
            return " ".join([*words, f"⟦{name}⟧", lobe])
        places = (BEFORE if before else AFTER).get(place_kind(instance))
        place = [self.pick(places).format(side=instance.side)] if places else []
        return " ".join([*words, *place, f"⟦{name}⟧"] if before else [*words, f"⟦{name}⟧", *place])

    def present(self, instance: Instance) -> Sentence:
        """State a finding that is there, now and then as only possible."""
        assertion: Assertion = "present"
        if instance.size in ("small", "mild") and self.rng.random() < 0.04:
            frame, assertion = self.pick(HEDGED), "uncertain"
        elif instance.finding in ("device", "cardiomegaly") and self.rng.random() < 0.06:
            frame = self.pick(STANDING)
        elif instance.finding == "cardiomegaly" and self.rng.random() < 0.45:
            marked = f"⟦{self.pick(HEART_SPANS[instance.size])}⟧"
            return Sentence(self.pick(HEART).format(heart=marked), ((fact(instance, "present"),),))
        else:
            frame = self.pick(POSITIVE[self.site])
        name = self.name(instance)
        # a sentence of nothing but "small nodule in the right upper zone" is a phrase of a box: not for training
        before = frame == "{NP}." or bool(self.rng.random() < 0.4)
        return Sentence(worded(frame, self.phrase(instance, name, before), name), ((fact(instance, assertion),),))

    def absent(self, findings: list[str]) -> list[Sentence]:
        """Deny some of the findings that are not there, alone, in twos and threes, or by calling something normal."""
        sentences = []
        shadows = ("consolidation", "nodule", "edema", "atelectasis")
        if not any(self.state.has(code) for code in shadows) and self.rng.random() < 0.4:
            facts = tuple(Fact(code, "absent") for code in CLEAR_DENIES)
            sentences.append(Sentence(self.pick(CLEAR), (facts,)))
            findings = [code for code in findings if code not in CLEAR_DENIES]
        if "cardiomegaly" in findings and self.rng.random() < 0.6:
            subject, frame = self.pick(NORMAL_HEART_SPANS), self.pick(NORMAL_HEART).removesuffix(".")
            marked = f"{'The ' if self.site == 'northgate' else ''}⟦{frame.format(S=subject)}⟧."
            sentences.append(Sentence(capital(marked), ((Fact("cardiomegaly", "absent"),),)))
            findings = [code for code in findings if code != "cardiomegaly"]
        while findings:
            count = min(len(findings), int(self.rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2])))
            group, findings = findings[:count], findings[count:]
            several = [frame for frame in JOINT if ("{z}" in frame) == (count == 3)]
            frames = NEGATIVE if count == 1 else tuple(several)
            marks = [f"⟦{self.pick(NAMES[code])}⟧" for code in group]
            slots = dict(zip("xyz", marks, strict=False))
            marked = capital(self.pick(frames).format(X=marks[0], **slots))
            sentences.append(Sentence(marked, tuple((Fact(code, "absent"),) for code in group)))
        return sentences

    def findings(self) -> list[Sentence]:
        """Return the sentences of the findings section, in random order."""
        sentences = [self.present(instance) for instance in self.state.instances]
        rate = 0.46 if self.state.instances else 0.6
        absent = [code for code in FINDINGS if not self.state.has(code) and self.rng.random() < rate]
        self.rng.shuffle(absent)
        others = self.absent(absent)
        wanted = int(self.rng.integers(0, 2)) + (2 if len(sentences) + len(others) < 2 else 0)
        others += [Sentence(FILLERS[number]) for number in self.rng.permutation(len(FILLERS))[:wanted]]
        sentences += others[: max(0, 7 - len(sentences))]
        return [sentences[number] for number in self.rng.permutation(len(sentences))]

    def impression(self) -> list[Sentence]:
        """Return up to three of the findings in few words, or that there are none."""
        chosen = [self.state.instances[i] for i in self.rng.permutation(len(self.state.instances))[:3]]
        if not chosen:
            return [Sentence(self.pick(NORMAL))]
        parts = [
            (self.phrase(instance, self.name(instance), True), (fact(instance, "present"),)) for instance in chosen
        ]
        if len(parts) == 2 and self.rng.random() < 0.3:
            return [Sentence(capital(f"{parts[0][0]} and {parts[1][0]}."), (parts[0][1], parts[1][1]))]
        return [Sentence(capital(f"{marked}."), (facts,)) for marked, facts in parts]


def size_words(instance: Instance) -> tuple[str, ...]:
    """Return the words that training texts use for an instance's size."""
    return SIZE_WORDS.get((instance.finding, instance.size), GENERAL_SIZES.get(instance.size, ()))


def place_kind(instance: Instance) -> str:
    """Return the key into `BEFORE` and `AFTER`: the zone where the finding is placed by zone, else the finding."""
    return instance.zone if instance.zone and instance.finding != "pneumothorax" else instance.finding


def fact(instance: Instance, assertion: Assertion) -> Fact:
    return Fact(instance.finding, assertion, instance.side or None, instance.zone or None)


def capital(marked: str) -> str:
    """Return a sentence with its first letter, inside a mark or not, in upper case."""
    first = 1 if marked.startswith("⟦") else 0
    return marked[:first] + marked[first].upper() + marked[first + 1 :]


def worded(frame: str, phrase: str, name: str) -> str:
    """Put a phrase into a frame, with the article that its name and its first letter ask for."""
    article = "an" if phrase.lstrip("⟦")[0] in "aeiou" else "a"
    article = "" if any(word in name for word in MASS) else article
    text = frame.format(a=article, A=article, np=phrase, NP=phrase)
    return capital(re.sub(" +", " ", text).strip())


def describe(instance: Instance) -> str:
    """Return a box's phrase: size, plain name and place, never a whole sentence of a training text."""
    if instance.finding == "device":
        return f"{instance.size} on the {instance.side}"
    if instance.finding == "cardiomegaly":
        return f"{'mildly' if instance.size == 'mild' else 'markedly'} enlarged heart"
    place = {
        "effusion": f"on the {instance.side}",
        "pneumothorax": f"at the {instance.side} apex",
        "edema": "in both lungs",
    }.get(instance.finding, f"in the {instance.side} {instance.zone} zone")
    return f"{instance.size} {NAMES[instance.finding][0]} {place}"


def write(state: State, rng: np.random.Generator) -> tuple[Report, tuple[Mention, ...]]:
    """Return the report of a study and the exact spans of what it says."""
    writer = Writer(state, rng)
    text = ""
    spans: list[tuple[int, int]] = []
    sections: dict[str, tuple[int, int]] = {}
    mentions: list[Mention] = []
    numbered = state.patient.site == "harbour"
    for section, heading, sentences in zip(
        ("findings", "impression"), HEADINGS[writer.site], (writer.findings(), writer.impression()), strict=True
    ):
        text += ("\n" if text else "") + heading + " "
        begin = len(text)
        for number, sentence in enumerate(sentences, 1):
            if number > 1:
                text += " "
            if numbered and section == "impression" and len(sentences) > 1:
                text += f"{number}. "
            start = len(text)
            marks = iter(sentence.facts)
            for piece in re.split("(⟦[^⟧]*⟧)", sentence.marked):
                if piece.startswith("⟦"):
                    word = piece[1:-1]
                    for said in next(marks):
                        place = (len(text), len(text) + len(word))
                        mentions.append(
                            Mention(
                                word,
                                said.code,
                                *place,
                                said.assertion,
                                said.side,
                                said.zone,
                            )
                        )
                    text += word
                else:
                    text += piece
            spans.append((start, len(text)))
        sections[section] = (begin, len(text))
    return Report(text, tuple(spans), sections), tuple(mentions)
