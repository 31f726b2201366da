"""transformers models in a local folder: `hf:PATH` of a CLIP, SigLIP or VisionTextDualEncoder with its processor."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlp.core.config import ConfigError
from vlp.core.errors import first_line
from vlp.core.trust import check_model_folder
from vlp.modalities.image.decode import decode

from .base import DualEncoder, libraries, square_spec
from .patch_tokens import TokenHook

if TYPE_CHECKING:
    from torch import Tensor


@libraries.register("hf")
class TransformersEmbedder(DualEncoder):
    """A dual encoder of transformers with `get_image_features` and `get_text_features`."""

    def __init__(self, model: Any, processor: Any, tokenizer: Any, name: str, device: str = "cpu") -> None:
        super().__init__(model, getattr(model, "vision_model", None), device)
        self._processor, self._tokenizer = processor, tokenizer
        positions = model.config.get_text_config().max_position_embeddings
        self._length = int(min(positions, tokenizer.model_max_length, 512))
        self._late = hasattr(processor, "rescale_and_normalize") and processor.do_rescale and processor.do_normalize
        side, resize = _geometry(processor)
        self._hook = TokenHook.of_transformers(model, side)
        image_spec = square_spec(side, resize, processor.image_mean, processor.image_std)
        reads = processor.to_json_string(), str(self._length), tokenizer_digest(tokenizer)
        grid = self._hook.grid if self._hook else None
        self.card = self._describe("transformers", name, reads, image_spec, grid)

    @classmethod
    def load(cls, name: str, device: str, trust: Sequence[str] = ()) -> TransformersEmbedder:
        """Load a folder, safetensors only, nothing fetched. Raises ConfigError naming what is missing."""
        import torch
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        if not (Path(name) / "config.json").exists():
            raise ConfigError(
                f"hf:{name}: no config.json there; expected a folder that transformers' save_pretrained wrote"
            )
        check_model_folder(Path(name), f"hf:{name}")
        safe = {"local_files_only": True, "trust_remote_code": False}
        try:
            # in fp32 whatever the file holds: a model in fp16 would be scored as another than the card says
            model = AutoModel.from_pretrained(name, use_safetensors=True, dtype=torch.float32, **safe)
            processor = AutoImageProcessor.from_pretrained(name, **safe)
        except Exception as error:  # a wrong type in a configuration ends in any of them
            raise ConfigError(f"hf:{name}: {first_line(error)}") from None
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **safe)
        except Exception as error:
            raise ConfigError(f"hf:{name}: no tokenizer that loads: {first_line(error)}") from None
        if tokenizer.pad_token is None:
            raise ConfigError(f"hf:{name}: the tokenizer has no padding token; is its tokenizer_config.json there?")
        if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
            raise ConfigError(f"hf:{name} is a {type(model).__name__}, not a dual encoder of images and texts")
        return cls(model, processor, tokenizer, Path(name).name, device)

    def prepare(self, image: bytes) -> tuple[NDArray[Any], tuple[float, ...]]:
        from PIL import Image

        pixels = decode(image, 3)
        late = {"do_rescale": False, "do_normalize": False} if self._late else {}
        inputs = self._processor(images=Image.fromarray(pixels), return_tensors="np", **late)["pixel_values"][0]
        return np.asarray(inputs, np.uint8 if self._late else np.float32), (pixels.shape[0], pixels.shape[1])

    def _normalise(self, inputs: Tensor) -> Tensor:
        """Return the model's input [n, 3, S, S]: the processor's own arithmetic on floats, for a whole batch at once."""
        if not self._late:
            return inputs
        own = self._processor
        pixels: Tensor = own.rescale_and_normalize(
            inputs, True, own.rescale_factor, True, own.image_mean, own.image_std
        )
        return pixels

    def _images(self, pixels: Tensor) -> Tensor:
        rows: Tensor = self._model.get_image_features(pixel_values=pixels).pooler_output
        return rows

    def _texts(self, texts: list[str]) -> Tensor:
        """Encode texts at full length: SigLIP is trained on padding, CLIP does not mind it."""
        tokens = self._tokenizer(
            texts, padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
        )
        siglip = self._model.config.model_type.startswith("siglip")
        names = ("input_ids",) if siglip else ("input_ids", "attention_mask")
        inputs = {name: tokens[name].to(self._device) for name in names if name in tokens}
        rows: Tensor = self._model.get_text_features(**inputs).pooler_output
        return rows


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a sha256 of what makes ids of texts in a transformers tokenizer, wherever its files lie."""
    about = {"class": type(tokenizer).__name__, "pad": tokenizer.pad_token_id, "eos": tokenizer.eos_token_id}
    about["sides"] = [tokenizer.padding_side, tokenizer.truncation_side]
    if hasattr(tokenizer, "backend_tokenizer"):
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        per_call = ("truncation", "padding")
        about["rules"] = {name: rule for name, rule in rules.items() if name not in per_call}
    else:
        with tempfile.TemporaryDirectory() as folder:
            files = tokenizer.save_vocabulary(folder)
            about["files"] = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _geometry(processor: Any) -> tuple[int, str]:
    """Return the side of a processor's square output and how it gets there: crop or squash."""
    size = dict(processor.size)
    if getattr(processor, "do_center_crop", False) and "shortest_edge" in size:
        crop = dict(processor.crop_size)
        if crop["height"] != size["shortest_edge"]:
            raise ConfigError("an image processor that resizes and crops to different sizes is not supported")
        return int(crop["height"]), "crop"
    if "height" in size:
        return int(size["height"]), "squash"
    raise ConfigError(f"an image processor of size {size} without a centre crop is not supported")
