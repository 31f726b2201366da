"""Initial weights for a tower or a whole model, from wherever they are, with a report of what happened to each tensor."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..config import ConfigError
from .weights import read_weights

if TYPE_CHECKING:
    from .dual_encoder import DualEncoder

log = logging.getLogger("vlp")


@dataclass(slots=True)
class Report:
    """What became of the tensors: names of the model's that were `loaded` or are `missing`, of the file's `unexpected`.

    `resized` names tensors whose shape was changed on the way, with both shapes.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    @property
    def share(self) -> float:
        return len(self.loaded) / max(len(self.loaded) + len(self.missing), 1)

    def __str__(self) -> str:
        def few(names: list[str]) -> str:
            return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "none"

        sizes = [f"{name} {list(old)} -> {list(new)}" for name, (old, new) in self.resized.items()]
        return (
            f"{self.source}: loaded {len(self.loaded)} of {len(self.loaded) + len(self.missing)} tensors; "
            f"missing {few(self.missing)}; unexpected {few(self.unexpected)}; resized {few(sizes)}"
        )


def fit(module: nn.Module, tensors: dict[str, Tensor], source: str) -> Report:
    """Copy `tensors` into `module` where name and shape agree; nothing else is touched."""
    report = Report(source)
    own = module.state_dict()
    taken: dict[str, Tensor] = {}
    for name, value in own.items():
        if name in tensors and tensors[name].shape == value.shape:
            taken[name] = tensors[name]
            report.loaded.append(name)
        else:
            report.missing.append(name)
    report.unexpected = sorted(set(tensors) - set(taken))
    module.load_state_dict(taken, strict=False)
    return report


def require(report: Report, minimum: float, where: str) -> Report:
    """Log the report and return it; raises ConfigError when less than the share `minimum` was loaded."""
    log.info("%s <- %s", where, report)
    if report.share < minimum:
        raise ConfigError(
            f"{where}.pretrained: {report}. That is {report.share:.0%}, less than {where}.minimum_loaded={minimum:.0%}: "
            "probably weights of another architecture"
        )
    return report


def load_initial(model: DualEncoder) -> dict[str, Report]:
    """Load the initial weights that the configuration names; returns the reports by part (`model`, `image`, `text`)."""
    reports: dict[str, Report] = {}
    config = model.config
    if config.pretrained:
        report = fit(model, read_weights(Path(config.pretrained)), config.pretrained)
        reports["model"] = require(report, config.minimum_loaded, "model")
    for name, tower in (("image", model.image_tower), ("text", model.text_tower)):
        source = tower.config.pretrained
        if source:
            report = fit(tower, read_weights(Path(source)), source)
            reports[name] = require(report, tower.config.minimum_loaded, f"model.{name}")
    return reports
