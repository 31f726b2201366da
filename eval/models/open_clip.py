"""open_clip models by name: `open_clip:ViT-B-32,PRETRAINED`, or a local weights file for PRETRAINED; offline without one.

Of open_clip's transform, the steps on images run as images are decoded; the arithmetic on floats (`ToTensor`, `Normalize`)
runs on whole batches, in the same order, so that a decoding thread takes as little as it can from the model's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlp.core.config import ConfigError
from vlp.core.errors import first_line
from vlp.core.registry import did_you_mean
from vlp.core.trust import check_model_folder, never_asking, refuse_loaders, refuse_paths
from vlp.core.untrusted import read_object
from vlp.modalities.image.decode import decode_native

from .base import DualEncoder, libraries, square_spec
from .patch_tokens import TokenHook
from .transformers import tokenizer_digest

if TYPE_CHECKING:
    from torch import Tensor


@libraries.register("open_clip")
class OpenClipEmbedder(DualEncoder):
    """An open_clip model with its own transform and tokenizer; patch features where its image tower is a ViT."""

    def __init__(self, model: Any, transform: Any, tokenizer: Any, name: str, device: str = "cpu") -> None:
        super().__init__(model, model.visual, device)
        self._tokenizer = tokenizer
        config = getattr(model.visual, "preprocess_cfg", {})
        size = model.visual.image_size
        side = int(size[0] if isinstance(size, (tuple, list)) else size)
        mode = {"shortest": "crop", "longest": "pad", "squash": "squash"}[config.get("resize_mode", "shortest")]
        self._hook = TokenHook.of(model.visual, side)
        self._pixels, self._floats = split(transform)
        image_spec = square_spec(side, mode, config.get("mean", (0.5,)), config.get("std", (0.5,)))
        reads = repr(transform), name, *_reading(tokenizer)
        self.card = self._describe("open_clip", name, reads, image_spec, self._hook.grid if self._hook else None)

    @classmethod
    def load(cls, name: str, device: str, trust: Sequence[str] = ()) -> OpenClipEmbedder:
        """Create the model that `NAME[,PRETRAINED]` names. Raises ConfigError for an unknown name or missing weights."""
        import open_clip

        title, _, pretrained = name.partition(",")
        if ":" not in title and title not in open_clip.list_models():
            raise ConfigError(f"open_clip has no model {title!r}{did_you_mean(title, open_clip.list_models())}")
        if ":" in title:
            check_folder(title)
        try:
            with never_asking():
                if ":" in title:  # a folder or a repository: without its weights the model would be random
                    model, transform = open_clip.create_model_from_pretrained(title)
                else:
                    model, _, transform = open_clip.create_model_and_transforms(title, pretrained=pretrained or None)
                tokenizer = open_clip.get_tokenizer(title)
        except Exception as error:  # a wrong type in a configuration ends in any of them
            raise ConfigError(f"open_clip cannot make {name!r}: {first_line(error)}") from None
        return cls(model, transform, tokenizer, name, device)

    def prepare(self, image: bytes) -> tuple[NDArray[Any], tuple[float, ...]]:
        from PIL import Image

        pixels = decode_native(image, 3)
        scaled: Any = Image.fromarray(pixels)
        for step in self._pixels:
            scaled = step(scaled)
        size = (pixels.shape[0], pixels.shape[1])
        if not self._floats:
            return scaled.numpy(), size
        channels = np.asarray(scaled)
        if pixels.ndim == 2:  # one plane, three times
            plane = np.ascontiguousarray(channels[..., 0])
            return np.broadcast_to(plane, (channels.shape[2], *plane.shape)), size
        return np.ascontiguousarray(channels.transpose(2, 0, 1)), size

    def _normalise(self, inputs: Tensor) -> Tensor:
        if not self._floats:
            return inputs
        batch = inputs.float().div(255)
        for step in self._floats:
            batch = step(batch)
        return batch

    def _texts(self, texts: list[str]) -> Tensor:
        rows: Tensor = self._model.encode_text(self._tokenizer(texts).to(self._device))
        return rows


def check_folder(name: str) -> None:
    """Raise ConfigError for a folder or repository whose configuration has timm or transformers fetch or run something."""
    scheme, _, place = name.partition(":")
    path = Path(place) / "open_clip_config.json"
    if scheme == "hf-hub":
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(place.partition("@")[0], path.name, revision=place.partition("@")[2] or None))
        except Exception as error:
            raise ConfigError(f"open_clip: {name}: no configuration to be had ({type(error).__name__})") from None
    if not path.exists():
        return  # open_clip says so itself
    if scheme != "hf-hub":
        check_model_folder(path.parent, name)
    model = read_object(path).get("model_cfg")
    refuse_loaders(model, f"{name}: model_cfg")
    parts = (model.get(part) if isinstance(model, dict) else None for part in ("vision_cfg", "text_cfg"))
    vision, text = (part if isinstance(part, dict) else {} for part in parts)
    refuse_paths(text.get("tokenizer_kwargs"), f"{name}: tokenizer_kwargs")
    trunk = str(vision.get("timm_model_name") or "")
    if ":" in trunk or "/" in trunk:
        raise ConfigError(f"{name}: model_cfg.vision_cfg.timm_model_name: {trunk!r} is no model of timm's own")


def _reading(tokenizer: Any) -> tuple[str, str]:
    """Return what stands for a tokenizer of open_clip: its settings and its vocabulary, its own or one of transformers."""
    inner, clean = getattr(tokenizer, "tokenizer", None), getattr(tokenizer, "clean_fn", None)
    plain = {name: value for name, value in vars(tokenizer).items() if isinstance(value, (str, int))}
    vocabulary = tokenizer_digest(inner) if inner is not None else json.dumps(tokenizer.encoder)
    return json.dumps({**plain, "clean": clean and clean.__name__}, sort_keys=True), vocabulary


def split(transform: Any) -> tuple[list[Any], list[Any]]:
    """Return the steps of a transform before `ToTensor`, which make RGB images, and those after it; all in the first part
    when it is made in another way.
    """
    from torchvision.transforms import Compose, Normalize, ToTensor

    steps = list(transform.transforms) if isinstance(transform, Compose) else []
    at = next((place for place, step in enumerate(steps) if isinstance(step, ToTensor)), None)
    if at is None or not all(isinstance(step, Normalize) for step in steps[at + 1 :]):
        return [transform], []
    return steps[:at], steps[at + 1 :]
