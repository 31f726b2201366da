"""The embedder for a path: a vlp folder, an open_clip or a transformers model."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from vlp.core.config import ConfigError
from vlp.core.errors import first_line

from .base import Embedder
from .vlp import FolderEmbedder


def load(name: str, device: str | None = None, trust: Sequence[str] = ()) -> Embedder:
    """Return the embedder that `--model` names: a folder of ours, `open_clip:`, `hf:`, or `module:factory`.

    `trust`: modules whose towers a folder of ours may name. Raises ConfigError saying what was tried.
    """
    import torch

    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {where}: {first_line(error)}") from None
    if name.startswith("open_clip:"):
        from .open_clip import OpenClipEmbedder

        opened: Embedder = OpenClipEmbedder.load(name.removeprefix("open_clip:"), where)
        return opened
    if name.startswith("hf:"):
        from .transformers import TransformersEmbedder

        found: Embedder = TransformersEmbedder.load(name.removeprefix("hf:"), where)
        return found
    if Path(name).exists():
        return FolderEmbedder.load(Path(name), where, trust)
    if ":" in name and not name.startswith((".", "/")):
        module, _, factory = name.partition(":")
        try:
            made: Embedder = getattr(importlib.import_module(module), factory)()
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"--model {name}: cannot import it: {error}") from None
        return made
    raise ConfigError(
        f"--model {name}: no such folder; expected a run's checkpoint or export, open_clip:NAME[,PRETRAINED], hf:PATH "
        "or module:factory"
    )
