"""The numeric vectors of the reference: checked there against the published code, or worked out from its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.objectives.fixtures import (
    IMAGE,
    PATCH_ATTENTION,
    PATCHES,
    PROTOTYPES,
    TEXT,
    TOKENS,
    WORD_ATTENTION,
    WORD_MASK,
    WORDS,
    tensor,
)
from tests.objectives.ranks import TWO_RANKS, two_ranks
from vlp.batch import Batch, Grid, Losses, ModelOutput, Prompts, Spans, Tokens
from vlp.needs.depths import Depths
from vlp.needs.phrases import phrases_of
from vlp.objectives import build_objectives
from vlp.objectives.anatomy import organ_losses, positive_shares, query_pooling
from vlp.objectives.dhn_nce import DhnNce
from vlp.objectives.functional import info_nce
from vlp.objectives.gloria import WordMatch
from vlp.objectives.mae import cells, masked_error
from vlp.objectives.medslip import exist_loss, icl_loss, proto_loss, sampled_negatives, triplets
from vlp.objectives.mgca import clipped_weights, sinkhorn, token_contrast
from vlp.sample import Mention, Report, Sample, concept_code


def batch_of(rows: int, **fields: Any) -> Batch:
    blank = torch.zeros((rows, 1), dtype=torch.int64)
    return Batch(
        image=torch.zeros(rows, 1, 2, 2),
        text=Tokens(ids=blank, mask=blank == 0, words=blank),
        group=torch.arange(1, 2 * rows + 1).reshape(rows, 2),
        keys=[str(one) for one in range(rows)],
        **fields,
    )


def run(tree: dict[str, Any], rows: int = 3, fields: dict[str, Any] | None = None, **output: Any) -> Losses:
    objective = build_objectives([tree], 4).to(torch.float64)
    for name, parameter in objective.named_parameters():
        if name.endswith("prototypes"):
            parameter.data = PROTOTYPES.clone()
    values = {"image": IMAGE[:rows], "text": TEXT[:rows], **output}
    losses: Losses = objective(ModelOutput(**values), batch_of(rows, **(fields or {})), 1.0)
    return losses


SCALE = {"logit_scale": tensor([1 / 0.07])}
SIGMOID = {"logit_scale": tensor([10.0]), "logit_bias": tensor([-10.0])}


@pytest.mark.parametrize("limit", [1 << 22, 0], ids=["dense", "streaming"])
@pytest.mark.parametrize(
    ("tree", "output", "expected"),
    [
        ({"kind": "convirt"}, {}, 0.184468),
        ({"kind": "convirt", "image_to_text": 1.0}, {}, 0.171617),
        ({"kind": "convirt", "image_to_text": 0.0}, {}, 0.223021),
        ({"kind": "clip"}, SCALE, 0.137096),
        ({"kind": "clip"}, {"logit_scale": tensor([10 * 0.941765])}, 0.209603),
        ({"kind": "clip"}, {"logit_scale": tensor([10.0])}, 0.197319),
        ({"kind": "siglip"}, SIGMOID, 1.466921),
        ({"kind": "siglip"}, {**SIGMOID, "logit_bias": tensor([0.0])}, 10.273745),
        ({"kind": "dhn_nce"}, {}, 0.240891),
        ({"kind": "dhn_nce", "reduction": "sum"}, {}, 0.722674),
        ({"kind": "dhn_nce", "beta_image": 0.0, "beta_text": 0.0}, {}, 0.213785),
        ({"kind": "dhn_nce", "beta_image": 1.0, "beta_text": 0.5}, {}, 0.341078),
        ({"kind": "dhn_nce", "variant": "released_code"}, {}, -1.855342),
        ({"kind": "dhn_nce", "variant": "released_code", "alpha": 1.0}, {}, 0.932399),
    ],
)
def test_contrastive(
    tree: dict[str, Any], output: dict[str, Any], expected: float, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(info_nce, "STREAM_ABOVE", limit)
    assert run(tree, **output).total.item() == pytest.approx(expected, abs=1e-6)


def test_slopes_of_the_learned_scale_and_bias() -> None:
    log_scale = tensor(1 / 0.07).log().requires_grad_()
    run({"kind": "clip"}, logit_scale=log_scale.exp().reshape(1)).total.backward()
    assert log_scale.grad is not None and log_scale.grad.item() == pytest.approx(-0.142068, abs=1e-6)
    log_scale, bias = tensor(10.0).log().requires_grad_(), tensor([-10.0]).requires_grad_()
    run({"kind": "siglip"}, logit_scale=log_scale.exp().reshape(1), logit_bias=bias).total.backward()
    assert log_scale.grad is not None and log_scale.grad.item() == pytest.approx(-6.006119, abs=1e-6)
    assert bias.grad is not None and bias.grad.item() == pytest.approx(-0.667676, abs=1e-6)


@pytest.mark.parametrize(
    ("detach", "expected"), [(False, (-1.111111, 0.845542, 0.440504)), (True, (-1.111111, 0.812442, 0.453743))]
)
def test_dhn_nce_slopes_by_similarity(detach: bool, expected: tuple[float, ...]) -> None:
    """Unit vectors whose cosines are the leaf: an orthonormal basis as texts makes S the images' coordinates."""
    cosines = torch.nn.functional.normalize(IMAGE, dim=1) @ torch.nn.functional.normalize(TEXT, dim=1).T
    cosines = cosines.detach().requires_grad_()
    objective = DhnNce(DhnNce.Config(detach_weights=detach), 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlp.objectives.dhn_nce.l2_normalize", lambda vectors: vectors)
        output = ModelOutput(image=cosines, text=torch.eye(3, dtype=torch.float64))
        objective(output, batch_of(3)).total.backward()
    assert cosines.grad is not None
    slopes = [cosines.grad[place].item() for place in ((0, 0), (0, 1), (1, 0))]
    assert slopes == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("per", "bias", "expected"), [("concept", -10.0, 3.399655), ("concept", 0.0, 9.389422), ("report", -10.0, 3.595732)]
)
def test_concept_alignment(per: str, bias: float, expected: float) -> None:
    spans = Spans(
        start=torch.tensor([1, 4, 2]),  # the reference counts without CLS
        end=torch.tensor([3, 5, 4]),
        owner=torch.tensor([0, 0, 1]),
        code=torch.tensor([1, 2, 3]),
        assertion=torch.tensor([1, 1, 1]),
    )
    tree = {"kind": "concept", "scale": 10.0, "bias": bias, "per": per}
    losses = run(tree, 2, {"spans": spans}, patches=PATCHES, tokens=TOKENS, **SIGMOID)
    assert losses.parts["concept/patches"].item() == pytest.approx(expected, abs=1e-6)
    assert losses.parts["concept/global"].item() == pytest.approx(1.383756, abs=1e-6)
    if per == "concept" and bias == -10.0:
        assert losses.total.item() == pytest.approx(3.083584, abs=1e-6)


def test_spans_past_the_text_are_dropped_and_counted() -> None:
    whole = {"owner": torch.tensor([0, 1, 1]), "code": torch.tensor([1, 2, 3]), "assertion": torch.tensor([1, 1, 1])}
    spans = Spans(start=torch.tensor([1, 2, 5]), end=torch.tensor([3, 4, 7]), dropped=2, **whole)
    tree = {"kind": "concept", "align": "none"}
    losses = run(tree, 2, {"spans": spans}, patches=PATCHES, tokens=TOKENS)
    assert losses.parts["concept/spans_dropped"].item() == 3
    kept = Spans(start=spans.start[:2], end=spans.end[:2], **{name: values[:2] for name, values in whole.items()})
    torch.testing.assert_close(losses.total, run(tree, 2, {"spans": kept}, patches=PATCHES, tokens=TOKENS).total)


TOKEN_FIELDS = {"patches": PATCHES, "words": WORDS, "word_mask": WORD_MASK, "word_attention": WORD_ATTENTION}


def test_mgca_weights() -> None:
    words = tensor([[0.13, 0.37, 0.3, 0.2], [0.469388, 0.306122, 0.22449, 0]])
    patches = tensor([[0.22449, 0.469388, 0.306122], [0.55102, 0.142857, 0.306122]])
    torch.testing.assert_close(clipped_weights(WORD_ATTENTION), words, atol=1e-6, rtol=0)
    torch.testing.assert_close(clipped_weights(PATCH_ATTENTION), patches, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("attention", "normalised", "expected"),
    [(PATCH_ATTENTION, False, 1.340679), (None, True, 1.142000), (PATCH_ATTENTION, True, 1.275610)],
    ids=["released ViT", "released CNN", "both"],
)
def test_mgca_tokens(attention: Tensor | None, normalised: bool, expected: float) -> None:
    """The released loss of tokens, where padding is among the negatives as in the released code."""
    words, patches = (torch.nn.functional.normalize(one, dim=2) for one in (WORDS, PATCHES))
    every_word, every_patch = (torch.ones_like(one[..., 0], dtype=torch.bool) for one in (words, patches))
    patch_weights = torch.full_like(patches[..., 0], 1 / 3) if attention is None else clipped_weights(attention)
    from_words = token_contrast(
        words, patches, every_patch, every_word, clipped_weights(WORD_ATTENTION), 0.1, normalise=True
    )
    from_patches = token_contrast(patches, words, WORD_MASK, every_patch, patch_weights, 0.1, normalise=normalised)
    assert (from_words + from_patches).mean().item() == pytest.approx(expected, abs=1e-6)


def test_mgca() -> None:
    tree = {"kind": "mgca", "prototypes": 4, "preset": "class_defaults"}
    losses = run(tree, 2, patch_attention=PATCH_ATTENTION, **TOKEN_FIELDS)
    parts = {name: losses.parts[f"mgca/{name}"].item() for name in ("ita", "cta", "cpa")}
    assert parts == pytest.approx({"ita": 0.339314, "cta": parts["cta"], "cpa": 2.105149}, abs=1e-6)
    assert losses.total.item() == pytest.approx(0.339314 + 0.7 * parts["cta"] + 0.5 * 2.105149, abs=2e-6)


def test_mgca_of_three() -> None:
    """F1 whole: the instances' and the prototypes' part, and both as the recorded total weighs them."""
    tokens = {"patches": torch.ones(3, 1, 4), "words": torch.ones(3, 1, 4), "word_mask": torch.ones(3, 1).bool()}
    losses = run({"kind": "mgca", "prototypes": 4, "preset": "class_defaults"}, **tokens)
    parts = {name: losses.parts[f"mgca/{name}"].item() for name in ("ita", "cta", "cpa")}
    assert parts == pytest.approx({"ita": 0.274193, "cta": 0.0, "cpa": 1.960506}, abs=1e-6)
    assert losses.total.item() + 0.7 * 1.340679 == pytest.approx(2.192921, abs=2e-6)


def test_sinkhorn_codes() -> None:
    codes = tensor(
        [
            [0.000196, 0.688389, 0.311415, 0.000000],
            [0.000000, 0.001147, 0.087943, 0.910910],
            [0.688794, 0.000007, 0.311183, 0.000016],
        ]
    )
    unit = torch.nn.functional.normalize
    found = sinkhorn(unit(IMAGE, dim=1) @ unit(PROTOTYPES, dim=1).T, 0.05, 3)
    torch.testing.assert_close(found, codes, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.sum(1), torch.ones(3, dtype=torch.float64))


@pytest.mark.dist
def test_two_ranks(ranks: dict[str, dict[str, Any]]) -> None:
    """F1x, rows 1-2 on rank 0 and 3-4 on rank 1: each rank's own share, and one process's loss as their mean."""
    expected = {"clip": (0.250821, 0.135855, 0.193338), "siglip": (1.420672, 1.570807, 1.495740)}
    found, alone = [ranks["two-ranks-0"], ranks["two-ranks-1"]], two_ranks(0, 1)
    for name in TWO_RANKS:
        *shares, mean = expected[name.partition("/")[0]]
        assert [one[name].item() for one in found] == pytest.approx(shares, abs=1e-6), name
        assert alone[name].item() == pytest.approx(mean, abs=1e-6), name
        assert sum(one[name].item() for one in found) / 2 == pytest.approx(mean, abs=1e-6), name


@pytest.mark.dist
def test_sinkhorn_of_two_ranks(ranks: dict[str, dict[str, Any]]) -> None:
    codes = tensor(
        [
            [0.000509, 0.768751, 0.23074, 0],
            [0, 0.000373, 0.018968, 0.980659],
            [0.885689, 0.000004, 0.114277, 0.00003],
            [0.000051, 0.314804, 0.685145, 0],
        ]
    )
    found = torch.cat([ranks[f"two-ranks-{rank}"]["codes"] for rank in (0, 1)])
    torch.testing.assert_close(found, codes, atol=1e-6, rtol=0)
    torch.testing.assert_close(two_ranks(0, 1)["codes"], codes, atol=1e-6, rtol=0)


def test_sinkhorn_uses_prototypes_alike() -> None:
    """Rows sum to 1; with rounds enough, every prototype gets B / K of the rows."""
    scores = torch.nn.functional.normalize(torch.randn(12, 5, dtype=torch.float64), dim=1)
    found = sinkhorn(scores, 0.05, 400)
    torch.testing.assert_close(found.sum(1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(found.sum(0), torch.full((5,), 12 / 5, dtype=torch.float64), atol=1e-3, rtol=0)


def test_gloria() -> None:
    match = WordMatch.apply(PATCHES, WORDS, WORD_MASK, 4.0, 5.0)
    expected = tensor([[5.304165, 5.556076], [5.715887, 5.179255]])
    torch.testing.assert_close(match, expected, atol=1e-6, rtol=0)
    assert run({"kind": "gloria"}, 2, **TOKEN_FIELDS).parts["gloria/local"].item() == pytest.approx(7.945984, abs=1e-6)
    blank = {"patches": torch.ones(3, 1, 2), "words": torch.ones(3, 1, 2), "word_mask": torch.ones(3, 1).bool()}
    blank = {name: value.double() if name != "word_mask" else value for name, value in blank.items()}
    assert run({"kind": "gloria"}, **blank).parts["gloria/global"].item() == pytest.approx(0.394638, abs=1e-6)


@pytest.mark.parametrize(("similarity", "expected"), [("dot", 2.934088), ("cosine", 3.037467)])
def test_medclip(similarity: str, expected: float) -> None:
    # The reference's -1, 0, 1 are this project's absent, uncertain, present.
    image = torch.tensor([[1, -1, 0], [-1, 1, -1], [1, 1, -1]])
    text = torch.tensor([[1, -1, -1], [-1, 1, 0], [-1, -1, 1]])
    fields = {"labels": image, "extras": {"text_labels": text}}
    tree = {"kind": "medclip", "similarity": similarity, "text_labels": "mentions"}
    assert run(tree, 3, fields, **SCALE).total.item() == pytest.approx(expected, abs=1e-6)


def test_label_aware() -> None:
    category = {"extras": {"category": torch.tensor([5, 1, 5])}}
    losses = run({"kind": "label_aware", "by": "category"}, 3, category, **SCALE)
    assert losses.parts["label_aware/image_to_text"].item() == pytest.approx(2.034387, abs=1e-6)
    assert losses.parts["label_aware/text_to_image"].item() == pytest.approx(2.111484, abs=1e-6)
    assert losses.total.item() == pytest.approx(2.072936, abs=1e-6)
    labels = {"labels": torch.tensor([[1, 0], [0, 1], [1, -2]])}
    assert run({"kind": "label_aware", "form": "sum"}, 3, labels, **SCALE).total.item() == pytest.approx(
        12.437615, abs=1e-6
    )
    distinct = {"extras": {"category": torch.tensor([5, 1, 0])}}
    assert run({"kind": "label_aware", "by": "category"}, 3, distinct, **SCALE).total.item() == pytest.approx(
        0.137096, abs=1e-6
    )


def test_medslip() -> None:
    matrix = torch.tensor([[[1, -1], [0, 1], [1, 0]]])
    place, finding = tensor([[[1, 0], [0.5, 1], [-1, 1]]]), tensor([[[1, 2], [0, 1]]])
    assert icl_loss(place, finding, matrix).item() == pytest.approx(0.966387, abs=1e-6)
    book = tensor([[1, 0, 1], [0, 1, 0], [1, 1, 0]])
    positive = torch.tensor([[[True, False], [False, True], [True, False]]])
    negative = torch.tensor([[[False, False], [True, False], [False, True]]])
    projected = tensor([[[1, 0.5, -1], [0.2, 1, 0.3]]])
    assert proto_loss(projected, book, positive, negative).item() == pytest.approx(0.687039, abs=1e-6)
    logits = tensor([[[0.0, 0.0], [0.0, 2.0], [5.0, 0.0]]])
    stated = torch.tensor([[1, 0, -1]])
    expected = (torch.log(tensor(2.0)) + torch.log1p(tensor(2.0).exp())) / 2
    torch.testing.assert_close(exist_loss(logits, stated), expected)


def test_medslip_reads_triplets_from_mentions() -> None:
    places = {"left": ("left", None), "right": ("right", None)}
    codes = torch.tensor([[concept_code(code, *place) for code in ("nodule", "edema")] for place in places.values()])
    said = [("nodule", "left", 1, 0), ("nodule", "left", 0, 0), ("edema", "right", 0, 1), ("edema", "left", -1, 1)]
    spans = Spans(
        start=torch.zeros(4, dtype=torch.int64),
        end=torch.ones(4, dtype=torch.int64),
        owner=torch.tensor([owner for *_, owner in said]),
        code=torch.tensor([concept_code(code, side, None) for code, side, _, _ in said]),
        assertion=torch.tensor([assertion for _, _, assertion, _ in said]),
    )
    assert triplets(spans, 2, codes).tolist() == [[[1, -1], [-1, -1]], [[-1, -1], [-1, 0]]]


def test_medslip_draws_the_same_negatives_on_any_rank() -> None:
    allowed = torch.rand(4, 6, 3) > 0.4
    batch = batch_of(4)
    chosen = sampled_negatives(allowed, 2, batch, "findings")
    assert bool((chosen <= allowed).all()) and int(chosen.sum(1).max()) == 2
    alone = batch_of(1)
    alone.keys = batch.keys[2:3]
    assert torch.equal(sampled_negatives(allowed[2:3], 2, alone, "findings"), chosen[2:3])
    batch.cursor = 7
    assert not torch.equal(sampled_negatives(allowed, 2, batch, "findings"), chosen)


def test_the_loaders_concept_codes_are_the_objectives() -> None:
    mention = Mention(text="nodule", code="nodule", start=0, end=6, side="left", zone=None)
    sample = Sample(key="k", image=b"", report=Report("nodule left."), concepts=(mention,))
    assert phrases_of(sample) == [("nodule left.", concept_code("nodule", "left", None))]


@pytest.mark.parametrize(("normalise", "expected"), [(False, 0.5), (True, 7.038912)])
def test_masked_error(normalise: bool, expected: float) -> None:
    target, predicted = tensor([[[1, 2, 3, 4], [0, 0, 4, 4]]]), tensor([[[1, 1, 3, 5], [0, 1, 4, 3]]])
    found = masked_error(predicted, target, torch.tensor([[1, 0]]), normalise)
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_cells_are_the_images_pixels() -> None:
    image = torch.arange(2 * 4 * 6, dtype=torch.float32).reshape(1, 2, 4, 6)
    found = cells(image, (2, 3), (2, 2))
    assert found.shape == (1, 6, 8)
    corner = image[0, :, 2:4, 2:4]  # row 1, column 1
    assert torch.equal(found[0, 4].reshape(2, 2, 2), corner.permute(1, 2, 0))


@pytest.mark.parametrize(
    ("sigma", "temperature", "released", "renormalised"),
    [
        (0.0, 0.1, 2.134266, 2.134266), (0.0, 1.0, 1.525311, 1.525311),
        (12.0, 0.1, 4.362039, 4.362039), (12.0, 1.0, 1.748088, 1.748088),
        (24.0, 0.1, 6.557595, 6.675898), (24.0, 1.0, 1.943014, 1.979474),
    ],
)  # fmt: skip
def test_depth_localisation(sigma: float, temperature: float, released: float, renormalised: float) -> None:
    """Eight planes of 12 mm; of the first volume the last two show nothing. Published code and formula."""
    wave = [[[0.7 * d + 0.3 * k * (s + 1) for k in range(4)] for d in range(8)] for s in range(2)]
    planes = torch.cos(tensor(wave)) + 0.1 * torch.arange(4, dtype=torch.float64)
    texts = tensor([[1, 0.5, 0, -0.5], [0, 1, 1, 0.2]])
    entries = Depths(
        owner=torch.tensor([0, 1]),
        tokens=batch_of(2).text,
        place=tensor([10, 26]),
        unit=tensor([3, 3]),
        seen=tensor([[0, 24], [0, 32]]),
    )
    grid = Grid((8, 1, 1), (4.0, 4.0, 4.0), (2.0, 2.0, 2.0))
    tree = {"kind": "depth", "sigma": sigma, "temperature": temperature}
    for renormalise, expected in ((False, released), (True, renormalised)):
        found = run(
            {**tree, "renormalise": renormalise}, 2, {"extras": {"depths": entries}},
            patches=planes, grid=grid, extras={"depths": texts},
        )  # fmt: skip
        assert found.total.item() == pytest.approx(expected, abs=1e-6)


def test_targets_of_an_organ_decide_its_loss() -> None:
    """Texts: abnormal A, normal, normal and more, abnormal A; cosines given, temperature .07."""
    cosines = tensor([[0.9, 0.2, 0.1, 0.4], [0.3, 0.8, 0.7, 0], [0.2, 0.6, 0.9, 0.1], [0.5, 0.1, 0, 0.7]])
    facts = torch.tensor([[0, 0, 1], [0, 1, 2], [0, 1, 3], [0, 0, 1]])
    place, eye, scale = torch.arange(4), torch.eye(4, dtype=torch.float64), tensor(1 / 0.07)
    target, same = positive_shares(facts, place, facts, "normal")
    halves = torch.tensor([[0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0], [0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5]])
    assert torch.equal(target, halves) and bool(same.all())
    # Images that are the cosines and texts that are unit vectors have these products; the other direction's are transposed.
    for matches, expected in (("normal", 2.016219), ("own", 0.051933)):
        found = organ_losses(cosines, eye, facts, place, cosines, eye, facts, scale, matches).sum(0)
        torch.testing.assert_close(found, tensor([expected, 1]), rtol=0, atol=1e-6)


def test_query_pooling() -> None:
    tokens, query = tensor([[[1, 0], [0, 1], [1, 1], [2, 0]]]), tensor([[1, 0.5]])
    masks = {(1.257241, 0.412521): [True] * 4, (1.355447, 0.188239): [True, True, False, True]}
    for expected, mask in masks.items():
        found = query_pooling(tokens, torch.tensor([[mask]]), query, torch.eye(2, dtype=torch.float64))
        torch.testing.assert_close(found, tensor([[expected]]), rtol=0, atol=1e-6)


def test_prompt_pairs_of_volumes_are_assertions() -> None:
    """The published loss is a binary cross-entropy of s (v . t+ - v . t-), over what is known: `assertion` at tau 1 / s."""
    prompts = tensor([[1, 1, 0, 1], [1, 0, 1, 0], [0, 2, 1, 1], [0, 0, 1, -1]])
    asked = Prompts(
        tokens=batch_of(4).text,
        rows=torch.arange(4),
        findings=["a", "b"],
        asserted=torch.tensor([[1, 0], [0, -2], [-2, 1]], dtype=torch.int8),
    )
    tree = {"kind": "assertion", "findings": {"a": "a", "b": "b"}, "temperature": 0.1}
    assert run(tree, 3, {"prompts": asked}, prompts=prompts).total.item() == pytest.approx(1.518913, abs=1e-6)
