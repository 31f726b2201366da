"""The embedder that `--model` names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vlp.core.config import ConfigError
from vlp.core.errors import first_line
from vlp.core.registry import UnknownNameError

from .base import Embedder, libraries


def load(name: str, device: str | None = None, trust: Sequence[str] = ()) -> Embedder:
    """Return the embedder that `--model` names: a folder of ours, `LIBRARY:NAME`, or `module:factory` of your own.

    `trust`: modules whose towers a folder of ours may name. Raises ConfigError saying what was tried.
    """
    import torch

    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {where}: {first_line(error)}") from None
    library, colon, rest = name.partition(":")
    if not (colon and library in libraries) and Path(name).exists():
        library, colon, rest = "vlp", ":", name
    if colon and library in libraries:
        found: Embedder = libraries.get(library).load(rest, where, trust)
        return found
    if colon and not name.startswith((".", "/")):
        try:
            factory: Callable[[], Embedder] = libraries.get(name)  # of another package: made without arguments
        except UnknownNameError as error:
            raise ConfigError(f"--model {name}: {error}") from None
        return factory()
    raise ConfigError(
        f"--model {name}: no such folder; expected a run's checkpoint or export, open_clip:NAME[,PRETRAINED], hf:PATH "
        "or module:factory"
    )
