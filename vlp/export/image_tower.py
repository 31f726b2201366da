"""The image tower alone, as a transformers model: for segmentation heads, or as the image encoder of a LLaVA-style model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlp.core.errors import UnsupportedByFormat
from vlp.modalities.image.processor import ImageProcessor

from . import hf_processor
from .base import Embeddings, Exporter, Images, Texts, exporters

if TYPE_CHECKING:
    from torch import Tensor

    from vlp.hub import Pretrained


@exporters.register("image")
class ImageTowerExporter(Exporter):
    """The image tower before its projection head."""

    summary = "the image tower alone, as a transformers model"
    library = "transformers"
    pipeline_tag = "image-feature-extraction"
    least_cosine = hf_processor.LEAST_COSINE
    usage = """from transformers import AutoModel

tower = AutoModel.from_pretrained("{repo}")"""

    def write(self, loaded: Pretrained, folder: Path, approximate: bool) -> list[str]:
        tower, spec = loaded.model.image_tower, loaded.preprocess.spec
        tower.disable_attention_capture()
        tower.as_transformers().model.save_pretrained(folder)
        loaded.preprocess.save(folder)
        notes = ["the tower's own features, before the projection head"]
        try:
            if tower.channels != 3:
                raise UnsupportedByFormat("transformers' processors make three channels, this tower takes one")
            settings = hf_processor.image_processor(spec, approximate)
        except UnsupportedByFormat as reason:
            return [*notes, f"there is no image processor ({reason}); pixels are made as preprocess.json says"]
        hf_processor.write_image_processor(settings, folder)
        return notes + hf_processor.rounding(spec) + hf_processor.colours(spec, "transformers")

    def load(self, source: str, images: Images, texts: Texts, trust: Texts = ()) -> Embeddings:
        """Run the tower with transformers alone, on pixels made by its processor, or else as `preprocess.json` says."""
        import torch
        from transformers import AutoModel

        from vlp.hub import locate

        model, folder = AutoModel.from_pretrained(source, trust_remote_code=False).eval(), locate(source)
        if (folder / hf_processor.FILE).is_file():
            from PIL import Image
            from transformers import AutoImageProcessor

            given = [Image.fromarray(image).convert("RGB") for image in images]
            processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
            pixels = processor(images=given, return_tensors="pt")["pixel_values"]
        else:
            config = model.config
            own = config.model_args["in_chans"] if config.model_type == "timm_wrapper" else config.num_channels
            pixels = _pixels(ImageProcessor.load(folder), own, images)
        with torch.no_grad():
            return {"images": _mean(model(pixel_values=pixels))}

    def expected(self, loaded: Pretrained, images: Images, texts: Texts) -> Embeddings:
        """Return the tower's mean feature of each image, at unit length."""
        import torch

        pixels = loaded.model.normalise(loaded.preprocess.batch(images))
        with torch.no_grad():
            return {"images": _mean(loaded.model.image_tower.as_transformers().model(pixel_values=pixels))}


def _mean(output: Any) -> np.ndarray:
    """Average the features [B, N, C] or [B, C, h, w] of a model, at unit length."""
    import torch

    states = output.last_hidden_state
    mean = states.mean(1) if states.dim() == 3 else states.mean((2, 3))
    return np.asarray(torch.nn.functional.normalize(mean, dim=1))


def _pixels(preprocess: ImageProcessor, channels: int, images: Images) -> Tensor:
    import torch

    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (preprocess.spec.mean, preprocess.spec.std))
    return (preprocess.batch(images).expand(-1, channels, -1, -1) / 255 - mean) / std
