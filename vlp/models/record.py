"""What a saved model's `config.json` must hold, checked before anything is built of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import field, fields
from typing import Any

from vlp.core.config import ConfigError, config, validate
from vlp.core.trust import check_module, check_tower
from vlp.modalities.base import processors
from vlp.needs import needs

from .dual_encoder import ModelConfig
from .towers.base import towers_of


@config
class Record:
    """What rebuilds a model; the rest of the file is told, not used."""

    model: ModelConfig
    needs: tuple[str, ...]
    scale_init: tuple[float, float | None] | None
    preprocess_fingerprint: str
    tokenizer_fingerprint: str
    weights_sha256: str
    processor_fingerprints: dict[str, str] = field(default_factory=dict)
    objectives_sha256: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(
            need for need in self.needs if need not in needs and ":" not in need[:200] and need[:7] != "extras."
        )
        if unknown:
            raise ValueError(f"needs: this vlp does not know {', '.join(unknown)[:200]}; update vlp")
        if self.scale_init is not None and not all(
            math.isfinite(value) for value in self.scale_init if value is not None
        ):
            raise ValueError("scale_init: expected finite numbers")


def read_record(saved: Mapping[str, Any], trust: Collection[str], where: str) -> Record:
    """Return the checked record of a model that comes from elsewhere.

    Raises ConfigError for a wrong type or value, and for a tower that is not registered and whose module is not in `trust`.
    """
    names = {item.name for item in fields(Record)}
    record = validate(Record, {key: value for key, value in saved.items() if key in names}, where)
    for name in sorted(record.model.encoders):
        if name not in processors:  # never a name to import
            raise ConfigError(
                f"{where}: model.encoders: this vlp has no modality {name[:80]!r}; import its module first"
            )
    for name, tree in {"image": record.model.image, "text": record.model.text, **record.model.encoders}.items():
        check_tower(tree, towers_of(name), trust, f"{where}: model.{name}")
    for name in record.needs:
        if ":" in name:
            check_module(name, trust, f"{where}: needs")
    return record
