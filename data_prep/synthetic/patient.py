"""What is true of a synthetic study, before it is drawn or described: the patient, the site and the findings.

Everything is a pure function of (index, seed). `render.py` draws a `State`, `report.py` words it, `generate.py`
puts both into a `Sample`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FINDINGS = ("consolidation", "nodule", "effusion", "pneumothorax", "cardiomegaly", "edema", "atelectasis", "device")

PREVALENCE = {
    "consolidation": 0.24,
    "nodule": 0.22,
    "effusion": 0.24,
    "pneumothorax": 0.20,
    "cardiomegaly": 0.22,
    "edema": 0.18,
    "atelectasis": 0.20,
    "device": 0.22,
}
"""How often a study has a finding, drawn independently: about 15 % of studies have none."""

SECOND = {"consolidation": 0.12, "nodule": 0.15, "effusion": 0.2}
"""How often a finding that is there is there twice, elsewhere."""

SIZES = {
    "cardiomegaly": ("mild", "severe"),
    "edema": ("mild", "severe"),
    "atelectasis": ("mild", "severe"),
    "device": ("pacemaker", "port"),
}
"""What tells two instances of a finding in one place apart; ("small", "large") where nothing is said here."""

SITES = ("northgate", "harbour")
AGES = ("18-39", "40-64", "65+")

_BLOCK = 6
_STATE, _PATIENT = 1, 2  # streams of random numbers: see `stream`


@dataclass(frozen=True, slots=True)
class Instance:
    """One finding in one place. `zone` is "" for findings that have none, `side` "" for the heart."""

    finding: str
    side: str
    zone: str
    size: str

    def __str__(self) -> str:
        return ":".join((self.finding, self.side, self.zone, self.size))


@dataclass(frozen=True, slots=True)
class Patient:
    """What a patient keeps from study to study; `number` is unique within a seed."""

    number: int
    sex: str
    age: str
    site: str
    width: float
    height: float
    chronic: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class State:
    """All that is true of one study."""

    patient: Patient
    instances: tuple[Instance, ...]

    def __str__(self) -> str:
        return ";".join(sorted(str(instance) for instance in self.instances)) or "normal"

    def has(self, finding: str) -> bool:
        return any(instance.finding == finding for instance in self.instances)


def stream(seed: int, kind: int, number: int) -> np.random.Generator:
    """Return the random numbers of one purpose: state, patient, image and text never share any."""
    return np.random.Generator(np.random.PCG64([seed, kind, number]))


def draw_state(index: int, seed: int) -> State:
    """Draw the study `index` of the world `seed` (both >= 0); studies of one patient have consecutive indices."""
    patient = draw_patient(index, seed)
    rng = stream(seed, _STATE, index)
    instances = list(patient.chronic)
    taken: set[tuple[str, str]] = set()
    for finding in FINDINGS:
        if finding in ("cardiomegaly", "device"):
            continue
        if rng.random() < PREVALENCE[finding]:
            count = 2 if rng.random() < SECOND.get(finding, 0.0) else 1
            for _ in range(count):
                instance = _place(finding, taken, rng)
                if instance is not None:
                    instances.append(instance)
    return State(patient, tuple(sorted(instances, key=lambda instance: FINDINGS.index(instance.finding))))


def _place(finding: str, taken: set[tuple[str, str]], rng: np.random.Generator) -> Instance | None:
    """Put a finding into a part of a lung that holds none yet: what lies under something else cannot be seen."""
    size = _size(finding, rng)
    if finding == "edema":
        return Instance(finding, "bilateral", "", size)
    zones = {
        "effusion": ("lower",),
        "pneumothorax": ("upper",),
        "atelectasis": ("mid", "lower", "lower"),
    }.get(finding, ("upper", "mid", "lower"))
    free = [(side, zone) for side in ("right", "left") for zone in zones if (side, zone) not in taken]
    if not free:
        return None
    side, zone = free[int(rng.integers(len(free)))]
    taken.add((side, zone))
    return Instance(finding, side, "" if finding == "effusion" else zone, size)


def _size(finding: str, rng: np.random.Generator) -> str:
    return SIZES.get(finding, ("small", "large"))[int(rng.integers(2))]


def draw_patient(index: int, seed: int) -> Patient:
    """Return whose study this is: each block of six indices is divided among patients with one to three studies."""
    if index < 0 or seed < 0:
        raise ValueError(f"a synthetic study needs index >= 0 and seed >= 0, not index {index} and seed {seed}")
    block, place = divmod(index, _BLOCK)
    rng = stream(seed, _PATIENT, block)
    first, number = 0, 0
    while True:
        studies = int(rng.integers(1, 4))
        last = min(first + studies, _BLOCK)
        chronic = []
        if rng.random() < PREVALENCE["cardiomegaly"]:
            chronic.append(Instance("cardiomegaly", "", "", _size("cardiomegaly", rng)))
        if rng.random() < PREVALENCE["device"]:
            side = ("right", "left")[int(rng.integers(2))]
            chronic.append(Instance("device", side, "", _size("device", rng)))
        patient = Patient(
            number=block * _BLOCK + number,
            sex=("F", "M")[int(rng.integers(2))],
            age=AGES[int(rng.integers(3))],
            site=SITES[int(rng.integers(2))],
            width=float(rng.uniform(0.94, 1.06)),
            height=float(rng.uniform(0.94, 1.06)),
            chronic=tuple(chronic),
        )
        if place < last:
            return patient
        first, number = last, number + 1
