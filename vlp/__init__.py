"""vlp: pretraining of vision-language models on medical image-report pairs.

`vlp.from_pretrained(folder_or_hub_name)` is the whole public surface for users of a model; importing `vlp` is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .core.version import __version__

if TYPE_CHECKING:
    from .hub import from_pretrained

__all__ = ["__version__", "from_pretrained"]


def __getattr__(name: str) -> Any:
    if name == "from_pretrained":
        from .hub import from_pretrained

        return from_pretrained
    raise AttributeError(f"module 'vlp' has no attribute {name!r}")
