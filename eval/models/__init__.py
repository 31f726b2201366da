"""Models behind one seam, by library: importing the package registers them. `module:factory` brings one's own."""

from . import open_clip, transformers, vlp

__all__ = ["open_clip", "transformers", "vlp"]
