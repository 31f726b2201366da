"""MeDSLIP: findings and places in two streams, aligned with each other and with what is known of both.

Fan et al., *MeDSLIP: Medical Dual-Stream Language-Image Pre-training with Pathology-Anatomy Semantic Alignment*, 2024
(arXiv 2403.10635).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.batch import Batch, Losses, ModelOutput, Spans
from vlp.core.config import ConfigError, config
from vlp.sample import concept_code

from .base import Objective, l2_normalize, mean_over_ranks, objectives
from .functional.tiled import MASKED


@config
class MedSlipConfig:
    findings: tuple[str, ...]
    places: Mapping[str, tuple[str | None, str | None]]
    book: Path | None = None
    width: int = 256
    layers: int = 4
    heads: int = 4
    dropout: float = 0.1
    negatives: int = 7
    alpha: float = 1.0
    beta: float = 1.0


@objectives.register("medslip")
class MedSlip(Objective[MedSlipConfig]):
    """`L = L_exist + α L_proto + β L_icl` on triplets (place, finding, 1 present / 0 absent / -1 not mentioned), M [A, Q].

    A gate splits the patches into a finding and a place stream; one query per finding and per place, made from a frozen
    book of text vectors, reads its stream through a small decoder: F_p [B, Q, d], F_a [B, A, d].
    exist: two-way cross-entropy of each query on whether its finding (place) is stated present anywhere.
    icl: binary cross-entropy of `F_a . F_p` on M where M is stated.
    proto: for each finding present, the mean book vector of its places against those of `negatives` sampled other places
    (0: all others), by cross-entropy of raw products with the projected F_p; for each place alike with findings.
    Each mean runs over what is stated in the batch of all ranks.

    `findings` are concept codes, `places` map a name to its (side, zone) as the extractor writes them; M comes from
    `Batch.spans`, the mentions in the text that is shown (what is not shown counts as not mentioned). `book`: a safetensors
    file with `places` [A, E] and `findings` [Q, E], the published ones being Bio_ClinicalBERT's CLS vectors of explanations;
    without one, fixed random unit vectors of length `dim` are used, which name but do not explain.

    How the released code differs: it changes the caller's matrix in place (a second pass sees another loss), fails on a
    batch without any positive (0 here), samples negatives from the global generator (here by sample key and cursor, so
    that any number of ranks draws the same), keeps the books out of the checkpoint, and its tower is a ResNet-50 of its own.
    """

    needs = frozenset({"patches", "spans"})
    batch_coupled = True  # through the number of stated triplets, which differs between parts of a batch
    place_book: Tensor
    finding_book: Tensor
    codes: Tensor

    def __init__(self, config: MedSlipConfig, dim: int) -> None:
        super().__init__(config, dim)
        if not config.findings or len(config.places) < 2:
            raise ConfigError("findings, places: at least one finding and two places are needed")
        if config.width % config.heads:
            raise ConfigError(f"width: must be a multiple of heads = {config.heads}, found {config.width}")
        shapes = {"places": len(config.places), "findings": len(config.findings)}
        books = _read_book(config.book, shapes) if config.book else _random_book(shapes, dim)
        self.register_buffer("place_book", books["places"])
        self.register_buffer("finding_book", books["findings"])
        codes = [[concept_code(code, *place) for code in config.findings] for place in config.places.values()]
        self.register_buffer("codes", torch.tensor(codes), persistent=False)
        size, width = books["places"].shape[1], config.width
        self.gate = nn.Linear(dim, dim)
        self.query = nn.Linear(size, width)
        self.streams = nn.ModuleDict()
        for name in ("findings", "places"):
            layer = nn.TransformerDecoderLayer(
                width, config.heads, 4 * width, config.dropout, batch_first=True, norm_first=True
            )
            self.streams[name] = nn.ModuleDict(
                {
                    "enter": nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width)),
                    "decoder": nn.TransformerDecoder(layer, config.layers, nn.LayerNorm(width)),
                    "exist": nn.Linear(width, 2),
                    "project": nn.Linear(width, size),
                }
            )
        self.dropout = nn.Dropout(config.dropout)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        config = self.config
        assert output.patches is not None and batch.spans is not None
        matrix = triplets(batch.spans, len(batch), self.codes)
        gate = self.gate(output.patches)
        finding = self._read("findings", gate * output.patches, self.finding_book)
        place = self._read("places", (1 - gate) * output.patches, self.place_book)
        streams = {"findings": (finding, matrix, self.place_book), "places": (place, matrix.mT, self.finding_book)}
        exist, proto = output.image.new_zeros(()), output.image.new_zeros(())
        for name, (features, own, book) in streams.items():
            heads: Any = self.streams[name]
            dropped = self.dropout(features)
            stated = torch.where((own == 1).any(1), 1, torch.where((own == 0).any(1), 0, -1))
            exist = exist + exist_loss(heads["exist"](dropped), stated)
            others = sampled_negatives(own != 1, config.negatives, batch, name)
            proto = proto + proto_loss(heads["project"](dropped), book.to(dropped.dtype), own == 1, others)
        icl = icl_loss(place, finding, matrix)
        # Without any stated triplet every part is zero, yet all parameters stay in the graph.
        return Losses(exist + config.alpha * proto + config.beta * icl, {"exist": exist, "proto": proto, "icl": icl})

    def _read(self, name: str, stream: Tensor, book: Tensor) -> Tensor:
        parts: Any = self.streams[name]
        queries = self.query(book.to(stream.dtype)).expand(stream.shape[0], -1, -1)
        return cast(Tensor, parts["decoder"](queries, parts["enter"](stream)))


def triplets(spans: Spans, batch: int, codes: Tensor) -> Tensor:
    """Return M [B, A, Q] int8 from mentions and the `codes` [A, Q] of (place, finding): 1 present, 0 absent, -1 not stated.

    Present wins over absent, as in the published data; uncertain mentions are left out.
    """
    same = (spans.code[:, None, None] == codes).to(torch.float32)
    matrix = torch.full((batch, *codes.shape), -1, dtype=torch.int8, device=codes.device)
    for assertion in (0, 1):
        hits = torch.zeros((batch, *codes.shape), device=codes.device)
        matrix[hits.index_add(0, spans.owner, same * (spans.assertion == assertion)[:, None, None]) > 0] = assertion
    return matrix


def exist_loss(logits: Tensor, stated: Tensor) -> Tensor:
    """Return this rank's share of the mean two-way cross-entropy of `logits` [B, Q, 2] where `stated` [B, Q] is not -1."""
    counted = stated >= 0
    losses = F.cross_entropy(logits.flatten(0, 1), stated.clamp(min=0).flatten().long(), reduction="none")
    return mean_over_ranks(losses.view_as(stated), counted)


def icl_loss(place: Tensor, finding: Tensor, matrix: Tensor) -> Tensor:
    """Return this rank's share of the mean cross-entropy of `place` [B, A, d] . `finding` [B, Q, d] on stated triplets."""
    logits = place @ finding.mT
    losses = F.binary_cross_entropy_with_logits(logits, (matrix == 1).to(logits.dtype), reduction="none")
    return mean_over_ranks(losses, matrix >= 0)


def proto_loss(projected: Tensor, book: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return this rank's share of ProtoCL over all (sample, query) with a positive.

    `projected` [B, Q, E], `book` [A, E] of the other stream, `positive` and `negative` [B, A, Q] bool.
    """
    scores = (projected @ book.T).mT
    count = positive.sum(1)
    correct = (scores * positive).sum(1) / count.clamp(min=1)  # the mean vector's product is the mean of the products
    others = torch.logsumexp(scores.masked_fill(~negative, MASKED), 1)
    return mean_over_ranks(torch.logaddexp(correct, others) - correct, count > 0)


def sampled_negatives(allowed: Tensor, count: int, batch: Batch, stream: str) -> Tensor:
    """Return a bool mask like `allowed` [B, A, Q] with at most `count` entries True per (sample, query); 0 keeps all.

    Drawn by the sample's key and the batch's cursor: the same whichever rank holds the sample.
    """
    if count == 0 or count >= allowed.shape[1]:
        return allowed
    draws = torch.empty(allowed.shape)  # of no row, where no sample of this rank has a text
    for row, key in enumerate(batch.keys):
        text = f"{stream}|{batch.cursor}|{key}"
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "little")
        draws[row] = torch.rand(allowed.shape[1:], generator=torch.Generator().manual_seed(seed))
    order = draws.to(allowed.device, non_blocking=True).masked_fill(~allowed, 2.0)
    chosen = torch.zeros_like(allowed).scatter(1, order.topk(count, dim=1, largest=False).indices, True)
    return chosen & allowed


def _read_book(path: Path, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if not path.is_file():
        raise ConfigError(f"book: no such file: {path}")
    books = load_file(path)
    for name, size in sizes.items():
        if name not in books or books[name].ndim != 2 or books[name].shape[0] != size:
            found = tuple(books[name].shape) if name in books else "nothing"
            raise ConfigError(f"book: {path} must hold {name!r} with {size} rows, one a name, found {found}")
    return {name: books[name].float() for name in sizes}


def _random_book(sizes: Mapping[str, int], dim: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: l2_normalize(torch.randn(size, dim, generator=generator)) for name, size in sizes.items()}
