"""What evaluation says of the synthetic CTs is never said in training, and is made of words that training uses."""

from __future__ import annotations

import re

import pytest

from vlp_eval import suite
from vlp_eval.zero_shot import prompts
from vlp_prep.synthetic.ct.generate import words
from vlp_prep.synthetic.ct.report import EVAL_FRAMES, EVAL_PHRASES, EVAL_PROMPTS, phrase
from vlp_prep.synthetic.ct.state import FINDINGS, State, draw_state
from vlp_recipes.demo3d import LARGE


def plain(sentence: str) -> str:
    return " ".join(re.findall(r"[a-z0-9'-]+", sentence.lower()))


@pytest.fixture(scope="module")
def states() -> list[State]:
    return [draw_state(index, 11) for index in range(2500)]


@pytest.fixture(scope="module")
def sentences(states: list[State]) -> set[str]:
    """Every sentence of many reports, in lower case and without punctuation."""
    reports = [words(state) for state in states]
    return {plain(report.text[start:end]) for report in reports for start, end in report.sentences}


def test_what_evaluation_says_is_never_said_in_training(sentences: set[str], states: list[State]) -> None:
    assert len(sentences) > 2000
    for pair in EVAL_PROMPTS.values():
        for prompt in (text for side in pair for text in side):
            assert plain(prompt) not in sentences
    for frame in (text for pair in EVAL_FRAMES for text in pair):
        pattern = re.compile(" ?.+ ?".join(plain(part) for part in re.split(r"\{\w\}", frame)))
        assert not [sentence for sentence in sentences if pattern.fullmatch(sentence)]
    for bare in EVAL_PHRASES.values():
        assert plain(bare) not in sentences
    for state in states[:500]:
        assert not {plain(phrase(instance)) for instance in state.instances} & sentences


def test_it_is_made_of_words_of_training(sentences: set[str]) -> None:
    known = {word for sentence in sentences for word in sentence.split()}
    asked = {word for pair in EVAL_PROMPTS.values() for side in pair for text in side for word in plain(text).split()}
    assert asked - known <= {"be", "can", "see", "shows", "scan", "visible"}, asked - known


def test_the_suite_asks_with_these_words() -> None:
    found = prompts.read("synthetic-ct", FINDINGS, pairs=True)
    assert {name: (texts.pos, texts.neg) for name, texts in found.texts.items()} == EVAL_PROMPTS
    assert suite.find_task("synthetic_ct.grounding", None).settings.bare == EVAL_PHRASES
    classification = suite.find_task("synthetic_ct.classification", None).settings
    assert tuple(classification.classes) == FINDINGS and set(LARGE) < set(FINDINGS)
    for number, single in enumerate(classification.prompts[1:]):
        texts = prompts.read(single, FINDINGS, pairs=True).texts
        assert all(texts[name].pos == (EVAL_PROMPTS[name][0][number],) for name in FINDINGS)
