"""Patch features of other people's ViTs, projected into the joint space the way their pooled token is.

For models that were not trained to align patches this is the usual reading (MaskCLIP): the last layer's tokens through the
same norm and projection. Towers that are no ViT have none, and are left to gradient methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlp.batch import Grid

from .base import caught


def patch_grid(side: int, patch: int) -> Grid:
    """Return the grid of whole patches on an input of `side` pixels; what is left over at the right and bottom is not seen."""
    edge = side // patch
    return Grid((edge, edge), (patch, patch), (patch / 2, patch / 2))


def stem_grid(stem: Any, side: int) -> Grid | None:
    """Return the grid of timm's `patch_embed`, followed through its layers; None when its cells are no square."""
    import torch

    from vlp.models.towers.patch_grid import trace_grid

    edge = round(stem.num_patches**0.5)

    def run() -> tuple[int, int] | None:
        stem(torch.zeros(1, 3, side, side, device=next(stem.parameters()).device))
        return (edge, edge) if edge * edge == stem.num_patches else None

    return trace_grid(stem, run, (side, side))


class TokenHook:
    """The tokens of an open_clip VisionTransformer: caught before pooling, then normed and projected."""

    def __init__(self, module: Any, grid: Grid, project: Callable[[Any], Any]) -> None:
        self._module, self.grid, self._project = module, grid, project

    @classmethod
    def of(cls, visual: Any, side: int) -> TokenHook | None:
        """Return the hook for a ViT of open_clip or one of timm inside it; None for other towers."""
        if hasattr(visual, "conv1") and hasattr(visual, "ln_post") and hasattr(visual, "transformer"):
            grid = patch_grid(side, visual.patch_size[0])

            def project(tokens: Any) -> Any:
                cells = visual.ln_post(tokens[:, -grid.cells :])
                return cells @ visual.proj if visual.proj is not None else cells

            return cls(visual.transformer, grid, project)
        trunk = getattr(visual, "trunk", None)
        if trunk is None or not hasattr(trunk, "blocks") or not hasattr(trunk, "patch_embed"):
            return None
        found = stem_grid(trunk.patch_embed, side)
        if found is None:
            return None
        norm, count = getattr(trunk, "fc_norm", lambda tokens: tokens), found.cells
        return cls(trunk.blocks, found, lambda tokens: visual.head(norm(trunk.norm(tokens)[:, -count:])))

    def run(self, forward: Callable[[], Any]) -> tuple[Any, Any]:
        """Return what `forward` returns and the projected patch tokens [n, P, D]."""
        with caught([self._module]) as found:
            rows = forward()
        return rows, self._project(found[0][1])


class HiddenPatches:
    """The last hidden states of a transformers vision tower, normed and projected as its pooled output is."""

    def __init__(self, model: Any, grid: Grid) -> None:
        self._model, self.grid = model, grid

    @classmethod
    def of(cls, model: Any, side: int) -> HiddenPatches | None:
        if not hasattr(model, "vision_model"):
            return None
        patch = model.config.vision_config.to_dict().get("patch_size")  # convolutional towers have none
        if not isinstance(patch, int):
            return None
        return cls(model, patch_grid(side, patch))

    def run(self, pixels: Any) -> Any:
        """Return patch features [n, P, D] of normalised pixels [n, 3, S, S]."""
        tower = self._model.vision_model
        tokens = tower(pixel_values=pixels).last_hidden_state[:, -self.grid.cells :]
        norm = getattr(tower, "post_layernorm", None)
        if norm is not None and self._model.config.model_type.startswith("clip"):
            tokens = norm(tokens)  # SigLIP's tower returns normed tokens already
        project = getattr(self._model, "visual_projection", None)
        return project(tokens) if project is not None else tokens
