"""SigLIP's tokenizer: our ids are those of transformers' SiglipTokenizer, and each piece says which characters it covers."""

import io
import pickle
from pathlib import Path

import pytest

from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.base import Tokenizer
from vlp.modalities.text.tokenizers.load import build_tokenizer, load_tokenizer

LINES = [
    "there is a small pleural effusion on the right",
    "no pneumothorax is seen",
    "x ray of the chest 3 cm mass",
    "é ö",
]
TEXTS = [
    "There is a small pleural effusion.",
    "NO pneumothorax; (x-ray of the CHEST), 3.5 x 2 cm!",
    "  two   blanks\n\nand\ta tab  ",
    "",
    " . ",
    "Ödème, ΣΑΣ İ ß",
    "under_score ▁marker <x> y",
    "effusion " * 40,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import sentencepiece
    from transformers import SiglipTokenizer

    made, model = tmp_path_factory.mktemp("siglip"), io.BytesIO()
    special = {"pad_id": -1, "eos_id": 1, "unk_id": 2, "bos_id": -1, "control_symbols": ["<pad>"]}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 50),
        model_writer=model,
        vocab_size=70,
        hard_vocab_limit=False,
        minloglevel=2,
        **special,
    )
    (made / "spiece.model").write_bytes(model.getvalue())
    SiglipTokenizer(str(made / "spiece.model")).save_pretrained(made)
    return made


def theirs(folder: Path, text: str, length: int) -> list[int]:
    from transformers import SiglipTokenizer

    found: list[int] = SiglipTokenizer.from_pretrained(folder)(text, truncation=True, max_length=length)["input_ids"]
    return found


def ours(tokenizer: Tokenizer, text: str) -> list[int]:
    found: list[int] = tokenizer([text]).tokens.ids[0].tolist()
    return found


@pytest.mark.parametrize("kind", ["hf", "sentencepiece"])
@pytest.mark.parametrize("text", TEXTS)
def test_the_ids_are_those_of_transformers(folder: Path, kind: str, text: str) -> None:
    tokenizer = build_tokenizer(TextSpec(kind=kind, path=str(folder), length=64))  # type: ignore[arg-type]
    assert ours(tokenizer, text) == theirs(folder, text, 64)
    assert tokenizer.pad_id == 1, "SigLIP pads with its end token, and attends to it"


def test_a_file_is_read_as_its_folder_says(folder: Path) -> None:
    tokenizer = build_tokenizer(TextSpec(kind="sentencepiece", path=str(folder / "spiece.model"), length=64))
    assert ours(tokenizer, TEXTS[1]) == theirs(folder, TEXTS[1], 64)


def test_it_survives_saving_and_pickling(folder: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(TextSpec(kind="hf", path=str(folder), length=64))
    tokenizer.save(tmp_path / "saved")
    for copy in (load_tokenizer(tmp_path / "saved"), pickle.loads(pickle.dumps(tokenizer))):
        assert copy.fingerprint == tokenizer.fingerprint and ours(copy, TEXTS[1]) == ours(tokenizer, TEXTS[1])
    again = build_tokenizer(TextSpec(kind="hf", path=str(tmp_path / "saved"), length=64))
    assert ours(again, TEXTS[1]) == ours(tokenizer, TEXTS[1])


def test_pieces_cover_their_characters(folder: Path) -> None:
    text = "No  (PLEURAL) effusion."
    encoded = build_tokenizer(TextSpec(kind="hf", path=str(folder), length=64))([text])
    start, end = text.index("PLEURAL"), text.index(")")
    found = encoded.find(0, start, end)
    assert found is not None
    spans = encoded.offsets[0, slice(*found)]
    assert (spans[0, 0], spans[-1, 1]) == (start, end)
    words = encoded.tokens.words[0, slice(*found)]
    assert len(set(words.tolist())) == 1


def test_a_plain_sentencepiece_model_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes((folder / "spiece.model").read_bytes())
    plain = build_tokenizer(TextSpec(kind="sentencepiece", path=str(tmp_path), length=64))
    assert ours(plain, TEXTS[0]) != theirs(folder, TEXTS[0], 64)
