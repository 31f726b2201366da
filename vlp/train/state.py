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

from .. import dist
from ..config import ConfigError


def write_state(state: dict[str, Tensor], folder: Path) -> None:
    """Write named tensors (plain ones are equal on all ranks, DTensors hold this rank's piece). Collective.

    Raises OSError on every rank when one cannot write.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    failures = {one for one in dist.attempt(lambda: folder.mkdir(parents=True, exist_ok=True)) if one}
    if failures:  # before anybody waits in `save` for a rank that has no folder
        raise OSError("; ".join(sorted(failures)))
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        with _quiet():
            save(_contiguous(_at_least_1d(state)), storage_writer=writer, no_dist=not dist.is_distributed())
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
        metadata: dict[str, Any] = dict(reader.read_metadata().state_dict_metadata)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{folder}: the engine state cannot be read: {error}") from None
    saved: dict[str, torch.Size] = {name: one.size for name, one in metadata.items()}
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
            load(wanted, storage_reader=reader, no_dist=not dist.is_distributed())
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


def _contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies in the plain layout where a tensor has another (channels last), which the storage cannot write."""
    return {name: value.contiguous() for name, value in state.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out torch's remarks that a single process is a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def seed_all(seed: int) -> None:
    """Seed every generator of this process that training may draw from."""
    import random

    import numpy as np

    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - not ours, but a library may draw from it


def random_states() -> dict[str, Tensor]:
    """Return the state of every generator of this process that training may draw from, as uint8 tensors."""
    import random

    import numpy as np

    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    _, words, _ = random.getstate()
    states["python"] = torch.tensor(words, dtype=torch.int64)
    legacy: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    states["numpy"] = torch.tensor([*legacy[1].tolist(), legacy[2]], dtype=torch.int64)
    return states


def set_random_states(states: dict[str, Tensor]) -> None:
    """Put every generator back to where `random_states` saw it."""
    import random

    import numpy as np

    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    random.setstate((3, tuple(states["python"].tolist()), None))
    *keys, position = states["numpy"].tolist()
    legacy: Any = ("MT19937", np.array(keys, dtype=np.uint32), position)
    np.random.set_state(legacy)  # noqa: NPY002


def write_random_states(states: dict[str, Tensor], folder: Path, rank: int) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(states, folder / f"rank-{rank:05d}.safetensors")


def read_random_states(folder: Path, rank: int) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    states: dict[str, Tensor] = load_file(folder / f"rank-{rank:05d}.safetensors")
    return states
