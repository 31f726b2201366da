"""Row 7: the engine's optimiser step beside AdamW as torch makes it by default, on the parameters of a small dual encoder."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..options import Options
from ..result import Result, compare, cpu_ms, interleave
from .training import build_step


def run(options: Options) -> Iterator[Result]:
    from vlp.train.optimizer import OptimConfig, build_optimizer, parameter_groups

    torch.set_num_threads(1)
    steps = 3 if options.quick else 10
    modules = {name: build_step(depth=3 if options.quick else 12) for name in ("ours", "default")}
    for module in modules.values():
        for parameter in module.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    config = OptimConfig(lr=1e-6)
    mine = build_optimizer(parameter_groups(modules["ours"], config), config)
    plain = torch.optim.AdamW(modules["default"].parameters(), lr=1e-6)

    def many(optimizer: torch.optim.Optimizer) -> float:
        return cpu_ms(lambda: [optimizer.step() for _ in range(steps)]) / steps

    found = interleave({"ours": lambda: many(mine), "default": lambda: many(plain)}, options.repeats)
    size = sum(one.numel() for one in modules["ours"].parameters()) / 1e6
    yield compare("7", "optimiser step, ms of CPU", "torch.optim.AdamW's defaults", "ms", found["ours"], found["default"], 2.0,
                  note=f"{size:.1f} million parameters in {sum(1 for _ in modules['ours'].parameters())} tensors")  # fmt: skip
