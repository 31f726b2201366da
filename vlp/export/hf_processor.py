"""A model's preprocessing and tokenizer as transformers reads them, as far as it has words for them.

No format of its own: shared by those that transformers, or open_clip through it, loads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlp.core.errors import UnsupportedByFormat
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.text.tokenizers.base import Tokenizer

FILE = "preprocessor_config.json"
LEAST_COSINE = 0.995
"""Similarity to the native embedding of an image that transformers resized, as tensors: see `rounding`."""


def image_processor(spec: ImageSpec, approximate: bool) -> dict[str, Any]:
    """Return the settings of a `CLIPImageProcessor`; raises UnsupportedByFormat where they would be another preprocessing.

    With `approximate`, what has no words comes out as near as can be. What is never quite equal is in `rounding`.
    `PilBackend` as the type would round equally, but is unknown to transformers 4, and puts odd margins of `pad`
    elsewhere, which costs more (measured on a trained tower: cosines from .95, where rounding leaves .9999).
    """
    require_interpolation(spec, "transformers", approximate)
    if spec.resize == "pad" and spec.pad_value != 0 and not approximate:
        raise UnsupportedByFormat(
            f"transformers' processors pad images around the centre with black only, image.pad_value is {spec.pad_value}: "
            "export with --format open_clip or vlp, train with image.pad_value=0, or give --approximate"
        )
    side = {"height": spec.size, "width": spec.size}
    # A crop beyond the image's edge pads with black: after resizing the longest side to the size, that is `pad`.
    size = {
        "pad": {"shortest_edge": spec.size, "longest_edge": spec.size},
        "crop": {"shortest_edge": int(spec.size / spec.crop_share)},
        "squash": side,
    }[spec.resize]
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        "resample": 2 if spec.interpolation == "bilinear" else 3,
        "do_center_crop": spec.resize != "squash",
        "crop_size": side,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean * 3 if len(spec.mean) == 1 else spec.mean),
        "image_std": list(spec.std * 3 if len(spec.std) == 1 else spec.std),
    }


def rounding(spec: ImageSpec) -> list[str]:
    """Return the note on how transformers resizes: as its processors are loaded by default, not as Pillow does."""
    note = "transformers resizes images as tensors: grey levels round otherwise than here, by a few of 255"
    if spec.resize != "pad":  # that backend puts an odd margin a pixel to the other side
        note += ', and not at all with `backend="pil"` given to AutoProcessor.from_pretrained'
    if spec.resize == "crop":
        note += "; where an odd border is cut off, one image in four is cut a pixel beside (see the cosine, if there is one)"
    return [note]


def require_interpolation(spec: ImageSpec, library: str, approximate: bool) -> None:
    """Raise UnsupportedByFormat for the interpolation that only OpenCV has."""
    if spec.interpolation == "area" and not approximate:
        raise UnsupportedByFormat(
            f"{library} resizes images with Pillow's bicubic or bilinear filter, image.interpolation is area (OpenCV's): "
            "export with --format vlp or onnx, train with image.interpolation=bicubic, or give --approximate to have "
            "bicubic instead, the difference measured and put in the card"
        )


def colours(spec: ImageSpec, library: str) -> list[str]:
    """Return the note that a model of grey images needs where the library keeps colours."""
    if spec.channels == 3:
        return []
    return [f"colour images are made grey by vlp, not by {library}: give it grey ones"]


def write_image_processor(settings: dict[str, Any], folder: Path) -> None:
    """Write `preprocessor_config.json`."""
    (folder / FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def write_tokenizer(tokenizer: Tokenizer, folder: Path, masked: bool, processor: str | None = None) -> None:
    """Write the files that `AutoTokenizer` reads, with the length at which texts are cut; raises UnsupportedByFormat.

    `masked`: whether the tower is told which tokens are padding; SigLIP's is not.
    """
    if tokenizer.kind != "hf":
        raise UnsupportedByFormat(
            f"transformers does not read a tokenizer of kind {tokenizer.kind!r}: export with --format vlp or onnx"
            + (" or open_clip" if tokenizer.kind == "open_clip" else "")
        )
    files = tokenizer.files()
    settings: dict[str, Any] = json.loads(files.pop("tokenizer_config.json", b"{}"))
    settings["model_max_length"] = tokenizer.length
    if not masked:
        settings["model_input_names"] = ["input_ids"]
    if processor:
        settings["processor_class"] = processor
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
