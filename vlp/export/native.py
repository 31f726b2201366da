"""Our own format: everything, for `vlp.from_pretrained`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vlp.hub import Pretrained


def write(loaded: Pretrained, folder: Path, approximate: bool) -> list[str]:
    """Write the model as `save_pretrained` does; returns what the user should know of it."""
    from vlp.hub import save_pretrained

    extra = loaded.config.get("extra")
    save_pretrained(folder, loaded.model, loaded.preprocess, loaded.tokenizer, extra, objectives=loaded.objectives)
    return []


def load(
    source: str, pictures: Sequence[np.ndarray], texts: Sequence[str], trust: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Embed with `vlp.from_pretrained`; `source` is a folder or a Hub name."""
    from vlp.hub import from_pretrained

    loaded = from_pretrained(source, trust)
    return {"images": loaded.embed_images(pictures).numpy(), "texts": loaded.embed_texts(texts).numpy()}
