"""The image tower alone, as a transformers model: for segmentation heads, or as the eye of a LLaVA-style model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlp.modalities.image.processor import ImageProcessor

from . import hf_processor
from .base import CannotExpress

if TYPE_CHECKING:
    from torch import Tensor

    from vlp.hub import Pretrained


def write(loaded: Pretrained, folder: Path, approximate: bool) -> list[str]:
    """Write the tower and its preprocessing; raises CannotExpress for towers that transformers cannot build."""
    tower: Any = loaded.model.image_tower
    tower.disable_attention_capture()
    if tower.kind == "timm":
        from transformers import TimmWrapperModel

        from .transformers import vision

        config, state, _ = vision(loaded.model)
        model: Any = TimmWrapperModel(config)
        model.load_state_dict(state)
    elif tower.kind == "hf":
        model = tower.model
    else:
        raise CannotExpress(f"transformers has no image tower of kind {tower.kind!r}: export with --format onnx or vlp")
    model.save_pretrained(folder)
    loaded.preprocess.save(folder)
    notes = ["the tower's own features, before the projection head"]
    try:
        if tower.channels != 3:
            raise CannotExpress("transformers' processors make three channels, this tower takes one")
        settings = hf_processor.image_processor(loaded.preprocess.spec, approximate)
    except CannotExpress as reason:
        return [*notes, f"there is no image processor ({reason}); pixels are made as preprocess.json says"]
    hf_processor.write_image_processor(settings, folder)
    spec = loaded.preprocess.spec
    return notes + hf_processor.rounding(spec) + hf_processor.colours(spec, "transformers")


def native(loaded: Pretrained, pictures: Sequence[np.ndarray], texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the tower's mean feature of each picture, at unit length."""
    import torch

    tower: Any = loaded.model.image_tower
    pixels = loaded.model.normalise(loaded.preprocess.batch(pictures))
    with torch.no_grad():
        found = tower.model.forward_features(pixels) if tower.kind == "timm" else tower.model(pixel_values=pixels)
    return {"images": _mean(found)}


def _mean(found: Any) -> np.ndarray:
    """Average features [B, N, C] or [B, C, h, w], at unit length."""
    import torch

    states = found if isinstance(found, torch.Tensor) else found.last_hidden_state
    mean = states.mean(1) if states.dim() == 3 else states.mean((2, 3))
    result: np.ndarray = torch.nn.functional.normalize(mean, dim=1).numpy()
    return result


def load(source: str, pictures: Sequence[np.ndarray], texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Run the tower with transformers alone, on pixels made by its processor, or else as `preprocess.json` says."""
    import torch
    from transformers import AutoModel

    from vlp.hub import locate

    model, folder = AutoModel.from_pretrained(source, trust_remote_code=False).eval(), locate(source)
    if (folder / hf_processor.FILE).is_file():
        from PIL import Image
        from transformers import AutoImageProcessor

        images = [Image.fromarray(one).convert("RGB") for one in pictures]
        processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    else:
        config = model.config
        own = config.model_args["in_chans"] if config.model_type == "timm_wrapper" else config.num_channels
        pixels = _pixels(ImageProcessor.load(folder), own, pictures)
    with torch.no_grad():
        return {"images": _mean(model(pixel_values=pixels))}


def _pixels(preprocess: ImageProcessor, channels: int, pictures: Sequence[np.ndarray]) -> Tensor:
    import torch

    mean, std = (torch.tensor(one).view(1, -1, 1, 1) for one in (preprocess.spec.mean, preprocess.spec.std))
    return (preprocess.batch(pictures).expand(-1, channels, -1, -1) / 255 - mean) / std
