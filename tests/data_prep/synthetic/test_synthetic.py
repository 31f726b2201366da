"""The synthetic world keeps its promises: pure, exact boxes and spans, and evaluation words that training never says."""

import hashlib
import re
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from vlp.sample import Sample
from vlp_prep.synthetic.generate import generate, identify
from vlp_prep.synthetic.patient import FINDINGS, PREVALENCE, Instance, State, draw_state, stream
from vlp_prep.synthetic.render import render
from vlp_prep.synthetic.report import EVAL_PHRASES, EVAL_PROMPTS, WORDING, describe, write

MANY = 2500


@pytest.fixture(scope="module")
def states() -> list[State]:
    return [draw_state(index, 11) for index in range(MANY)]


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [generate(index, 11, size=96) for index in range(120)]


@pytest.fixture(scope="module")
def sentences(states: list[State]) -> set[str]:
    """Every sentence of many reports, in lower case and without punctuation."""
    found = set()
    for index, state in enumerate(states):
        report, _ = write(state, stream(11, 4, index))
        found |= {plain(report.text[start:end]) for start, end in report.sentences}
    return found


def plain(sentence: str) -> str:
    return " ".join(re.findall(r"[a-z0-9'-]+", sentence.lower()))


def fingerprint(sample: Sample) -> str:
    assert isinstance(sample.image, np.ndarray)
    return hashlib.sha256(sample.image.tobytes() + repr(sample.to_json()).encode()).hexdigest()


def test_a_sample_is_a_function_of_index_seed_and_size_in_any_process() -> None:
    here = [fingerprint(generate(index, 5, 64)) for index in (0, 7, 1000)]
    assert here == [fingerprint(generate(index, 5, 64)) for index in (0, 7, 1000)]
    program = (
        "import sys, hashlib; from vlp_prep.synthetic.generate import generate\n"
        "for i in (0, 7, 1000):\n"
        "    s = generate(i, 5, 64)\n"
        "    print(hashlib.sha256(s.image.tobytes() + repr(s.to_json()).encode()).hexdigest())\n"
        "assert 'torch' not in sys.modules"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert there.stdout.split() == here
    assert len({*here, fingerprint(generate(0, 6, 64)), fingerprint(generate(0, 5, 65))}) == 5


def test_the_report_and_the_state_do_not_depend_on_the_size_and_boxes_scale_with_it() -> None:
    for index in range(12):
        small, large = generate(index, 3, 96), generate(index, 3, 192)
        assert small.report == large.report and small.groups == large.groups and small.concepts == large.concepts
        for one, other in zip(small.boxes, large.boxes, strict=True):
            assert np.allclose(np.array(one.xyxy) * 2, other.xyxy, atol=7), (index, one, other)


def test_images_labels_boxes_and_groups_agree(samples: list[Sample]) -> None:
    for sample in samples:
        image = sample.image
        assert isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == (96, 96)
        assert 15 < image.mean() < 220 and image.std() > 15
        assert tuple(sample.labels) == FINDINGS
        assert {name for name, value in sample.labels.items() if value} == {box.label for box in sample.boxes}
        named = set() if sample.groups["state"] == "normal" else set(sample.groups["state"].split(";"))
        assert len(named) == len(sample.boxes)
        assert {one.split(":")[0] for one in named} == {box.label for box in sample.boxes}
        assert {"site", "sex", "age", "state"} <= set(sample.groups)
        for box in sample.boxes:
            x1, y1, x2, y2 = box.xyxy
            assert 0 <= x1 < x2 <= 96 and 0 <= y1 < y2 <= 96 and box.phrase


def test_spans_point_at_what_they_say(samples: list[Sample]) -> None:
    for sample in samples:
        report = sample.report
        assert report is not None and set(report.sections) == {"findings", "impression"}
        assert report.findings and report.impression and "⟦" not in report.text
        for mention in sample.concepts:
            assert report.text[mention.start : mention.end] == mention.text
            assert any(start <= mention.start and mention.end <= end for start, end in report.sentences)
        ends = [0, *(end for _, end in report.sentences)]
        assert all(start >= before for before, (start, _) in zip(ends, report.sentences, strict=False))
        said = {(one.code, one.assertion == "absent") for one in sample.concepts}
        for finding, present in sample.labels.items():
            assert (finding, bool(present)) not in said, "a report contradicts its image"
            assert not present or (finding, False) in said, "a finding that is there is left out"


def test_prevalence_patients_and_variety(states: list[State]) -> None:
    counts = Counter(finding for state in states for finding in FINDINGS if state.has(finding))
    for finding in FINDINGS:
        assert 0.14 <= counts[finding] / MANY <= 0.27, (finding, counts[finding] / MANY)
        assert 0.14 <= PREVALENCE[finding] <= 0.24
    normal = sum(str(state) == "normal" for state in states) / MANY
    assert 0.11 <= normal <= 0.19
    assert len({str(state) for state in states[:1040]}) >= 500, (
        "too few states to draw 500 distinct ones from a test split"
    )
    studies = defaultdict(list)
    for index, state in enumerate(states):
        studies[state.patient.number].append(index)
        assert state.patient == states[studies[state.patient.number][0]].patient
    runs = Counter(len(one) for one in list(studies.values())[:-1])
    assert set(runs) == {1, 2, 3}
    assert all(one == list(range(one[0], one[0] + len(one))) for one in studies.values())
    assert identify(4, 11)[:2] == (generate(4, 11, 64).key, generate(4, 11, 64).patient)


def test_reports_have_the_length_and_the_order_of_no_fixed_form(states: list[State]) -> None:
    reports = [write(state, stream(11, 4, index))[0] for index, state in enumerate(states[:600])]
    words = [len(report.text.split()) for report in reports]
    assert 30 <= float(np.mean(words)) <= 46 and max(words) < 110
    assert len({report.text for report in reports}) > 580
    assert (
        sum(len(wordings) for wordings in WORDING.positive.values()) >= 9
        and len(WORDING.negative) >= 8
        and len(WORDING.joint) >= 4
    )


@pytest.mark.parametrize("finding", FINDINGS)
@pytest.mark.parametrize("size", [0, 1])
def test_a_box_holds_what_the_finding_changes_in_the_image(finding: str, size: int) -> None:
    """The same chest with and without the finding differs inside its box, and the box is no larger than that."""
    kinds = {"atelectasis": ("mild", "severe"), "cardiomegaly": ("mild", "severe"), "edema": ("mild", "severe")}
    kind = kinds.get(finding, ("pacemaker", "port") if finding == "device" else ("small", "large"))[size]
    side = {"cardiomegaly": "", "edema": "bilateral"}.get(finding, "left" if size else "right")
    zone = {"nodule": "upper", "consolidation": "mid", "atelectasis": "mid", "pneumothorax": "upper"}.get(finding, "")
    one = Instance(finding, side, zone, kind)
    inside_all, overlap_all = [], []
    for number in range(6):
        state = replace(draw_state(number, 2), instances=(one,))
        with_it, (span,) = render(state, 128, [2, number])
        without, _ = render(replace(state, instances=()), 128, [2, number])
        change = np.abs(with_it.astype(float) - without)
        change[change < 6] = 0
        x1, y1, x2, y2 = (round(edge) for edge in span)
        inside_all.append(change[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2].sum() / change.sum())
        rows, columns = np.nonzero(change > 0.4 * change.max())
        wide = min(x2, columns.max() + 1) - max(x1, columns.min())
        high = min(y2, rows.max() + 1) - max(y1, rows.min())
        overlap_all.append(max(0, wide) * max(0, high) / ((x2 - x1) * (y2 - y1)))
        middle = (x1 + x2) / 2
        if side in ("left", "right") and finding != "device":
            assert (middle > 64) == (side == "left"), "the patient's left is on the image's right"
    # a heart that grows also hides vessels, and edema fills vessels beyond its haze
    assert np.mean(inside_all) > (0.75 if finding in ("edema", "cardiomegaly") else 0.9), inside_all
    assert np.mean(overlap_all) > 0.35, overlap_all


def test_what_evaluation_says_is_never_said_in_training(sentences: set[str], states: list[State]) -> None:
    assert len(sentences) > 2000
    for affirm, deny in EVAL_PROMPTS.values():
        assert len(affirm) >= 3 and len(deny) >= 3
        for prompt in (*affirm, *deny):
            assert plain(prompt) not in sentences
            assert not plain(prompt).startswith("there is"), "the assertion objective is trained with this"
    for affirm, deny in WORDING.eval_frames:
        for frame in (affirm, deny):
            pattern = re.compile(" ?.+ ?".join(plain(part) for part in re.split(r"\{\w\}", frame)))
            assert not [
                one for one in sentences if pattern.fullmatch(one) and one != "the radiograph shows the whole chest"
            ]
    for phrase in EVAL_PHRASES.values():
        assert plain(phrase) not in sentences
    for state in states[:500]:
        for one in state.instances:
            assert plain(describe(one)) not in sentences


def test_what_evaluation_says_is_made_of_words_of_training(sentences: set[str]) -> None:
    known = {word for sentence in sentences for word in sentence.split()}
    asked = {
        word for pair in EVAL_PROMPTS.values() for prompts in pair for one in prompts for word in plain(one).split()
    }
    assert asked - known <= {"can", "this", "see", "in", "shows"}, asked - known


def test_two_sites_differ_in_picture_and_in_words(samples: list[Sample]) -> None:
    by_site = defaultdict(list)
    for sample in samples:
        by_site[sample.groups["site"]].append(sample)
    (first, ours), (second, theirs) = sorted(by_site.items())
    assert (first, second) == ("harbour", "northgate")
    assert all("FINDINGS:" in one.report.text for one in theirs if one.report)
    assert all("Conclusion:" in one.report.text for one in ours if one.report)
    dark = [np.mean([np.median(one.image) for one in group]) for group in (ours, theirs)]
    assert abs(dark[0] - dark[1]) > 3


@pytest.mark.parametrize(("index", "seed", "size"), [(-1, 0, 64), (0, -1, 64), (0, 0, 16)])
def test_impossible_arguments_are_named(index: int, seed: int, size: int) -> None:
    with pytest.raises(ValueError, match=r"index|size"):
        generate(index, seed, size)
