"""open_clip's format: `open_clip_config.json`, `open_clip_model.safetensors`, and tokenizer files beside them.

A transformers text tower is rebuilt by open_clip from a configuration that it looks up by name, and a relative path would be
relative to the user's own folder. So the name is the repository when pushed, an absolute path when local; after a move,
`moved.py` in the folder corrects it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import hf_processor
from .base import CannotExpress

if TYPE_CHECKING:
    from torch import Tensor

    from vlp.hub import Pretrained
    from vlp.modalities.image.spec import ImageSpec
    from vlp.models.dual_encoder import DualEncoder

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
MOVED = "moved.py"
POOLERS = {"cls": "cls_last_hidden_state_pooler", "mean": "mean_pooler", "pooler": "cls_pooler"}


SCRIPT = f'''"""Run this after moving the folder: open_clip finds the text tower's configuration by an absolute path only."""

import json
import pathlib

here = pathlib.Path(__file__).resolve().parent
tree = json.loads((here / "{CONFIG}").read_text(encoding="utf-8"))
tree["model_cfg"]["text_cfg"]["hf_model_name"] = str(here)
(here / "{CONFIG}").write_text(json.dumps(tree, indent=2) + "\\n", encoding="utf-8")
'''


def write(loaded: Pretrained, folder: Path, approximate: bool) -> list[str]:
    """Write the model for open_clip; raises CannotExpress for what it has no words for."""
    from safetensors.torch import save_file

    model = loaded.model
    state: dict[str, Tensor] = {}
    config: dict[str, Any] = {"embed_dim": model.dim, "vision_cfg": _image(model, state)}
    notes = ["patch and word heads are left out: open_clip has none"] if model.patch_head or model.word_head else []
    config["text_cfg"] = _text(loaded, folder, state)
    if quick_gelu(model):
        config["quick_gelu"] = True
    import torch

    state["logit_scale"] = torch.tensor(log_scale(model))
    if model.logit_bias is not None:
        config["init_logit_bias"] = 0.0
        state["logit_bias"] = model.logit_bias.detach().reshape(())
    save_file({name: value.detach().contiguous().clone() for name, value in state.items()}, str(folder / WEIGHTS))
    config["custom_text"] = True
    tree = {"model_cfg": config, "preprocess_cfg": _preprocess(loaded.preprocess.spec, approximate)}
    (folder / CONFIG).write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    if "hf_model_name" in config["text_cfg"]:
        (folder / MOVED).write_text(SCRIPT, encoding="utf-8")
        notes.append(
            f"open_clip looks up the text tower's configuration where the folder was written: run {MOVED} after moving it"
        )
    return notes + hf_processor.colours(loaded.preprocess.spec, "open_clip")


def log_scale(model: DualEncoder) -> float:
    """Return the logarithm of the scale that the model multiplies cosines by, CLIP's own where it has none."""
    return math.log(1 / 0.07) if model.logit_scale is None else float(model.logit_scale.detach())


def quick_gelu(model: DualEncoder) -> bool:
    """Return whether open_clip's towers use QuickGELU; raises CannotExpress where only one of them does."""
    from vlp.models.towers.open_clip import OpenClipImageTower, OpenClipTextTower

    towers = (model.image_tower, model.text_tower)
    used = {bool(one.tree["quick_gelu"]) for one in towers if isinstance(one, (OpenClipImageTower, OpenClipTextTower))}
    if len(used) > 1:
        raise CannotExpress("open_clip has one quick_gelu for both towers, here they differ: export with --format vlp")
    return used == {True}


def _preprocess(spec: ImageSpec, approximate: bool) -> dict[str, Any]:
    hf_processor.require_interpolation(spec, "open_clip", approximate)
    modes = {"pad": "longest", "crop": "shortest", "squash": "squash"}
    if spec.crop_share != 1.0:
        raise CannotExpress(
            "open_clip has no image.crop_share (it crops at the model's own size): export with --format vlp"
        )
    return {
        "size": spec.size,
        "mode": "RGB",
        "mean": list(spec.mean * 3 if len(spec.mean) == 1 else spec.mean),
        "std": list(spec.std * 3 if len(spec.std) == 1 else spec.std),
        "interpolation": "bilinear" if spec.interpolation == "bilinear" else "bicubic",
        "resize_mode": modes[spec.resize],
        "fill_color": spec.pad_value,
    }


def _image(model: DualEncoder, state: dict[str, Tensor]) -> dict[str, Any]:
    tower: Any = model.image_tower
    head = model.config.image_head
    if tower.channels != 3:
        raise CannotExpress(
            "open_clip's models take three channels, this image tower takes one: export with --format vlp, or train with "
            "a three-channel tower (grey images are repeated)"
        )
    if head.add_patches is not None:
        raise CannotExpress("open_clip cannot add pooled patches to the global embedding: export with --format vlp")
    if tower.kind == "open_clip" and head.kind == "none":
        state.update({f"visual.{name}": value for name, value in tower.model.state_dict().items()})
        vision: dict[str, Any] = dict(tower.tree["vision_cfg"])
        vision.pop("output_tokens", None)
        return vision
    if tower.kind != "timm":
        raise CannotExpress(
            f"open_clip has no image tower like kind {tower.kind!r}: timm's and open_clip's own can be exported; "
            "this one with --format vlp, or transformers for its own models"
        )
    if head.kind != "linear":
        raise CannotExpress(
            f"open_clip projects a timm tower with one linear layer, this image head is {head.kind!r}: --format vlp"
        )
    state.update({f"visual.trunk.{name}": value for name, value in tower.model.state_dict().items()})
    state.update({f"visual.head.proj.{name}": value for name, value in model.image_head.state_dict().items()})
    _same_shapes(model, state)
    return {
        "timm_model_name": tower.config.name,
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "timm_proj_bias": bool(head.bias),
        "image_size": model.spec.size,
    }


def _same_shapes(model: DualEncoder, state: dict[str, Tensor]) -> None:
    """Refuse timm models that their name alone does not rebuild: open_clip passes on neither options nor image size."""
    import timm

    tower: Any = model.image_tower
    name: str = tower.config.name
    plain = timm.create_model(name, num_classes=0).state_dict()
    ours = {key.removeprefix("visual.trunk."): value for key, value in state.items() if key.startswith("visual.trunk.")}
    for key in sorted(set(plain) | set(ours)):
        if key not in plain or key not in ours or plain[key].shape != ours[key].shape:
            raise CannotExpress(
                f"open_clip builds timm's {name!r} from its name, with its own image size and options, and there {key!r} "
                "differs: train at the model's own size without options, or export with --format vlp or transformers"
            )


def _text(loaded: Pretrained, folder: Path, state: dict[str, Tensor]) -> dict[str, Any]:
    model, tokenizer = loaded.model, loaded.tokenizer
    tower: Any = model.text_tower
    head = model.config.text_head
    if tower.kind == "open_clip" and head.kind == "none":
        state.update({f"text.{name}": value for name, value in tower.model.state_dict().items()})
        text: dict[str, Any] = dict(tower.tree["text_cfg"])
        text.pop("output_tokens", None)
        if tokenizer.kind == "open_clip":
            return text
    elif tower.kind == "hf":
        text = _transformers_text(model, folder, state)
    else:
        raise CannotExpress(f"open_clip has no text tower like kind {tower.kind!r}: export with --format vlp")
    if tokenizer.kind != "hf":
        raise CannotExpress(
            f"open_clip reads its own byte pairs and Hugging Face tokenizers, not {tokenizer.kind!r}: export with --format vlp"
        )
    for name, content in tokenizer.files().items():
        (folder / name).write_bytes(content)
    return {
        **text,
        "hf_tokenizer_name": str(folder.resolve()),
        "context_length": tokenizer.length,
        "vocab_size": tower.vocab_size,
    }


def _transformers_text(model: DualEncoder, folder: Path, state: dict[str, Tensor]) -> dict[str, Any]:
    tower: Any = model.text_tower
    head = model.config.text_head
    pooling: str = tower.config.pooling
    if pooling not in POOLERS or tower.hf_config.model_type.startswith(("clip", "siglip")):
        raise CannotExpress(f"open_clip has no text pooling like {pooling!r} of this tower: export with --format vlp")
    plain_mlp = head.kind == "mlp" and head.activation == "gelu" and head.bias is False
    fits = plain_mlp and head.hidden == (tower.width + model.dim) // 2
    if not (head.kind == "linear" and not head.bias) and not fits and head.kind != "none":
        raise CannotExpress(
            f"open_clip projects a transformers text tower with a linear layer without bias, or two with GELU between and "
            f"{(tower.width + model.dim) // 2} hidden; this text head is another: export with --format vlp"
        )
    tower.hf_config.save_pretrained(folder)
    state.update({f"text.transformer.{name}": value for name, value in tower.model.state_dict().items()})
    layers = {f"text.proj.{name}": value for name, value in model.text_head.state_dict().items()}
    state.update(layers)
    return {
        "hf_model_name": str(folder.resolve()),
        "hf_model_pretrained": False,
        "hf_proj_type": {"linear": "linear", "mlp": "mlp"}.get(head.kind),
        "hf_pooler_type": POOLERS[pooling],
    }


def settle(folder: Path, repository: str | None) -> dict[str, bytes]:
    """Return the configuration for where the model will lie: its final folder, or a repository of the Hub."""
    tree = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if key in tree["model_cfg"]["text_cfg"]:
            tree["model_cfg"]["text_cfg"][key] = repository or str(folder.resolve())
    return {CONFIG: (json.dumps(tree, indent=2) + "\n").encode()}


def load(source: str, pictures: Sequence[np.ndarray], texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Embed with open_clip alone, as its users do; `source` is a folder or a Hub name."""
    import open_clip
    import torch
    from PIL import Image

    from vlp.core.trust import never_asking

    name = f"local-dir:{source}" if Path(source).is_dir() else f"hf-hub:{source}"
    with never_asking():
        model, _, preprocess = open_clip.create_model_and_transforms(name)
        tokenizer = open_clip.get_tokenizer(name)
    model.eval()
    with torch.no_grad():
        images = torch.stack([preprocess(Image.fromarray(one)) for one in pictures])
        return {
            "images": model.encode_image(images, normalize=True).numpy(),
            "texts": model.encode_text(tokenizer(list(texts)), normalize=True).numpy(),
        }
