"""The image tower alone, as a transformers model: for segmentation heads, or as the eye of a LLaVA-style model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .export import CannotExpress

if TYPE_CHECKING:
    from .hub import Pretrained


def write(loaded: Pretrained, folder: Path, approximate: bool) -> list[str]:
    """Write the tower; raises CannotExpress for those that transformers cannot build."""
    tower: Any = loaded.model.image_tower
    if tower.kind == "timm":
        from transformers import TimmWrapperModel

        from .export_transformers import _vision

        config, state, _ = _vision(loaded.model)
        model: Any = TimmWrapperModel(config)
        model.load_state_dict(state)
    elif tower.kind == "hf":
        model = tower.model
    else:
        raise CannotExpress(f"transformers has no image tower of kind {tower.kind!r}: export with --format onnx or vlp")
    _plain(model)
    model.save_pretrained(folder)
    loaded.preprocess.save(folder)
    return ["the tower's own features, before the projection head; pixels are made as preprocess.json says"]


def _plain(model: Any) -> None:
    """Undo what only our training needs: the last layer's attention function that records its first token."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", "").startswith("vlp"):
            module.config = model.config


def native(loaded: Pretrained, pictures: Sequence[np.ndarray], texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the tower's mean feature of each picture, at unit length."""
    import torch

    tower: Any = loaded.model.image_tower
    pixels = loaded.model.normalise(torch.stack([loaded.preprocess.eval(one) for one in pictures]))
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


def load(folder: Path, pictures: Sequence[np.ndarray], texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Run the tower with transformers alone, on pixels made as `preprocess.json` says."""
    import torch
    from transformers import AutoModel

    from .preprocess import Preprocess

    preprocess = Preprocess.load(folder)
    mean, std = (torch.tensor(one).view(1, -1, 1, 1) for one in (preprocess.spec.mean, preprocess.spec.std))
    pixels = torch.stack([preprocess.eval(one) for one in pictures]).expand(-1, 3, -1, -1).float() / 255
    with torch.no_grad():
        return {"images": _mean(AutoModel.from_pretrained(folder).eval()(pixel_values=(pixels - mean) / std))}
