"""Text views, sentences, codes, phrases, assertions, groups, and spans through a real tokeniser."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.batch import Batch, PromptSpec
from vlp.data.collate import Collator, DecodedSample, group_of, select_text
from vlp.data.config import TextView
from vlp.modalities.geometry import Geometry
from vlp.modalities.image.processor import Augment, ImageProcessor
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.base import Tokenizer
from vlp.modalities.text.tokenizers.load import build_tokenizer
from vlp.needs.assertions import finding_assertions
from vlp.needs.phrases import phrases_of as phrases
from vlp.sample import Mention, Report, Sample, concept_code, split_sentences

TEXT = "No effusion. Small nodule in the right upper zone. Heart is normal. Nodule, edema."
SPANS = ((0, 12), (13, 50), (51, 67), (68, 82))


def code_of_mention(mention: Mention) -> int:
    return concept_code(mention.code, mention.side, mention.zone)


def mention(word: str, start: int, assertion: str = "present", **place: str) -> Mention:
    return Mention(TEXT[start : start + len(word)], word, start, start + len(word), assertion, **place)  # type: ignore[arg-type]


CONCEPTS = (
    mention("effusion", 3, "absent"),
    mention("nodule", 19, side="right", zone="upper"),
    mention("nodule", 68),
    mention("edema", 76),
)
SAMPLE = Sample(
    key="k",
    image=b"",
    report=Report(TEXT, SPANS, {"findings": (0, 67), "impression": (68, 82)}),
    captions=("one. two.", "three"),
    concepts=CONCEPTS,
)


def pieces_of(text: str) -> list[str]:
    return [text[start:end] for start, end in SPANS]


def test_the_whole_a_section_a_caption() -> None:
    assert select_text(SAMPLE, None, TextView()).text == TEXT
    shown = select_text(SAMPLE, None, TextView(field="findings"))
    assert shown.text == TEXT[:67] and shown.sentences == SPANS[:3]
    shown = select_text(SAMPLE, None, TextView(field="impression"))
    assert shown.text == "Nodule, edema." and shown.sentences == ((0, 14),)
    assert select_text(SAMPLE, None, TextView(field="captions")).text == "one. two."
    drawn = {select_text(SAMPLE, np.random.default_rng(i), TextView(field="captions")).text for i in range(20)}
    assert drawn == {"one. two.", "three"}


def test_where_a_field_is_missing_the_next_best_is_shown() -> None:
    plain = Sample(key="k", image=b"", report=Report("Only this."))
    assert select_text(plain, None, TextView(field="impression")).text == "Only this."
    assert select_text(plain, None, TextView(field="captions")).text == "Only this."
    assert select_text(Sample(key="k", image=b"", captions=("c",)), None, TextView(field="findings")).text == "c"
    assert select_text(Sample(key="k", image=b"", report=Report(" "), captions=("c",)), None, TextView()).text == "c"
    assert select_text(Sample(key="k", image=b""), np.random.default_rng(0), TextView()).text == ""


@given(st.integers(0, 10_000))
def test_a_subset_is_sentences_in_order_and_mentions_move_along(seed: int) -> None:
    shown = select_text(SAMPLE, np.random.default_rng(seed), TextView(subset=1.0))
    kept = [one for one in pieces_of(TEXT) if one in [shown.text[start:end] for start, end in shown.sentences]]
    assert kept and shown.text == " ".join(kept)
    for one in CONCEPTS:
        place = shown.to_shown_span(one.start, one.end)
        inside = any(start <= one.start < end and TEXT[start:end] in kept for start, end in SPANS)
        assert (place is not None) == inside
        if place:
            assert shown.text[place[0] : place[1]] == one.text


def test_shares_of_subsets_and_single_sentences() -> None:
    whole = sum(select_text(SAMPLE, np.random.default_rng(i), TextView(subset=0.5)).text == TEXT for i in range(1000))
    assert abs(whole / 1000 - (0.5 + 0.5 / 4)) < 0.05  # a quarter of the subsets is everything
    drawn = {select_text(SAMPLE, np.random.default_rng(i), TextView(sentence=True)).text for i in range(100)}
    assert drawn == set(pieces_of(TEXT))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("A 3.5 cm mass. Stable.", ["A 3.5 cm mass.", "Stable."]),
        ("no full stop", ["no full stop"]),
        ("line one\nline two", ["line one", "line two"]),
        ("  spaced .  out.", ["spaced .", "out."]),
        ("", []),
        ("...", []),
    ],
)
def test_sentences_of_those_who_name_none(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in split_sentences(text)] == expected


@settings(max_examples=200)
@given(st.text(alphabet="ab .!?;\n3", max_size=40))
def test_sentences_never_overlap_and_lose_no_letters(text: str) -> None:
    spans = split_sentences(text)
    assert all(start < end for start, end in spans)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
    outside = "".join(
        text[end:start]
        for end, start in zip([0] + [e for _, e in spans], [s for s, _ in spans] + [len(text)], strict=True)
    )
    assert not set(outside) & set("ab3")


def test_codes_are_blake2b_of_what_is_where() -> None:
    expected = hashlib.blake2b(b"nodule|right|upper", digest_size=8).digest()
    assert code_of_mention(CONCEPTS[1]) == int.from_bytes(expected, "little", signed=True)
    assert code_of_mention(CONCEPTS[1]) != code_of_mention(CONCEPTS[2])
    assert code_of_mention(mention("nodule", 68, "absent")) == code_of_mention(CONCEPTS[2])


def test_phrases_assert_something() -> None:
    found = phrases(SAMPLE)
    assert [text for text, _ in found] == [pieces_of(TEXT)[1], pieces_of(TEXT)[3]]
    assert found[0][1] == code_of_mention(CONCEPTS[1])
    both = hashlib.blake2b(b"edema||;nodule||", digest_size=8).digest()
    assert found[1][1] == int.from_bytes(both, "little", signed=True)
    assert phrases(Sample(key="k", image=b"", captions=("x",), concepts=CONCEPTS)) == []


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([], -2),
        ([("present", None)], 1),
        ([("absent", None)], 0),
        ([("uncertain", None)], -1),
        ([("present", None), ("uncertain", None)], 1),
        ([("absent", None), ("uncertain", None)], -1),
        ([("present", None), ("absent", None)], -1),
        ([("present", "right"), ("absent", "left")], 1),
        ([("present", "right"), ("absent", "right")], -1),
        ([("present", "right"), ("absent", None)], -1),
        ([("absent", "left"), ("absent", "right")], 0),
    ],
)
def test_what_a_report_asserts(said: list[tuple[str, str | None]], expected: int) -> None:
    mentions = [Mention("x", "effusion", 0, 1, how, side) for how, side in said]  # type: ignore[arg-type]
    assert finding_assertions([*mentions, Mention("y", "other", 0, 1)], ["edema", "effusion"]) == [-2, expected]


def test_groups() -> None:
    def sample(key: str, text: str | None, study: str | None = None, source: str = "s") -> Sample:
        return Sample(key=key, image=b"", report=Report(text) if text is not None else None, study=study, source=source)

    a = group_of(sample("a", "No  effusion.\nHeart: normal", "1"))
    b = group_of(sample("b", "no effusion, heart normal!", "2"))
    assert a[1] == b[1] and a[0] != b[0]
    assert group_of(sample("c", "other", "1"))[0] == a[0] != group_of(sample("c", "other", "1", "t"))[0]
    assert group_of(sample("c", "other"))[0] != group_of(sample("d", "other"))[0]
    assert group_of(sample("c", None))[1] != group_of(sample("d", None))[1]
    assert group_of(sample("c", " . "))[1] != group_of(sample("d", " . "))[1]


# --- through a tokeniser


@pytest.fixture(scope="module", params=["wordpiece", "sentencepiece"])
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return build_tokenizer(TextSpec(kind=request.param, length=64, vocab_size=90), [TEXT] * 4)


def batch_of(build: Collator, rows: list[DecodedSample]) -> Batch:
    return build.collate(
        [replace(row, needs=[need.prepare(row.sample, None, row.geometry) for need in build.needs]) for row in rows]
    )


def collator(tokenizer: Tokenizer, *needs: str, prompts: PromptSpec | None = None) -> Collator:
    spec = ImageProcessor(ImageSpec(size=8, channels=1))
    return Collator(spec, tokenizer, TextView(), Augment(), (), frozenset(needs), prompts)


def decoded(view: TextView = TextView(), seed: int | None = None, sample: Sample = SAMPLE) -> DecodedSample:  # noqa: B008
    import torch

    rng = None if seed is None else np.random.default_rng(seed)
    geometry = Geometry((8, 8), (8, 8), (1.0, 1.0), (0.0, 0.0))
    return DecodedSample(sample, torch.zeros((1, 8, 8), dtype=torch.uint8), geometry, select_text(sample, rng, view))


def test_spans_are_the_tokens_of_their_mentions(any_tokenizer: Tokenizer) -> None:
    rows = [decoded(), *(decoded(TextView(subset=1.0), seed) for seed in range(20))]
    build = collator(any_tokenizer, "spans")
    spans = batch_of(build, rows).spans
    assert spans is not None and spans.dropped == 0 and (spans.owner == 0).sum() == len(CONCEPTS)
    encoded = any_tokenizer([row.shown.text for row in rows])
    count = 0
    for row, one in enumerate(rows):
        for concept in CONCEPTS:
            place = one.shown.to_shown_span(concept.start, concept.end)
            if place is None:
                continue
            start, end = int(spans.start[count]), int(spans.end[count])
            assert (int(spans.owner[count]), int(spans.code[count])) == (row, code_of_mention(concept))
            covered = encoded.offsets[row, start:end]
            assert covered[0, 0] <= place[0] < covered[0, 1] and covered[-1, 0] < place[1] <= covered[-1, 1]
            assert int(spans.assertion[count]) == (0 if concept.assertion == "absent" else 1)
            count += 1
    assert count == len(spans.start)


def test_spans_beyond_the_limit_are_dropped_and_counted() -> None:
    short = build_tokenizer(TextSpec(kind="wordpiece", length=8, vocab_size=200), [TEXT] * 4)
    encoded = short([TEXT])
    reach = int(encoded.offsets.max())
    batch = batch_of(collator(short, "spans"), [decoded()])
    inside = [one for one in CONCEPTS if one.end <= reach]
    assert batch.spans is not None and 0 < len(inside) < len(CONCEPTS)
    assert len(batch.spans.start) == len(inside) and batch.spans.dropped == len(CONCEPTS) - len(inside)
    assert batch.truncated == 1


def test_phrases_and_prompts_of_a_batch(any_tokenizer: Tokenizer) -> None:
    spec = PromptSpec(("effusion", "nodule", "device"), ("effusion", "nodule", "device"), ("no a", "no b", "no c"))
    empty = Sample(key="e", image=b"", report=Report("Heart is normal."))
    build = collator(any_tokenizer, "phrases", "prompts", prompts=spec)
    rows = [decoded(sample=empty), decoded(TextView(sentence=True), 3), decoded()]
    batch = batch_of(build, rows)
    assert batch.phrases is not None and batch.prompts is not None
    assert batch.phrases.owner.tolist() == [1, 1, 2, 2]
    assert batch.phrases.code.tolist() == [code for _, code in phrases(SAMPLE)] * 2
    alone = any_tokenizer([text for text, _ in phrases(SAMPLE)]).tokens
    assert batch.phrases.tokens.ids[:2].tolist() == alone.ids.tolist()
    assert batch.prompts.asserted.tolist() == [[-2, -2, -2], [0, 1, -2], [0, 1, -2]]
    assert len(batch.prompts.tokens) == 6 and batch.prompts.findings == list(spec.findings)
    assert batch.prompts.rows.tolist() == list(range(6))
    same = collator(any_tokenizer, "prompts", prompts=PromptSpec(("a", "b", "c"), ("x", "y", "x"), ("", "", "")))
    told = batch_of(same, rows).prompts
    assert told is not None and len(told.tokens) == 3 and told.rows.tolist() == [0, 1, 0, 2, 2, 2]
    assert batch_of(build, rows[:1]).phrases is not None
    nothing = batch_of(build, rows[:1]).phrases
    assert nothing is not None and len(nothing.tokens) == 0 and nothing.owner.shape == (0,)
