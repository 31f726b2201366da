"""Our own format: everything, for `vlp.from_pretrained`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .hub import Pretrained


def write(loaded: Pretrained, folder: Path, approximate: bool) -> list[str]:
    """Write the model as `save_pretrained` does; returns what the user should know of it."""
    from .hub import save_pretrained

    save_pretrained(folder, loaded.model, loaded.preprocess, loaded.tokenizer, loaded.config.get("extra"))
    return []
