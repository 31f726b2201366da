"""transformers models in a local folder: `hf:PATH` of a CLIP, SigLIP or VisionTextDualEncoder with its processor."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.core.config import ConfigError
from vlp.core.errors import first_line
from vlp.core.trust import check_model_folder
from vlp.modalities.image.decode import decode

from .base import Floats, Tower, card_of, encode_in_blocks, to_rows
from .patch_tokens import HiddenPatches


class TransformersEmbedder:
    """A dual encoder of transformers with `get_image_features` and `get_text_features`."""

    def __init__(self, model: Any, processor: Any, tokenizer: Any, name: str, device: str = "cpu") -> None:
        self._model, self._processor, self._tokenizer, self._device = (
            model.to(device).eval(),
            processor,
            tokenizer,
            device,
        )
        self._length = self._text_length()
        self._late = hasattr(processor, "rescale_and_normalize") and processor.do_rescale and processor.do_normalize
        side, resize = _geometry(processor)
        self._patches = HiddenPatches.of(model, side)
        self.card = card_of(
            model,
            name=name,
            kind="transformers",
            reads=(processor.to_json_string(), str(self._length), tokenizer_digest(tokenizer)),
            dim=int(self._encode_texts(["a"]).shape[1]),
            image_spec={
                "size": side,
                "channels": 3,
                "resize": resize,
                "interpolation": "bicubic",
                "mean": [float(value) for value in processor.image_mean],
                "std": [float(value) for value in processor.image_std],
            },
            grid=self._patches.grid if self._patches else None,
            device=device,
        )

    @classmethod
    def load(cls, path: str, device: str) -> TransformersEmbedder:
        """Load a folder, safetensors only, nothing fetched. Raises ConfigError naming what is missing."""
        import torch
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        if not (Path(path) / "config.json").exists():
            raise ConfigError(
                f"hf:{path}: no config.json there; expected a folder that transformers' save_pretrained wrote"
            )
        check_model_folder(Path(path), f"hf:{path}")
        safe = {"local_files_only": True, "trust_remote_code": False}
        try:
            # in fp32 whatever the file holds: a model in fp16 would be scored as another than the card says
            model = AutoModel.from_pretrained(path, use_safetensors=True, dtype=torch.float32, **safe)
            processor = AutoImageProcessor.from_pretrained(path, **safe)
        except Exception as error:  # a wrong type in a configuration ends in any of them
            raise ConfigError(f"hf:{path}: {first_line(error)}") from None
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, **safe)
        except Exception as error:
            raise ConfigError(f"hf:{path}: no tokenizer that loads: {first_line(error)}") from None
        if tokenizer.pad_token is None:
            raise ConfigError(f"hf:{path}: the tokenizer has no padding token; is its tokenizer_config.json there?")
        if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
            raise ConfigError(f"hf:{path} is a {type(model).__name__}, not a dual encoder of images and texts")
        return cls(model, processor, tokenizer, Path(path).name, device)

    def _text_length(self) -> int:
        positions = self._model.config.get_text_config().max_position_embeddings
        return int(min(positions, self._tokenizer.model_max_length, 512))

    def prepare(self, image: bytes) -> tuple[NDArray[Any], tuple[int, int]]:
        from PIL import Image

        pixels = decode(image, 3)
        picture = Image.fromarray(pixels)
        late = {"do_rescale": False, "do_normalize": False} if self._late else {}
        inputs = self._processor(images=picture, return_tensors="np", **late)["pixel_values"][0]
        return np.asarray(inputs, np.uint8 if self._late else np.float32), (pixels.shape[0], pixels.shape[1])

    def _normalise(self, inputs: Any) -> Any:
        """Return the model's input [n, 3, S, S]: the processor's own arithmetic on floats, for a whole batch at once."""
        if not self._late:
            return inputs
        own = self._processor
        return own.rescale_and_normalize(inputs, True, own.rescale_factor, True, own.image_mean, own.image_std)

    def images(self, inputs: NDArray[Any], patches: bool) -> tuple[Floats, Floats | None]:
        import torch

        with torch.inference_mode():
            batch = self._normalise(torch.from_numpy(inputs).to(self._device))
            rows = to_rows(_pooled(self._model.get_image_features(pixel_values=batch)))
            if not patches or self._patches is None:
                return rows, None
            return rows, to_rows(self._patches.run(batch))

    def tower(self) -> Tower:
        """Return the image tower with gradients, for saliency maps."""
        model = self._model

        def encode(pixels: Any) -> Any:
            return _pooled(model.get_image_features(pixel_values=pixels))

        return Tower(model.vision_model, encode, self._normalise, self._device)

    def texts(self, texts: Sequence[str]) -> Floats:
        return encode_in_blocks(self._encode_texts, texts, self.card.dim)

    def _encode_texts(self, texts: list[str]) -> Floats:
        """Encode texts at full length: SigLIP is trained on padding, CLIP does not mind it."""
        import torch

        tokens = self._tokenizer(
            texts, padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
        )
        siglip = self._model.config.model_type.startswith("siglip")
        names = ("input_ids",) if siglip else ("input_ids", "attention_mask")
        inputs = {name: tokens[name].to(self._device) for name in names if name in tokens}
        with torch.inference_mode():
            return to_rows(_pooled(self._model.get_text_features(**inputs)))


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a sha256 of what makes ids of texts in a transformers tokenizer, wherever its files lie."""
    about = {"class": type(tokenizer).__name__, "pad": tokenizer.pad_token_id, "eos": tokenizer.eos_token_id}
    about["sides"] = [tokenizer.padding_side, tokenizer.truncation_side]
    if hasattr(tokenizer, "backend_tokenizer"):
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        about["rules"] = {name: one for name, one in rules.items() if name not in ("truncation", "padding")}  # per call
    else:
        with tempfile.TemporaryDirectory() as folder:
            files = tokenizer.save_vocabulary(folder)
            about["files"] = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _pooled(output: Any) -> Any:
    """Return the embedding of `get_*_features`: a tensor up to transformers 4, an output with `pooler_output` from 5 on."""
    return output if hasattr(output, "detach") else output.pooler_output


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
