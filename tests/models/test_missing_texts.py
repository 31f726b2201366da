"""What the model computes for rows without a text is seen by no batch normalisation."""

from __future__ import annotations

import pytest
import torch

from vlp.models.heads import BatchNorm, HeadConfig, build_head, project


@pytest.mark.parametrize("shape", [(6, 4), (6, 3, 4)], ids=["pooled", "tokens"])
def test_rows_without_a_text_change_no_statistic(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    head = build_head(HeadConfig(kind="bn_mlp"), 4, 5, "head").train()
    other = build_head(HeadConfig(kind="bn_mlp"), 4, 5, "head").train()
    other.load_state_dict(head.state_dict())
    states = torch.randn(shape)
    kept = [0, 2, 3, 5]
    real = torch.zeros(shape[:-1], dtype=torch.bool)
    real[kept] = True
    found, expected = project(head, states, real)[kept], other(states[kept])
    torch.testing.assert_close(found, expected)
    for name, value in head.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name])


def test_a_batch_without_any_text_teaches_a_normalisation_nothing() -> None:
    norm = BatchNorm(4).train()
    found = norm(torch.randn(3, 4), torch.zeros(3, dtype=torch.bool))
    assert torch.isfinite(found).all()
    assert torch.equal(norm.running_mean, torch.zeros(4)) and torch.equal(norm.running_var, torch.ones(4))
