"""One name for each weight, whatever library wrote it: DINOv2's, MAE's, timm's, open_clip's, transformers' and MONAI's.

Both the file and the tower are brought to these names, so that no pair of libraries needs a table of its own. A fused
query-key-value matrix becomes three views into it: copying into a view fills the matrix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from vlp.core.config import read_yaml

TABLES = read_yaml(Path(__file__).with_name("names.yaml"))
_RULES = [(re.compile(pattern), common) for pattern, common in TABLES["rules"].items()]
_FUSED = {"qkv": ("q", "k", "v"), "kv": ("k", "v"), "gated": ("gate", "up")}


class Part(NamedTuple):
    """A tensor, or a third of a fused one, and the name that it has in its own library."""

    name: str
    value: Tensor


def canonical(state: Mapping[str, Tensor]) -> dict[str, Part]:
    """Return the tensors of a tower under the common names; those without one keep theirs."""
    common = {name: _renamed(name) for name in state}
    shapes = {common[name]: value.shape for name, value in state.items()}
    found: dict[str, Part] = {}
    for name, value in state.items():
        for one, part in _split(_by_shape(common[name], shapes), value):
            found[one if one not in found else name] = Part(name, part)
    return found


def _renamed(name: str) -> str:
    for pattern, common in _RULES:
        name = pattern.sub(common, name)
    return name


def _by_shape(name: str, shapes: Mapping[str, Sequence[int]]) -> str:
    """Tell a gated MLP from a plain one where their spellings are the same: timm's fc1 is both, DINOv3's up_proj too."""
    block, inside, rest = name.partition(".mlp.")
    first, last = shapes.get(f"{block}.mlp.1.weight"), shapes.get(f"{block}.mlp.2.weight")
    if inside and rest.startswith("1.") and first is not None and last is not None and first[0] == 2 * last[1]:
        return f"{block}.mlp.gated.{rest[2:]}"
    if inside and rest.startswith("up.") and f"{block}.mlp.gate.weight" not in shapes:
        return f"{block}.mlp.1.{rest[3:]}"
    return name


def _split(name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    stem, _, last = name.rpartition(".")
    before, _, fused = stem.rpartition(".")
    if fused in _FUSED and before.endswith(("attn", "pool", "mlp")):
        letters = _FUSED[fused]
        pieces = value.chunk(len(letters), 0)
        return [(f"{before}.{letter}.{last}", piece) for letter, piece in zip(letters, pieces, strict=True)]
    return [(name, value)]


def looks_like_sam(names: Mapping[str, Tensor]) -> bool:
    """Return whether a file holds a SAM-style image encoder: relative positions and a neck, no class token."""
    return any(name.endswith(("attn.rel_pos_h", "attn.rel_pos_w")) for name in names)


def tensorflow_efficientnet(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an EfficientNet in the TensorFlow port's spelling (`_blocks.3._depthwise_conv`) under timm's names.

    timm groups the blocks by stage; the port counts them through. The first stage has no expansion.
    """
    blocks = list(
        dict.fromkeys(match.group(1) for name in target if (match := re.match(r"(blocks\.\d+\.\d+)\.", name)))
    )
    expands = {block for block in blocks if f"{block}.conv_pwl.weight" in target}
    tables = TABLES["efficientnet"]
    renamed: dict[str, Tensor] = {}
    for name, value in source.items():
        match = re.match(r"_blocks\.(\d+)\.(_\w+)\.(.*)", name)
        if match and int(match.group(1)) < len(blocks):
            block = blocks[int(match.group(1))]
            table = tables["long" if block in expands else "short"]
            renamed[f"{block}.{table.get(match.group(2), match.group(2))}.{match.group(3)}"] = value
        else:
            first, _, rest = name.partition(".")
            renamed[f"{tables['outside'].get(first, first)}.{rest}"] = value
    return renamed
