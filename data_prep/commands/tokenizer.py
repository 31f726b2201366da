"""`vlp-prep tokenizer`: a tokenizer trained on the texts of a set, for `tokenizer.path` of a recipe."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from vlp.core.config import ConfigError
from vlp.core.output import hold
from vlp.data.shards.manifest import Manifest
from vlp.data.shards.shard_set import ShardSet
from vlp.modalities.text.shared_words import PatientText
from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.base import LEFT_OUT

OWN = ("vlp_tokenizer.json", "tokenizer.json", "tokenizer_config.json", "spiece.model")
"""Files that a tokenizer is saved in."""


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Declare the options."""
    usual = TextSpec()
    parser.add_argument("folder", help="a folder of shards with a manifest")
    parser.add_argument("--out", type=Path, required=True, help="where the tokenizer goes")
    parser.add_argument("--kind", choices=("sentencepiece", "wordpiece"), default="sentencepiece")
    parser.add_argument("--vocab-size", type=int, default=8000)
    words = "patients that must share a word for it to be learnt (default: %(default)s)"
    parser.add_argument("--min-patients", type=int, default=usual.shared_by, help=words)
    parser.add_argument(
        "--length", type=int, default=usual.length, help="longest text in tokens (default: %(default)s)"
    )
    parser.add_argument("--split", default="train", help="which split's texts (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=0, help="train on the first N samples (default: all)")


def run(args: argparse.Namespace) -> int:
    """Train, save, and print how many tokens a word takes."""
    from vlp.modalities.text.tokenizers.load import build_tokenizer

    shards = ShardSet(Manifest.read(args.folder).select(args.split))
    if args.min_patients < 2:
        raise ConfigError(f"--min-patients must be at least 2, found {args.min_patients}")
    spec = TextSpec(kind=args.kind, vocab_size=args.vocab_size, length=args.length, shared_by=args.min_patients)
    with hold(args.out, "vlp-prep tokenizer", OWN):
        tokenizer = build_tokenizer(spec, texts(shards, args.limit))
        tokenizer.save(args.out)
    sample = [text for _, text in zip(range(256), texts(shards, args.limit), strict=False)]
    if not sample:
        raise ConfigError(f"{args.folder}: no texts in split {args.split!r}")
    words = sum(len(text.split()) for text in sample)
    tokens = int(tokenizer(sample).tokens.mask.sum())
    sys.stdout.write(f"{args.out}: {tokenizer.vocab_size} tokens, {tokens / max(words, 1):.2f} per word\n")
    if tokenizer.trained:
        sys.stdout.write(f"{LEFT_OUT.format(**tokenizer.trained)}\n")
    return 0


def texts(shards: ShardSet, limit: int = 0) -> Iterator[str]:
    """Yield the report, or else the captions, of each sample, with its patient."""
    for index in range(min(len(shards), limit) if limit else len(shards)):
        sample = shards.record(index)
        owner = sample.patient or sample.study or sample.key
        written = sample.captions if sample.report is None else (sample.report.text,)
        yield from (PatientText(text, owner) for text in written)
