"""What a model's configuration may name: components that are registered here, and numbers that shape them. Never code.

Two rules. No configuration, one's own included, reaches the options by which libraries fetch, unpickle or run something:
weights come through `pretrained`. And a configuration that comes with a model constructs registered kinds with listed
options only, unless the user trusts the module that it names.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .config import ConfigError
from .registry import Registry
from .untrusted import check_files, read_object
from .words import words

LOADERS = words(
    """
    checkpoint_path pretrained pretrained_cfg pretrained_cfg_overlay pretrained_model_args cache_dir auto_map
    trust_remote_code use_pretrained_backbone backbone_kwargs quantization_config custom_pipelines code_revision
    hf_hub_id pretrained_backbone
    """
)
"""Options by which timm and transformers read files, fetch, or run code of the folder."""

NOT_READ = words(
    """
    _name_or_path architectures transformers_version torch_dtype dtype id2label label2id task_specific_params
    name_or_path
    """
)
"""Entries of transformers' configurations that say where a model came from or what labels are called, and build nothing."""

TIMM_OPTIONS = words(
    """
    drop_rate drop_path_rate drop_block_rate proj_drop_rate attn_drop_rate pos_drop_rate patch_drop_rate
    head_drop_rate num_classes in_chans img_size global_pool output_stride embed_dim depth num_heads mlp_ratio
    qkv_bias qk_norm init_values layer_scale_init_value class_token reg_tokens no_embed_class dynamic_img_size
    dynamic_img_pad pre_norm fc_norm final_norm pos_embed patch_size window_size window_ratio strict_img_size
    ls_init_value depths dims channels layers widths embed_dims ls_init_values kernel_sizes patch_norm stem_width
    stem_type base_width cardinality avg_down replace_stem_pool channel_multiplier act_layer norm_layer conv_mlp
    head_init_scale head_norm_first use_abs_pos_emb use_rel_pos_bias use_shared_rel_pos_bias use_rot_pos_emb
    swiglu_mlp scale_mlp ref_feat_shape conv_bias use_grn qkv_fused num_prefix_tokens pool_include_prefix
    attn_pool_num_heads bias weight_init
    """
)
"""Options of timm's constructors that a model of others may set: sizes, counts, rates, and names of timm's own layers."""

LIBRARY_OF = {"timm": "timm", "vit3d": "timm", "hf": "transformers", "open_clip": "open_clip", "monai": "monai"}
"""Whose model a kind of tower builds."""

LIBRARIES = tuple(dict.fromkeys(LIBRARY_OF.values()))
"""What may be trusted by these names: any option of theirs but the `LOADERS`."""

FILES = (".bin", ".pt", ".pth", ".tar", ".ckpt", ".safetensors", ".npz", ".npy", ".pkl", ".py", ".so")
DEEPEST = 8


def refuse_loaders(options: Any, where: str) -> None:
    """Raise ConfigError where options, at any depth, have a library read files, fetch, or run code."""
    if isinstance(options, Mapping):
        for key, value in options.items():
            if str(key) in LOADERS and value not in (None, False, "", {}, []):
                raise ConfigError(
                    f"{where}.{key} would have a library read, fetch or run something; weights are named in `pretrained`, "
                    "and code is not taken from a model's folder"
                )
            if str(key) not in NOT_READ:
                refuse_loaders(value, f"{where}.{key}")
    elif isinstance(options, (list, tuple)):
        for value in options:
            refuse_loaders(value, where)


@contextmanager
def never_asking() -> Iterator[None]:
    """Have transformers refuse code of a repository at once, where a library that calls it does not say so itself.

    Left to itself it asks on the terminal whether to run that code.
    """
    from transformers import dynamic_module_utils

    before, dynamic_module_utils.TIME_OUT_REMOTE_CODE = dynamic_module_utils.TIME_OUT_REMOTE_CODE, 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


def check_model_folder(folder: Path, where: str) -> None:
    """Raise ConfigError for a folder of transformers or open_clip that holds what no library should be given to read."""
    try:
        check_files(folder)
    except OSError as error:
        raise ConfigError(f"{where}: {error.filename}: {error.strerror}") from None
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            refuse_loaders(read_object(folder / name), f"{where}: {name}")


def refuse_paths(options: Any, where: str, depth: int = 0) -> None:
    """Raise ConfigError unless options are numbers, words, and lists and mappings of them: no path, URL or repository."""
    if depth > DEEPEST:
        raise ConfigError(f"{where}: nested deeper than an architecture is")
    if isinstance(options, Mapping):
        for key, value in options.items():
            if str(key) not in NOT_READ:
                refuse_paths(value, f"{where}.{key}", depth + 1)
    elif isinstance(options, (list, tuple)):
        for value in options:
            refuse_paths(value, where, depth + 1)
    elif isinstance(options, str):
        if "/" in options or "\\" in options or options.lower().endswith(FILES):
            raise ConfigError(
                f"{where}: an architecture that comes with a model holds numbers and words, found a path or repository"
            )
    elif isinstance(options, float) and not math.isfinite(options):
        raise ConfigError(f"{where}: expected a finite number, found {options}")


def is_trusted(module: str, trust: Collection[str]) -> bool:
    """Return whether a module, or a package that it is in, is among those that the user trusts."""
    return any(module == name or module.startswith(name + ".") for name in trust)


def dotted_modules(*trees: Any) -> tuple[str, ...]:
    """Return the modules that components named by `module:Class` come from."""
    every = [part for tree in trees for part in (tree, *_inner_towers(tree))]
    kinds = [tree.get("kind") if isinstance(tree, Mapping) else tree for tree in every]
    return tuple(kind.partition(":")[0] for kind in kinds if isinstance(kind, str) and ":" in kind)


def _inner_towers(tree: Any) -> list[Any]:
    """Return the configurations of the towers that a tower is made of, such as that on each slice of a volume."""
    return [tree["tower"]] if isinstance(tree, Mapping) and "tower" in tree else []


def check_module(name: str, trust: Collection[str], where: str) -> None:
    """Raise ConfigError unless the user trusts the module of a `module:Class` that a model's folder names."""
    module = name.partition(":")[0]
    if not is_trusted(module, trust):
        raise ConfigError(
            f"{where}: this model is built by code of the module {module!r}, which is not imported because a model's folder "
            f"names it; where you trust that module say so: from_pretrained(..., trust=[{module!r}]), or --trust {module}"
        )


def check_tower(tree: Any, registry: Registry[Any], trust: Collection[str], where: str) -> None:
    """Raise ConfigError unless a tower of a model of others is a registered kind with listed options, or is trusted."""
    kind = tree.get("kind") if isinstance(tree, Mapping) else tree
    if not isinstance(kind, str):
        raise ConfigError(f"{where}: expected a mapping with a `kind:` (one of: {', '.join(registry)})")
    if ":" in kind:
        check_module(kind, trust, f"{where}.kind")
        return
    if not isinstance(tree, Mapping):
        return
    for inner in _inner_towers(tree):
        if _inner_towers(inner):
            raise ConfigError(f"{where}.tower: nested deeper than an architecture is")
        check_tower(inner, registry, trust, f"{where}.tower")
    refuse_loaders({key: value for key, value in tree.items() if key != "pretrained"}, where)
    if kind == "hf" and tree.get("path") is not None:
        raise ConfigError(f"{where}.path: a model that comes from elsewhere holds its architecture itself, in `config`")
    library = LIBRARY_OF.get(kind)
    if library is None or is_trusted(library, trust):
        return
    refuse_paths({key: value for key, value in tree.items() if key not in ("pretrained", "targets")}, where)
    options = tree.get("options")
    for name in options if library == "timm" and isinstance(options, Mapping) else ():
        if name not in TIMM_OPTIONS:
            raise ConfigError(
                f"{where}.options.{name} is not among the options that a model of others may set; where you trust this "
                "model say so: trust=['timm'], or --trust timm"
            )
