"""An engine's tensors on disk: torch's distributed checkpoint, stored as safetensors.

Each rank writes the pieces it holds; any number of ranks reads them back, whole or cut differently. Safetensors instead
of torch's own storage, whose metadata is a pickle: nothing is ever unpickled here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp.core import distributed
from vlp.core.config import ConfigError


def write_state(state: dict[str, Tensor], folder: Path) -> None:
    """Write named tensors (plain ones are equal on all ranks, DTensors hold this rank's piece). Collective.

    Raises OSError on every rank when one cannot write.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    failures = set(filter(None, distributed.attempt(lambda: folder.mkdir(parents=True, exist_ok=True))))
    if failures:  # before a rank waits in `save` for a rank that has no folder
        raise OSError("; ".join(sorted(failures)))
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    # in the plain layout: it cannot write channels-last tensors
    pieces = {name: value.contiguous() for name, value in _at_least_1d(state).items()}
    try:
        with _quiet():
            save(pieces, storage_writer=writer, no_dist=not distributed.is_distributed())
    except CheckpointException as error:
        raise OSError(_failures(error)) from None


def read_state(state: dict[str, Tensor], folder: Path) -> set[str]:
    """Fill named tensors in place from a folder and return the names that it holds. Collective.

    Optimiser state that was never saved (of a parameter that never had a gradient) may be missing; raises ConfigError
    for a missing parameter or buffer, a shape that differs, a parameter that nothing here is called, and a damaged file.
    """
    from safetensors import SafetensorError
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    if not folder.is_dir():
        raise ConfigError(f"{folder}: no engine state to resume from")
    reader = HuggingFaceStorageReader(str(folder))
    try:
        metadata: dict[str, Any] = reader.read_metadata().state_dict_metadata
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{folder}: the engine state cannot be read: {error}") from None
    saved: dict[str, torch.Size] = {name: about.size for name, about in metadata.items()}
    wanted = {name: value for name, value in _at_least_1d(state).items() if name in saved}
    missing = [name for name in state if name not in saved and name.startswith(("param.", "buffer."))]
    unknown = [name for name in saved if name not in state and name.startswith("param.")]
    shapes = [
        f"{name} {tuple(saved[name])} -> {tuple(wanted[name].shape)}"
        for name in wanted
        if saved[name] != wanted[name].shape
    ]
    for what, names in (("lacks", missing), ("holds unknown", unknown), ("has other shapes for", shapes)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ConfigError(f"{folder} {what} {', '.join(names[:3])}{more}: it is another model's state")
    try:
        with _quiet():
            load(wanted, storage_reader=reader, no_dist=not distributed.is_distributed())
    except CheckpointException as error:
        raise ConfigError(f"{folder}: the engine state cannot be read: {_failures(error)}") from None
    return set(wanted)


def _failures(error: Any) -> str:
    """Return what went wrong on which rank, of torch's error for it: a BaseException, which handlers of errors miss."""
    found = {" ".join(str(failure).split())[:200] for failure, _ in error.failures.values()}
    return "; ".join(sorted(found))


def _at_least_1d(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return views of shape (1,) for 0-dim tensors, which the storage cannot slice."""
    return {name: value.view(1) if value.ndim == 0 else value for name, value in state.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out torch's remarks that a single process is a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
