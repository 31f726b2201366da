"""Word a synthetic study: sentences in random order, synonyms, negations alone and together, and an impression.

All wording stands in `wording.yaml`, so that a test can prove what training texts never say: the sentences of `EVAL_PROMPTS`
and `EVAL_PHRASES` belong to evaluation alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vlp.core.config import config, read_yaml, validate
from vlp.sample import Assertion, Mention, Report

from .patient import FINDINGS, Instance, State
from .sentences import Fact, Sentence, Texts, bare, capital, joined, pick, prompts_of, worded


@config
class Wording:
    """What `wording.yaml` holds: see the comments there."""

    names: dict[str, Texts]
    devices: dict[str, Texts]
    mass: Texts
    sizes: dict[str, dict[str, Texts]]
    general_sizes: dict[str, Texts]
    before: dict[str, Texts]
    after: dict[str, Texts]
    lobes: dict[str, str]
    positive: dict[str, Texts]
    standing: Texts
    hedged: Texts
    heart: Texts
    heart_spans: dict[str, Texts]
    negative: Texts
    joint: Texts
    normal_heart: Texts
    normal_heart_spans: Texts
    clear: Texts
    clear_denies: Texts
    fillers: Texts
    normal: Texts
    headings: dict[str, tuple[str, str]]
    eval_names: dict[str, str]
    eval_frames: tuple[tuple[str, str], ...]


WORDING = validate(Wording, read_yaml(Path(__file__).parent / "wording.yaml"), "wording.yaml")

EVAL_PROMPTS = prompts_of(WORDING.eval_names, WORDING.eval_frames)
"""Finding -> (affirming, denying) prompts for zero-shot scores: sentences that no training text contains.

They are made of words that training texts use, since a tower trained from scratch knows no others; neither are they the
"there is X" that the assertion objective is trained with.
"""

EVAL_PHRASES = {finding: bare(name) for finding, name in WORDING.eval_names.items()}
"""Finding -> a phrase without any place, for grounding: training sentences always say where, or how large."""


class Writer:
    """Draws the words for one study."""

    def __init__(self, state: State, rng: np.random.Generator) -> None:
        self.state, self.rng = state, rng
        self.site = state.patient.site

    def pick(self, options: Texts) -> str:
        return pick(options, self.rng)

    def name(self, instance: Instance) -> str:
        return self.pick(
            WORDING.devices[instance.size] if instance.finding == "device" else WORDING.names[instance.finding]
        )

    def phrase(self, instance: Instance, name: str, before: bool) -> str:
        """Return size, marked name and place, without an article."""
        words = [] if instance.finding == "device" else [self.pick(size_words(instance))]
        lobe = WORDING.lobes.get(f"{instance.side} {instance.zone}")
        if lobe and instance.finding != "pneumothorax" and not before and self.rng.random() < 0.3:
            return " ".join([*words, f"⟦{name}⟧", lobe])
        places = (WORDING.before if before else WORDING.after).get(place_kind(instance))
        place = [self.pick(places).format(side=instance.side)] if places else []
        return " ".join([*words, *place, f"⟦{name}⟧"] if before else [*words, f"⟦{name}⟧", *place])

    def present(self, instance: Instance) -> Sentence:
        """State a finding that is there, now and then as only possible."""
        assertion: Assertion = "present"
        if instance.size in ("small", "mild") and self.rng.random() < 0.04:
            frame, assertion = self.pick(WORDING.hedged), "uncertain"
        elif instance.finding in ("device", "cardiomegaly") and self.rng.random() < 0.06:
            frame = self.pick(WORDING.standing)
        elif instance.finding == "cardiomegaly" and self.rng.random() < 0.45:
            marked = f"⟦{self.pick(WORDING.heart_spans[instance.size])}⟧"
            return Sentence(self.pick(WORDING.heart).format(heart=marked), ((fact(instance, "present"),),))
        else:
            frame = self.pick(WORDING.positive[self.site])
        name = self.name(instance)
        # a sentence of nothing but "small nodule in the right upper zone" is a phrase of a box: not for training
        before = frame == "{NP}." or bool(self.rng.random() < 0.4)
        is_counted = not any(word in name for word in WORDING.mass)
        return Sentence(worded(frame, self.phrase(instance, name, before), is_counted), ((fact(instance, assertion),),))

    def absent(self, findings: list[str]) -> list[Sentence]:
        """Deny some of the findings that are not there, alone, in twos and threes, or by calling something normal."""
        sentences = []
        shadows = ("consolidation", "nodule", "edema", "atelectasis")
        if not any(self.state.has(code) for code in shadows) and self.rng.random() < 0.4:
            facts = tuple(Fact(code, "absent") for code in WORDING.clear_denies)
            sentences.append(Sentence(self.pick(WORDING.clear), (facts,)))
            findings = [code for code in findings if code not in WORDING.clear_denies]
        if "cardiomegaly" in findings and self.rng.random() < 0.6:
            subject, frame = self.pick(WORDING.normal_heart_spans), self.pick(WORDING.normal_heart).removesuffix(".")
            marked = f"{'The ' if self.site == 'northgate' else ''}⟦{frame.format(S=subject)}⟧."
            sentences.append(Sentence(capital(marked), ((Fact("cardiomegaly", "absent"),),)))
            findings = [code for code in findings if code != "cardiomegaly"]
        while findings:
            count = min(len(findings), int(self.rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2])))
            group, findings = findings[:count], findings[count:]
            several = [frame for frame in WORDING.joint if ("{z}" in frame) == (count == 3)]
            frames = WORDING.negative if count == 1 else tuple(several)
            marks = [f"⟦{self.pick(WORDING.names[code])}⟧" for code in group]
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
        others += [Sentence(WORDING.fillers[number]) for number in self.rng.permutation(len(WORDING.fillers))[:wanted]]
        sentences += others[: max(0, 7 - len(sentences))]
        return [sentences[number] for number in self.rng.permutation(len(sentences))]

    def impression(self) -> list[Sentence]:
        """Return up to three of the findings in few words, or that there are none."""
        chosen = [self.state.instances[i] for i in self.rng.permutation(len(self.state.instances))[:3]]
        if not chosen:
            return [Sentence(self.pick(WORDING.normal))]
        parts = [
            (self.phrase(instance, self.name(instance), True), (fact(instance, "present"),)) for instance in chosen
        ]
        if len(parts) == 2 and self.rng.random() < 0.3:
            return [Sentence(capital(f"{parts[0][0]} and {parts[1][0]}."), (parts[0][1], parts[1][1]))]
        return [Sentence(capital(f"{marked}."), (facts,)) for marked, facts in parts]


def size_words(instance: Instance) -> tuple[str, ...]:
    """Return the words that training texts use for an instance's size."""
    return WORDING.sizes.get(instance.finding, {}).get(instance.size) or WORDING.general_sizes.get(instance.size, ())


def place_kind(instance: Instance) -> str:
    """Return the key into `before` and `after`: the zone where the finding is placed by zone, else the finding."""
    return instance.zone if instance.zone and instance.finding != "pneumothorax" else instance.finding


def fact(instance: Instance, assertion: Assertion) -> Fact:
    return Fact(instance.finding, assertion, instance.side or None, instance.zone or None)


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
    return f"{instance.size} {WORDING.names[instance.finding][0]} {place}"


def write(state: State, rng: np.random.Generator) -> tuple[Report, tuple[Mention, ...]]:
    """Return the report of a study and the exact spans of what it says."""
    writer = Writer(state, rng)
    findings, impression = WORDING.headings[writer.site]
    sections = (("findings", findings, writer.findings()), ("impression", impression, writer.impression()))
    return joined(sections, "impression" if writer.site == "harbour" else "")
