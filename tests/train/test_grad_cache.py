"""Chunks of a batch: the gradients of the whole, whatever couples its rows."""

import dataclasses
from typing import Any

import pytest
import torch

from tests.train.toys import FINDINGS, PLACES, WIDTH, batch, fields_of, step_of
from vlp.core.config import ConfigError
from vlp.objectives import objectives
from vlp.train.engines.base import EngineConfig
from vlp.train.engines.torch import TorchEngine
from vlp.train.grad_cache import accumulate_gradients, check_accumulation, split_batch
from vlp.train.optimizer import OptimConfig
from vlp.train.train_step import merge_outputs

ASSERTION = {"kind": "assertion", "findings": {one: one for one in FINDINGS}}
PHRASES = {"kind": "concept", "align": "none", "of": "phrases", "pool": "lse", "loss": "softmax"}
MEDSLIP = {
    "kind": "medslip", "findings": list(FINDINGS), "places": PLACES, "width": 8, "layers": 1, "heads": 2, "negatives": 1,
}  # fmt: skip
MAE = {"kind": "mae", "patch": 3, "channels": 1, "width": 8, "depth": 1, "heads": 2}
LINES: dict[str, list[Any]] = {
    "assertion": [ASSERTION],
    "multi_text": [{"kind": "multi_text", "texts": {one: [one] for one in FINDINGS}}],
    "medclip": [{"kind": "medclip", "views": 2, "text_labels": "mentions"}],
    "medslip": [MEDSLIP],
    "mae": ["clip", MAE],  # alone it is accumulated plainly: nothing in it couples the rows
    "concept on phrases": [PHRASES],
    "anatomy": [{"kind": "anatomy", "organs": {"lung": {}, "heart": {}}}],
    "depth": [{"kind": "depth", "sigma": 6.0}],
    "label_aware by category": [{"kind": "label_aware", "by": "category"}],
    "clip by group": [{"kind": "clip", "positives": "group"}],
}
COUPLED = sorted({*(kind for kind in objectives if kind != "example_margin"), *LINES})
"""Every registered objective, those with required settings as lines of a recipe, and some other forms."""


def lines_of(kind: str) -> list[Any]:
    return LINES.get(kind, [kind])


def engine_of(kinds: list[Any], dropout: float = 0.0) -> TorchEngine:
    step = step_of(kinds, dropout).double()
    return TorchEngine(step, OptimConfig(), EngineConfig(), torch.device("cpu"))


def grads(engine: TorchEngine) -> dict[str, torch.Tensor]:
    return {name: one.grad.clone() for name, one in engine.module.named_parameters() if one.grad is not None}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(one.abs().max()) for one in expected.values())
    assert largest > 0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance * largest, msg=name)


@pytest.mark.parametrize("kind", COUPLED)
@pytest.mark.parametrize("chunks", [2, 4])
def test_cached_accumulation_has_the_whole_batchs_gradients(kind: str, chunks: int) -> None:
    whole, cached = engine_of(lines_of(kind)), engine_of(lines_of(kind))
    assert whole.module.objectives.batch_coupled
    torch.manual_seed(5)  # of the objective's own dropout
    expected = accumulate_gradients(whole, batch(), 0.5, 1, False)
    torch.manual_seed(5)
    found = accumulate_gradients(cached, batch(), 0.5, chunks, True)
    torch.testing.assert_close(found.total, expected.total)
    assert found.parts.keys() == expected.parts.keys()
    assert_same(grads(cached), grads(whole), 1e-12)


def test_several_objectives_at_once() -> None:
    kinds = ["convirt", "concept", ASSERTION]
    whole, cached = engine_of(kinds), engine_of(kinds)
    accumulate_gradients(whole, batch(), 0.5, 1, False)
    accumulate_gradients(cached, batch(), 0.5, 4, True)
    assert_same(grads(cached), grads(whole), 1e-12)


@pytest.mark.parametrize("kind", [*COUPLED, "several"])
def test_dropout_is_replayed(kind: str) -> None:
    """The oracle keeps every graph: chunks in the order in which cached accumulation first computes them."""
    kinds = ["convirt", "concept"] if kind == "several" else lines_of(kind)
    cached, oracle = engine_of(kinds, dropout=0.5), engine_of(kinds, dropout=0.5)
    torch.manual_seed(3)
    accumulate_gradients(cached, batch(), 0.5, 4, True)
    after = torch.rand(1)
    torch.manual_seed(3)
    first, *others = split_batch(batch(), 4)
    outputs = [oracle.embed(dataclasses.replace(chunk, prompts=None)) for chunk in others]
    outputs.insert(0, oracle.embed(first))
    losses = oracle.module.objectives(merge_outputs(outputs, [first, *others], batch()), batch(), 0.5)
    losses.total.backward()
    assert_same(grads(cached), grads(oracle), 1e-12)
    assert torch.equal(after, torch.rand(1)), "the generator goes on from where the first passes left it"


def test_plain_accumulation_is_refused_where_it_would_be_another_loss() -> None:
    with pytest.raises(ConfigError, match=r"train\.accumulate=4.*cached_embeddings=true"):
        check_accumulation(4, False, True)
    check_accumulation(4, True, True)
    check_accumulation(4, False, False)
    check_accumulation(1, False, True)


class RowByRow(torch.nn.Module):
    """A loss of single rows: the mean of chunks' means is the batch's."""

    def forward(self, output: Any, batch: Any, progress: float) -> Any:
        from vlp.batch import Losses

        total = (output.image * output.text).sum(1).square().mean()
        return Losses(total, {"row": total.detach()})


def test_plain_accumulation_of_a_loss_of_rows() -> None:
    whole, parts = engine_of(["clip"]), engine_of(["clip"])
    for engine in (whole, parts):
        engine.module.objectives = RowByRow()
    expected = accumulate_gradients(whole, batch(), 0.0, 1, False)
    found = accumulate_gradients(parts, batch(), 0.0, 4, False)
    torch.testing.assert_close(found.total, expected.total.detach())
    torch.testing.assert_close(found.parts["row"], expected.parts["row"])
    assert_same(grads(parts), grads(whole), 1e-12)


def test_plain_accumulation_of_masked_images() -> None:
    """`mae` is the one kind of ours that couples no rows: as many cells are blanked in each."""
    whole, parts = engine_of([MAE]), engine_of([MAE])
    assert not whole.module.objectives.batch_coupled
    expected = accumulate_gradients(whole, batch(), 0.5, 1, False)
    found = accumulate_gradients(parts, batch(), 0.5, 4, False)
    torch.testing.assert_close(found.total, expected.total.detach())
    assert_same(grads(parts), grads(whole), 1e-12)


def test_cutting_and_joining_changes_nothing() -> None:
    whole = batch(12)
    model = step_of(["clip"]).model
    expected = fields_of(model(whole))
    chunks = split_batch(whole, 3)
    outputs = [
        model(chunk if index == 0 else dataclasses.replace(chunk, prompts=None)) for index, chunk in enumerate(chunks)
    ]
    found = fields_of(merge_outputs(outputs, chunks, whole))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_chunks_hold_their_own_rows() -> None:
    whole = batch(8)
    whole.extras["age"] = torch.arange(8.0)
    chunks = split_batch(whole, 4)
    assert [key for chunk in chunks for key in chunk.keys] == whole.keys
    assert torch.cat([chunk.extras["age"] for chunk in chunks]).tolist() == list(range(8))
    for index, chunk in enumerate(chunks):
        assert chunk.spans is not None and chunk.phrases is not None and chunk.prompts is not None
        mine = (whole.spans.owner // 2) == index
        assert chunk.spans.code.tolist() == whole.spans.code[mine].tolist()
        assert chunk.spans.owner.tolist() == (whole.spans.owner[mine] - 2 * index).tolist()
        assert sorted(chunk.phrases.code.tolist()) == sorted(
            whole.phrases.code[whole.phrases.owner // 2 == index].tolist()
        )
        assert chunk.prompts.asserted.shape == (2, len(FINDINGS))
    with pytest.raises(ValueError, match="8 rows does not divide into 3"):
        split_batch(whole, 3)


def test_word_tensors_of_different_widths_are_padded() -> None:
    whole = batch(4)
    model = step_of(["clip"]).model
    outputs = [model(chunk) for chunk in split_batch(whole, 2)]
    outputs[1] = dataclasses.replace(outputs[1], words=outputs[1].words[:, :2], word_mask=outputs[1].word_mask[:, :2])
    joined = merge_outputs(outputs, split_batch(whole, 2), whole)
    assert joined.words is not None and joined.words.shape == (4, outputs[0].words.shape[1], WIDTH)
    assert not joined.word_mask[2:, 2:].any()
