"""Reading weights from files and folders, safely: safetensors, or pickles of which nothing but tensors is unpickled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp.core.config import ConfigError
from vlp.core.errors import first_line
from vlp.core.registry import did_you_mean
from vlp.core.untrusted import is_relative_name, read_json

CONTAINERS = ("model", "state_dict", "teacher", "target_encoder", "student", "module", "encoder")
"""Keys under which training scripts put the state dict, in the order of preference: I-JEPA's teacher is `target_encoder`."""

STUDENTS = ("student", "encoder")
"""Of these, the network that was trained itself."""

PICKLES = (".pt", ".pth", ".bin", ".tar", ".ckpt")
"""Endings of torch's files; I-JEPA's is `.pth.tar`."""

IN_FOLDER = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)


def locate_weights(source: str, where: str) -> Path:
    """Return the folder or file that a recipe's `pretrained` means.

    A path; `hf:owner/name` (or `hf:owner/name/file`) in the local cache or on the Hub; `open_clip:MODEL/TAG` likewise.
    Raises ConfigError, with the key, for what is in none of these places.
    """
    if source.startswith("hf:"):
        from huggingface_hub import hf_hub_download, snapshot_download

        owner, _, rest = source[3:].partition("/")
        name, _, file = rest.partition("/")
        try:
            if file:
                return Path(hf_hub_download(f"{owner}/{name}", file))
            wanted = ["*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*config.json"]
            return Path(snapshot_download(f"{owner}/{name}", allow_patterns=wanted))
        except Exception as error:  # offline, unknown, gated: each library layer has its own kind
            raise ConfigError(f"{where}: {source!r} is neither cached nor to be had ({type(error).__name__})") from None
    if source.startswith("open_clip:"):
        from open_clip.pretrained import download_pretrained, get_pretrained_cfg

        model, _, tag = source.removeprefix("open_clip:").partition("/")
        found = get_pretrained_cfg(model, tag)
        if not found:
            raise ConfigError(f"{where}: open_clip has no weights {tag!r} for {model!r}")
        try:
            return Path(download_pretrained(found))
        except Exception as error:
            raise ConfigError(f"{where}: {source!r} is neither cached nor to be had ({type(error).__name__})") from None
    return Path(source)


def read_weights(source: Path | str, student: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a folder or of a `.safetensors`, `.pt`, `.pth` or `.bin` file, by name, on the CPU.

    Of a file that holds both a teacher and a student, the teacher unless `student`. Raises ConfigError naming the file
    when it is missing, truncated, or holds anything but tensors and plain values.
    """
    path = Path(source)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        near = did_you_mean(path.name, [file.name for file in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise ConfigError(f"no such file: {path}{near}")
    if path.suffix == ".json":
        return _sharded(path)
    found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    return unpack(found, path, student)


def _in_folder(folder: Path) -> Path:
    for name in IN_FOLDER:
        if (folder / name).is_file():
            return folder / name
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", *PICKLES))
    if len(files) == 1:
        return files[0]
    if not files:
        raise ConfigError(f"no weights in {folder}: expected {IN_FOLDER[0]} or {IN_FOLDER[2]}")
    raise ConfigError(f"several weights in {folder}, name one: {', '.join(file.name for file in files)}")


def _sharded(index: Path) -> dict[str, Tensor]:
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(f"cannot read {index}: {error}") from None
    merged: dict[str, Tensor] = {}
    for name in names:
        is_beside = isinstance(name, str) and "/" not in name and is_relative_name(name)
        if not is_beside or Path(name).suffix not in (".safetensors", *PICKLES):
            raise ConfigError(f"{index}: the shard {name!r} is not a file beside it")
        merged.update(read_weights(index.parent / name))
    return merged


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, Tensor] = load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: it is truncated or no safetensors file ({error})") from None
    return found


def _read_pickle(path: Path) -> Any:
    import argparse
    import pickle

    try:
        # MAE's training script, and all that grew from it, keeps its arguments beside the model: plain values in a namespace
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # the rest of torch's message tells how to run it all the same
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ConfigError(
            f"{path} holds more than tensors{f' ({named.group(1)})' if named else ''}, which is not loaded because "
            "unpickling can run code; convert it to safetensors where you trust it"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        if "TorchScript" in str(error):
            raise ConfigError(
                f"{path} is a TorchScript archive, which holds a program: it is not loaded. Save its state_dict() as "
                "safetensors where you trust it"
            ) from None
        raise ConfigError(f"cannot read {path}: it is truncated or no torch file ({first_line(error)})") from None


def unpack(found: Any, path: Path | str, student: bool = False) -> dict[str, Tensor]:
    """Return the state dict inside what a file held: bare, or under one of the `CONTAINERS`."""
    if isinstance(found, Mapping):
        for name in (*STUDENTS, *CONTAINERS) if student else CONTAINERS:
            if isinstance(found.get(name), Mapping):
                return unpack(found[name], path, student)
        tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise ConfigError(
        f"{path} holds no weights: expected tensors by name, bare or under one of {', '.join(CONTAINERS)}"
    )
