"""transformers' format: a `VisionTextDualEncoderModel`, or a `CLIPModel` or `SiglipModel` where both towers are theirs.

`AutoModel`, `AutoProcessor` and the zero-shot-image-classification pipeline load the folder.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlp.core.errors import UnsupportedByFormat

from . import hf_processor
from .base import Embeddings, Exporter, Images, Texts, exporters, log_scale

if TYPE_CHECKING:
    from vlp.hub import Pretrained
    from vlp.models.dual_encoder import DualEncoder
    from vlp.models.towers.base import TransformersForm

SHRINK = 2.0**-12
"""Scale that takes a pooler's tanh to where it is straight: tanh(s x) / s = x (1 - s^2 x^2 / 3), 5e-7 off at x = 5."""

PROCESSORS = {"clip": "CLIPProcessor", "siglip": "SiglipProcessor"}


@exporters.register("transformers")
class TransformersExporter(Exporter):
    """The model of transformers that computes the same embeddings."""

    summary = "loads with AutoModel, AutoProcessor and the zero-shot-image-classification pipeline"
    library = "transformers"
    least_cosine = hf_processor.LEAST_COSINE
    usage = """from transformers import pipeline

classify = pipeline("zero-shot-image-classification", "{repo}")
classify("{file}", candidate_labels=["a nodule", "no nodule"], hypothesis_template="there is {{}}")"""

    def write(self, loaded: Pretrained, folder: Path, approximate: bool) -> list[str]:
        model, spec = loaded.model, loaded.preprocess.spec
        self.require_plain_image(model)
        image_processor = hf_processor.image_processor(spec, approximate)
        image, text = model.image_tower.as_transformers(), model.text_tower.as_transformers()
        kinds = image.config.model_type, text.config.model_type
        if kinds == ("clip_vision_model", "clip_text_model"):
            made = _clip(model, image, text)
        elif kinds == ("siglip_vision_model", "siglip_text_model"):
            made = _siglip(loaded, image, text)
        else:
            made = _dual(model, image, text)
        made.save_pretrained(folder)
        processor = PROCESSORS.get(made.config.model_type, "VisionTextDualEncoderProcessor")
        hf_processor.write_image_processor({**image_processor, "processor_class": processor}, folder)
        hf_processor.write_tokenizer(loaded.tokenizer, folder, not text.reads_padding, processor)
        notes = self.without_local_heads(loaded)
        if model.logit_bias is not None and made.config.model_type != "siglip":
            notes.append("logit_bias is left out: it does not change a softmax over labels")
        return notes + hf_processor.rounding(spec) + hf_processor.colours(spec, "transformers")

    def load(self, source: str, images: Images, texts: Texts, trust: Texts = ()) -> Embeddings:
        import torch
        from PIL import Image
        from torch.nn.functional import normalize
        from transformers import AutoModel, AutoProcessor, pipeline

        model = AutoModel.from_pretrained(source, trust_remote_code=False).eval()
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
        given = [Image.fromarray(image).convert("RGB") for image in images]
        padding = "max_length" if model.config.model_type == "siglip" else True
        with torch.no_grad():
            pixels = processor(images=given, return_tensors="pt")["pixel_values"]
            words = processor.tokenizer(list(texts), return_tensors="pt", truncation=True, padding=padding)
            image = normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=1)
            text = normalize(model.get_text_features(**words).pooler_output, dim=1)
        ask = pipeline("zero-shot-image-classification", source, trust_remote_code=False)
        answers = ask(given[0], candidate_labels=["nodule", "no nodule"], hypothesis_template="{}")
        if {answer["label"] for answer in answers} != {"nodule", "no nodule"}:
            raise ValueError("the pipeline does not answer")
        return {"images": image.numpy(), "texts": text.numpy()}


def _linear(model: DualEncoder, side: str) -> Any:
    """Return the weight of a head that is one linear layer without bias."""
    config = model.config.image_head if side == "image" else model.config.text_head
    if config.kind != "linear" or config.bias:
        raise UnsupportedByFormat(
            f"transformers' dual encoders project with one linear layer without bias, this {side} head is "
            f"{config.kind!r}{' with bias' if config.bias else ''}: export with --format vlp"
        )
    head: Any = model.image_head if side == "image" else model.text_head
    return head.weight.detach()


def _projected(made: Any, model: DualEncoder, image: TransformersForm, text: TransformersForm, *factors: float) -> Any:
    """Return a dual encoder filled with the towers and with the heads, divided by what its poolers multiply by."""
    import torch

    weights = _linear(model, "image"), _linear(model, "text")
    with torch.no_grad():
        _fill(made.vision_model, image.model.state_dict())
        _fill(made.text_model, text.model.state_dict())
        made.visual_projection.weight.copy_(weights[0] / factors[0])
        made.text_projection.weight.copy_(weights[1] / factors[1])
        made.logit_scale.fill_(log_scale(model))
    return made


def _dual(model: DualEncoder, image: TransformersForm, text: TransformersForm) -> Any:
    from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel

    image_factor, text_factor = pooler_factor_of_images(image), pooler_factor_of_texts(text)
    configs = _plain(image.config, image_factor), _plain(text.config)
    made = VisionTextDualEncoderModel(
        VisionTextDualEncoderConfig.from_vision_text_configs(
            *configs, projection_dim=model.dim, logit_scale_init_value=log_scale(model)
        )
    )
    return _projected(made, model, image, text, image_factor, text_factor)


def _fill(module: Any, state: dict[str, Any]) -> None:
    missing, unexpected = module.load_state_dict(state, strict=False)
    left = [name for name in missing if not name.endswith(("pooler.dense.weight", "pooler.dense.bias"))]
    if left or unexpected:
        raise UnsupportedByFormat(
            f"transformers rebuilds this tower otherwise ({(left + list(unexpected))[0]!r}): export with --format vlp"
        )
    if missing and hasattr(module, "pooler") and module.pooler is not None:
        dense = module.pooler.dense
        dense.weight.zero_().fill_diagonal_(SHRINK)
        dense.bias.zero_()


def pooler_factor_of_images(image: TransformersForm) -> float:
    """Return what the pooled output of a vision model is multiplied by, beside the tower's; raises UnsupportedByFormat."""
    name = image.config.model_type
    if not hasattr(image.config, "hidden_size"):
        raise UnsupportedByFormat(
            f"transformers' dual encoders need an image tower of one hidden_size, a {name!r} has none: "
            "export with --format vlp"
        )
    if image.pooling == "cls" and name in ("vit", "deit"):
        return SHRINK
    if image.pooling != "pooler" and not (image.pooling == "cls" and name.startswith("dino")):
        raise UnsupportedByFormat(
            f"transformers does not pool a {name!r} by {image.pooling!r}: train with pooling: pooler, or export with "
            "--format vlp"
        )
    return 1.0


def pooler_factor_of_texts(text: TransformersForm) -> float:
    """Return what the pooled output of a text model is multiplied by, beside the tower's; raises UnsupportedByFormat."""
    name = text.config.model_type
    if text.pooling not in ("cls", "pooler") or name not in ("bert", "roberta", "xlm-roberta", "camembert"):
        raise UnsupportedByFormat(
            f"VisionTextDualEncoder pools texts as BERT's pooler does, this tower is a {name!r} with pooling "
            f"{text.pooling!r}: export with --format vlp or open_clip"
        )
    return SHRINK if text.pooling == "cls" else 1.0


def _plain(config: Any, pooler_factor: float = 1.0) -> Any:
    made = copy.deepcopy(config)
    made._attn_implementation = None
    if pooler_factor != 1.0 and hasattr(made, "pooler_act"):
        made.pooler_act = "tanh"
        made.pooler_output_size = made.hidden_size
    return made


def _clip(model: DualEncoder, image: TransformersForm, text: TransformersForm) -> Any:
    from transformers import CLIPConfig, CLIPModel

    _require_own_pooling(image, text)
    config = CLIPConfig(
        text_config=text.config.to_dict(), vision_config=image.config.to_dict(), projection_dim=model.dim
    )
    return _projected(CLIPModel(config), model, image, text, 1.0, 1.0)


def _siglip(loaded: Pretrained, image: TransformersForm, text: TransformersForm) -> Any:
    import torch
    from transformers import SiglipConfig, SiglipModel

    _require_own_pooling(image, text)
    model = loaded.model
    if loaded.tokenizer.length != model.text_tower.max_length:
        raise UnsupportedByFormat(
            "a SiglipModel reads every text at the length of its tokenizer, this tower at its "
            f"{model.text_tower.max_length} positions: train with tokenizer.length={model.text_tower.max_length}, or export "
            "with --format vlp"
        )
    if model.config.image_head.kind != "none" or model.config.text_head.kind != "none":
        raise UnsupportedByFormat("a SiglipModel has no projections beside its towers: train with heads of kind none")
    made = SiglipModel(SiglipConfig(text_config=text.config.to_dict(), vision_config=image.config.to_dict()))
    with torch.no_grad():
        made.vision_model.load_state_dict(image.model.state_dict())
        made.text_model.load_state_dict(text.model.state_dict())
        made.logit_scale.fill_(log_scale(model))
        made.logit_bias.fill_(0.0 if model.logit_bias is None else float(model.logit_bias.detach()))
    return made


def _require_own_pooling(image: TransformersForm, text: TransformersForm) -> None:
    if image.pooling != "pooler" or text.pooling != "pooler":
        raise UnsupportedByFormat("CLIP's and SigLIP's models pool in their own way: train with text pooling: pooler")
