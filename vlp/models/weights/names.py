"""One name for each weight, whatever library wrote it: DINOv2's, MAE's, timm's, open_clip's, transformers' and MONAI's.

Both the file and the tower are brought to these names, so that no pair of libraries needs a table of its own. A fused
query-key-value matrix becomes three views into it: copying into a view fills the matrix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

RULES: list[tuple[str, str]] = [
    # where the layers are
    (r"^blocks\.\d+\.(\d+)\.(?=norm|attn|mlp|ls)", r"block.\1."),  # DINOv2 trained in chunks
    (r"^(?:transformer\.resblocks|(?:encoder|model)\.layers?|layers?|blocks)\.(\d+)\.", r"block.\1."),
    # before the layers
    (
        r"^(?:embeddings\.patch_embeddings\.projection|embeddings\.patch_embeddings?|patch_embedding\.patch_embeddings"
        r"|patch_embed\.proj|conv1)\.",
        "patch.",
    ),
    (r"^(?:embeddings\.cls_token|embeddings\.class_embedding|class_embedding|cls_token)$", "cls"),
    (
        r"^(?:embeddings\.position_embeddings?(?:\.weight)?|patch_embedding\.position_embeddings|positional_embedding|pos_embed)$",
        "pos",
    ),
    (r"^(?:embeddings\.register_tokens|register_tokens|reg_token|storage_tokens)$", "registers"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^(?:embeddings\.word_embeddings|embeddings\.token_embedding|token_embedding)\.", "tokens."),
    (r"^(?:pre_layrnorm|ln_pre|norm_pre)\.", "norm_pre."),
    # after the layers
    (r"^(?:layernorm|post_layernorm|final_layer_norm|ln_post|ln_final|fc_norm)\.", "norm."),
    # SigLIP's pooling
    (r"^(?:head\.probe|attn_pool\.latent)$", "pool.latent"),
    (r"^head\.attention\.in_proj_(weight|bias)$", r"pool.qkv.\1"),
    (r"^(?:head\.attention\.out_proj|attn_pool\.proj)\.", "pool.out."),
    (r"^head\.layernorm\.", "pool.norm."),
    (r"^head\.mlp\.", "pool.mlp."),
    (r"^attn_pool\.", "pool."),
    # inside a layer
    (r"\.(?:layernorm_before|layer_norm1|ln_1)\.", ".norm1."),
    (r"\.(?:layernorm_after|layer_norm2|ln_2)\.", ".norm2."),
    (r"\.(?:attention\.attention|attention\.self|attention|self_attn|attn)\.(?:query|q_proj)\.", ".attn.q."),
    (r"\.(?:attention\.attention|attention\.self|attention|self_attn|attn)\.(?:key|k_proj)\.", ".attn.k."),
    (r"\.(?:attention\.attention|attention\.self|attention|self_attn|attn)\.(?:value|v_proj)\.", ".attn.v."),
    (r"\.attn\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
    (r"\.attn\.([qkv])_bias$", r".attn.\1.bias"),
    (r"\.(?:attention\.output\.dense|attention\.o_proj|self_attn\.out_proj|attn\.out_proj|attn\.proj)\.", ".attn.out."),
    (r"\.(?:intermediate\.dense|mlp\.fc1|mlp\.linear1|mlp\.c_fc)\.", ".mlp.1."),
    (r"(\.\d+)\.(?:output\.dense|mlp\.fc2|mlp\.linear2|mlp\.c_proj)\.", r"\1.mlp.2."),
    # a gated one: silu(gate) * up, in one matrix or in two
    (r"\.(?:mlp\.w12|mlp\.weights_in)\.", ".mlp.gated."),
    (r"\.(?:mlp\.gate_proj|mlp\.fc1_g|mlp\.w1)\.", ".mlp.gate."),
    (r"\.(?:mlp\.up_proj|mlp\.fc1_x|mlp\.w2)\.", ".mlp.up."),
    (r"\.(?:mlp\.down_proj|mlp\.w3|mlp\.weights_out)\.", ".mlp.2."),
    (r"\.(?:ls1\.gamma|ls_1\.gamma|layer_scale1\.lambda1|gamma_1)$", ".scale1"),
    (r"\.(?:ls2\.gamma|ls_2\.gamma|layer_scale2\.lambda1|gamma_2)$", ".scale2"),
    # BERT's first checkpoints
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
]
_COMPILED = [(re.compile(pattern), replacement) for pattern, replacement in RULES]
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
    for pattern, replacement in _COMPILED:
        name = pattern.sub(replacement, name)
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
    long = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    short = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    renamed: dict[str, Tensor] = {}
    for name, value in source.items():
        match = re.match(r"_blocks\.(\d+)\.(_\w+)\.(.*)", name)
        if match and int(match.group(1)) < len(blocks):
            block = blocks[int(match.group(1))]
            table = long if block in expands else short
            renamed[f"{block}.{table.get(match.group(2), match.group(2))}.{match.group(3)}"] = value
        else:
            first, _, rest = name.partition(".")
            renamed[f"{outside.get(first, first)}.{rest}"] = value
    return renamed
