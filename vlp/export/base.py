"""What an export format is, and the registry of them: `@exporters.register("open_clip")` above a class."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vlp.core.errors import UnsupportedByFormat
from vlp.core.registry import Registry

if TYPE_CHECKING:
    from vlp.hub import Pretrained
    from vlp.models.dual_encoder import DualEncoder

Images = Sequence[Any]
"""As a processor's `probes` returns them: uint8 pixels, or the bytes of volumes."""
Texts = Sequence[str]
Embeddings = dict[str, np.ndarray]
"""By what was embedded: `images` [N, D], `texts` [N, D]."""

exporters: Registry[type[Exporter]] = Registry("export format", package="vlp.export")


class Exporter(ABC):
    """A format that a trained model is exported to, named as `--format` names it.

    A format asks each tower for its form in the library that loads it (`Tower.as_open_clip`, `Tower.as_transformers`), or
    traces it as `onnx` does; it never asks which kind of tower it has.
    """

    summary: ClassVar[str]
    """What it holds and what loads it, in a line of `--help`."""

    library: ClassVar[str]
    """`library_name` of the model card: the library that loads it."""

    pipeline_tag: ClassVar[str] = "zero-shot-image-classification"
    """The model card's: what it is for, in the Hub's words."""

    usage: ClassVar[str]
    """Python for the model card; `{repo}` is where the model is."""

    volumes: ClassVar[bool] = False
    """Whether it holds models of volumes too."""

    decodes_files: ClassVar[bool] = False
    """Whether its users need not decode images themselves."""

    tolerance: ClassVar[float] = 1e-5
    """Largest difference of an embedding's coordinates (unit length) from the native model's."""

    least_cosine: ClassVar[float | None] = None
    """Similarity to the native embedding that is enough for an image that had to be resized, where `tolerance` is too fine."""

    def __init__(self, name: str) -> None:
        self.name = name

    def require_kind(self, loaded: Pretrained) -> None:
        """Raise UnsupportedByFormat for a model of volumes where the format has no preprocessing of these."""
        if not self.volumes and loaded.model.image_tower.takes == "volume":
            raise UnsupportedByFormat(
                f"{self.library} has no preprocessing of volumes: export with --format vlp or onnx"
            )

    @abstractmethod
    def write(self, loaded: Pretrained, folder: Path, approximate: bool) -> list[str]:
        """Write the model to an empty folder; returns what the user should know of it.

        `approximate`: accept another way of resizing images. Raises UnsupportedByFormat for what the format cannot express.
        """

    @abstractmethod
    def load(self, source: str, images: Images, texts: Texts, trust: Texts = ()) -> Embeddings:
        """Embed as the format's users do, with its own library: `images` [N, D], `texts` [N, D], or one of them.

        `source` is a folder or a name on the Hub. `trust`: modules that a model of ours may name.
        """

    def expected(self, loaded: Pretrained, images: Images, texts: Texts) -> Embeddings:
        """Return what `load` should: the native model's embeddings."""
        return {"images": loaded.embed_images(images).cpu().numpy(), "texts": loaded.embed_texts(texts).cpu().numpy()}

    def path_dependent_files(self, folder: Path, repository: str | None) -> dict[str, bytes]:
        """Return the files that name the place where the model is: its final folder, or a repository of the Hub."""
        return {}

    def require_plain_image(self, model: DualEncoder) -> None:
        """Raise UnsupportedByFormat for an image tower of one channel, and for a head that adds patches."""
        if model.config.image_head.add_patches is not None:
            raise UnsupportedByFormat(
                f"{self.library} cannot add pooled patches to the global embedding: export with --format vlp"
            )
        if model.image_tower.channels != 3:
            raise UnsupportedByFormat(
                f"{self.library}'s models take three channels, this image tower takes one: export with --format vlp or "
                "onnx, or train with a three-channel tower (grey images are repeated)"
            )

    def without_local_heads(self, loaded: Pretrained) -> list[str]:
        """Return the note that a format without patches and words owes to the user."""
        has_local = loaded.model.patch_head or loaded.model.word_head
        return [f"patch and word heads are left out: {self.library} has none"] if has_local else []


def log_scale(model: DualEncoder) -> float:
    """Return the logarithm of the scale that the model multiplies cosines by, CLIP's own where it has none."""
    return math.log(1 / 0.07) if model.logit_scale is None else float(model.logit_scale.detach())
