"""transformers' format: a `VisionTextDualEncoderModel`, or a `CLIPModel` or `SiglipModel` where both towers are theirs.

`AutoModel`, `AutoProcessor` and the zero-shot-image-classification pipeline load the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import hf_processor
from .base import CannotExpress
from .open_clip import log_scale

if TYPE_CHECKING:
    from vlp.hub import Pretrained
    from vlp.models.dual_encoder import DualEncoder
    from vlp.models.towers.base import Tower

SHRINK = 2.0**-12
"""Scale that takes a pooler's tanh to where it is straight: tanh(s x) / s = x (1 - s^2 x^2 / 3), 5e-7 off at x = 5."""


PROCESSORS = {"clip": "CLIPProcessor", "siglip": "SiglipProcessor"}


def write(loaded: Pretrained, folder: Path, approximate: bool) -> list[str]:
    """Write the model for transformers; raises CannotExpress for what it has no words for."""
    model, spec = loaded.model, loaded.preprocess.spec
    if model.config.image_head.add_patches is not None:
        raise CannotExpress("transformers cannot add pooled patches to the global embedding: export with --format vlp")
    if model.image_tower.channels != 3:
        raise CannotExpress(
            "transformers' processors make three channels, this image tower takes one: export with --format vlp or onnx, "
            "or train with a three-channel tower (grey images are repeated)"
        )
    image = hf_processor.image_processor(spec, approximate)
    kinds = model_type(model.image_tower), model_type(model.text_tower)
    if kinds == ("clip_vision_model", "clip_text_model"):
        made: Any = _clip(model)
    elif kinds == ("siglip_vision_model", "siglip_text_model"):
        made = _siglip(loaded)
    else:
        made = _dual(model)
    made.save_pretrained(folder)
    processor = PROCESSORS.get(made.config.model_type, "VisionTextDualEncoderProcessor")
    hf_processor.write_image_processor({**image, "processor_class": processor}, folder)
    hf_processor.write_tokenizer(loaded.tokenizer, folder, made.config.model_type != "siglip", processor)
    notes = ["patch and word heads are left out: transformers has none"] if model.patch_head or model.word_head else []
    if model.logit_bias is not None and made.config.model_type != "siglip":
        notes.append("logit_bias is left out: it does not change a softmax over labels")
    return notes + hf_processor.rounding(spec) + hf_processor.colours(spec, "transformers")


def model_type(tower: Tower) -> str:
    """Return transformers' name of a tower's architecture, empty for towers of other libraries."""
    from vlp.models.towers.hf import HfImageTower, HfTextTower

    return str(tower.hf_config.model_type) if isinstance(tower, (HfImageTower, HfTextTower)) else ""


def _linear(model: DualEncoder, part: str) -> Any:
    """Return the weight of a head that is one linear layer without bias."""
    config = model.config.image_head if part == "image" else model.config.text_head
    if config.kind != "linear" or config.bias:
        raise CannotExpress(
            f"transformers' dual encoders project with one linear layer without bias, this {part} head is "
            f"{config.kind!r}{' with bias' if config.bias else ''}: export with --format vlp"
        )
    head: Any = model.image_head if part == "image" else model.text_head
    return head.weight.detach()


def _dual(model: DualEncoder) -> Any:
    import torch
    from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel

    seeing, vision_state, vision_factor = vision(model)
    reading, text_state, text_factor = _text(model)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        seeing, reading, projection_dim=model.dim, logit_scale_init_value=log_scale(model)
    )
    made = VisionTextDualEncoderModel(config)
    image_weight, text_weight = _linear(model, "image"), _linear(model, "text")
    with torch.no_grad():
        _fill(made.vision_model, vision_state)
        _fill(made.text_model, text_state)
        made.visual_projection.weight.copy_(image_weight / vision_factor)
        made.text_projection.weight.copy_(text_weight / text_factor)
        made.logit_scale.fill_(log_scale(model))
    return made


def _fill(module: Any, state: dict[str, Any]) -> None:
    missing, unexpected = module.load_state_dict(state, strict=False)
    left = [name for name in missing if not name.endswith(("pooler.dense.weight", "pooler.dense.bias"))]
    if left or unexpected:
        raise CannotExpress(
            f"transformers rebuilds this tower otherwise ({(left + list(unexpected))[0]!r}): --format vlp"
        )
    if missing and hasattr(module, "pooler") and module.pooler is not None:
        dense = module.pooler.dense
        dense.weight.zero_().fill_diagonal_(SHRINK)
        dense.bias.zero_()


def vision(model: DualEncoder) -> tuple[Any, dict[str, Any], float]:
    """Return a vision model's configuration, weights, and the factor that its pooled output carries."""
    tower: Any = model.image_tower
    if tower.kind == "timm":
        from transformers import TimmWrapperConfig

        names = {"img_size": model.spec.size, **tower.config.options, "in_chans": tower.channels}
        if not hasattr(tower.model, "patch_embed"):
            names.pop("img_size")
        config = TimmWrapperConfig(architecture=tower.config.name, model_args=names, hidden_size=tower.width)
        return config, {f"timm_model.{name}": value for name, value in tower.model.state_dict().items()}, 1.0
    if tower.kind != "hf" or not hasattr(tower.hf_config, "hidden_size"):
        raise CannotExpress(
            f"transformers has no image tower like this one (kind {tower.kind!r}): its own transformers and timm's models "
            "can be exported; this one with --format vlp" + (" or open_clip" if tower.kind == "open_clip" else "")
        )
    state, factor = dict(tower.model.state_dict()), 1.0
    if tower.pooling == "cls":
        if tower.hf_config.model_type in ("vit", "deit"):
            factor = SHRINK
        elif not tower.hf_config.model_type.startswith("dino"):
            raise CannotExpress(
                f"transformers pools a {tower.hf_config.model_type!r} otherwise: train with pooling: pooler"
            )
    elif tower.pooling == "mean":
        raise CannotExpress(f"transformers does not pool a {tower.hf_config.model_type!r} by the mean: --format vlp")
    return _named(tower.hf_config, pooler_act="tanh" if factor != 1.0 else None), state, factor


def _text(model: DualEncoder) -> tuple[Any, dict[str, Any], float]:
    tower: Any = model.text_tower
    if tower.kind != "hf":
        raise CannotExpress(f"transformers has no text tower like kind {tower.kind!r}: --format vlp or open_clip")
    has_pooler = tower.hf_config.model_type in ("bert", "roberta", "xlm-roberta", "camembert")
    if tower.config.pooling not in ("cls", "pooler") or not has_pooler:
        raise CannotExpress(
            f"VisionTextDualEncoder pools texts as BERT's pooler does, this tower is a {tower.hf_config.model_type!r} with "
            f"pooling {tower.config.pooling!r}: export with --format vlp or open_clip"
        )
    factor = SHRINK if tower.config.pooling == "cls" else 1.0
    return _named(tower.hf_config), dict(tower.model.state_dict()), factor


def _named(config: Any, pooler_act: str | None = None) -> Any:
    import copy

    made = copy.deepcopy(config)
    made._attn_implementation = None
    if pooler_act is not None and hasattr(made, "pooler_act"):
        made.pooler_act = pooler_act
        made.pooler_output_size = made.hidden_size
    return made


def _clip(model: DualEncoder) -> Any:
    import torch
    from transformers import CLIPConfig, CLIPModel

    image, text = _pooled(model)
    config = CLIPConfig(
        text_config=text.hf_config.to_dict(), vision_config=image.hf_config.to_dict(), projection_dim=model.dim
    )
    made = CLIPModel(config)
    with torch.no_grad():
        made.vision_model.load_state_dict(image.model.state_dict())
        made.text_model.load_state_dict(text.model.state_dict())
        made.visual_projection.weight.copy_(_linear(model, "image"))
        made.text_projection.weight.copy_(_linear(model, "text"))
        made.logit_scale.fill_(log_scale(model))
    return made


def _siglip(loaded: Pretrained) -> Any:
    import torch
    from transformers import SiglipConfig, SiglipModel

    model = loaded.model
    image, text = _pooled(model)
    if loaded.tokenizer.length != text.max_length:
        raise CannotExpress(
            f"a SiglipModel reads every text at the length of its tokenizer, this tower at its {text.max_length} positions: "
            f"train with tokenizer.length={text.max_length}, or export with --format vlp"
        )
    if model.config.image_head.kind != "none" or model.config.text_head.kind != "none":
        raise CannotExpress("a SiglipModel has no projections beside its towers: train with heads of kind none")
    made = SiglipModel(SiglipConfig(text_config=text.hf_config.to_dict(), vision_config=image.hf_config.to_dict()))
    with torch.no_grad():
        made.vision_model.load_state_dict(image.model.state_dict())
        made.text_model.load_state_dict(text.model.state_dict())
        made.logit_scale.fill_(log_scale(model))
        made.logit_bias.fill_(0.0 if model.logit_bias is None else float(model.logit_bias.detach()))
    return made


def _pooled(model: DualEncoder) -> tuple[Any, Any]:
    image: Any = model.image_tower
    text: Any = model.text_tower
    if image.pooling != "pooler" or text.config.pooling != "pooler":
        raise CannotExpress("CLIP's and SigLIP's models pool in their own way: train with text pooling: pooler")
    return image, text


def load(source: str, pictures: Sequence[np.ndarray], texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Embed with transformers alone, as its users do; `source` is a folder or a Hub name."""
    import torch
    from PIL import Image
    from transformers import AutoModel, AutoProcessor, pipeline

    model = AutoModel.from_pretrained(source, trust_remote_code=False).eval()
    processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    images = [Image.fromarray(one).convert("RGB") for one in pictures]
    fixed = {"padding": "max_length"} if model.config.model_type == "siglip" else {"padding": True}
    with torch.no_grad():
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        words = processor.tokenizer(list(texts), return_tensors="pt", truncation=True, **fixed)
        image = torch.nn.functional.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=1)
        text = torch.nn.functional.normalize(model.get_text_features(**words).pooler_output, dim=1)
    ask = pipeline("zero-shot-image-classification", source, trust_remote_code=False)
    found = ask(images[0], candidate_labels=["nodule", "no nodule"], hypothesis_template="{}")
    if {one["label"] for one in found} != {"nodule", "no nodule"}:
        raise ValueError("the pipeline does not answer")
    return {"images": image.numpy(), "texts": text.numpy()}
