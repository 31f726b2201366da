"""What an export format cannot express."""

from __future__ import annotations

from vlp.core.config import ConfigError

FORMATS = {
    "vlp": "everything, also the heads for patches and words and what objectives learnt; loads with vlp.from_pretrained",
    "open_clip": "loads with open_clip.create_model_and_transforms('local-dir:...' or 'hf-hub:...')",
    "transformers": "loads with AutoModel, AutoProcessor and the zero-shot-image-classification pipeline",
    "onnx": "both towers with their heads, dynamic batch and text length",
    "image": "the image tower alone, as a transformers model",
    "text": "the text tower alone, as a transformers model",
}


class CannotExpress(ConfigError):
    """A format that has no words for what the model does; the message says what, and which format can."""
