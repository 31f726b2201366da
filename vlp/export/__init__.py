"""Export formats: one file each, entered into `base.exporters` on import. Add yours to the imports below."""

# ruff: noqa: F401
from . import image_tower, native, onnx, open_clip, text_tower, transformers
from .base import Exporter, exporters

__all__ = ["Exporter", "exporters"]
