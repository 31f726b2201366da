"""What takes the place of the image, a 2-D image or a volume, told apart by its specification or by what was saved of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlp.core.config import ConfigError

from .base import FILE, ImageLike, read_saved
from .image.processor import ImageProcessor
from .image.spec import ImageSpec
from .volume.processor import VolumeProcessor
from .volume.spec import VolumeSpec

Spec = ImageSpec | VolumeSpec
KINDS: dict[str, type[ImageLike[Any]]] = {kind.kind: kind for kind in (ImageProcessor, VolumeProcessor)}


def processor_of(spec: Spec) -> ImageLike[Any]:
    """Return the processor of a specification."""
    return VolumeProcessor(spec) if isinstance(spec, VolumeSpec) else ImageProcessor(spec)


def load_processor(folder: Path | str) -> ImageLike[Any]:
    """Return the processor that a model's folder holds; raises ConfigError naming the file when it is missing or wrong."""
    path = Path(folder) / FILE
    tree = read_saved(path)
    kind = tree.get("kind", "image")
    if kind not in KINDS:
        raise ConfigError(
            f"{path}: preprocessing of kind {str(kind)[:80]!r}, this vlp knows {', '.join(KINDS)}; update vlp"
        )
    return KINDS[kind].of_tree(tree, path)
