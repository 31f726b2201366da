"""Patch features of other people's ViTs, projected into the joint space the way their pooled token is.

For models that were not trained to align patches this is the usual reading (MaskCLIP): the last layer's tokens through the
same norm and projection. Towers that are no ViT have none, and are left to gradient methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vlp.batch import Grid

if TYPE_CHECKING:
    import torch


@contextmanager
def caught(modules: Iterable[torch.nn.Module]) -> Iterator[list[tuple[torch.nn.Module, Any]]]:
    """Yield a list that fills with each of the modules as it is called and its output, of several the first."""
    found: list[tuple[torch.nn.Module, Any]] = []

    def hook(module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        found.append((module, output[0] if isinstance(output, tuple) and output else output))

    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


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
    """The tokens of another library's vision transformer: caught before pooling, then normed and projected."""

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
        trunk: Any = getattr(visual, "trunk", None)
        if not hasattr(trunk, "blocks") or not hasattr(trunk, "patch_embed"):
            return None
        found = stem_grid(trunk.patch_embed, side)
        if found is None:
            return None
        norm, count = getattr(trunk, "fc_norm", lambda tokens: tokens), found.cells
        return cls(trunk.blocks, found, lambda tokens: visual.head(norm(trunk.norm(tokens)[:, -count:])))

    @classmethod
    def of_transformers(cls, model: Any, side: int) -> TokenHook | None:
        """Return the hook for the vision tower of a dual encoder of transformers; None for one that is no ViT."""
        patch = model.config.vision_config.to_dict().get("patch_size") if hasattr(model, "vision_model") else None
        if not isinstance(patch, int):  # convolutional towers have none
            return None
        grid, tower = patch_grid(side, patch), model.vision_model
        is_clip = model.config.model_type.startswith("clip")  # SigLIP's tower returns normed tokens

        def project(output: Any) -> Any:
            tokens = output.last_hidden_state[:, -grid.cells :]
            tokens = tower.post_layernorm(tokens) if is_clip and hasattr(tower, "post_layernorm") else tokens
            return model.visual_projection(tokens) if hasattr(model, "visual_projection") else tokens

        return cls(tower, grid, project)

    def run(self, forward: Callable[[], Any]) -> tuple[Any, Any]:
        """Return what `forward` returns and the projected patch tokens [n, P, D]."""
        with caught([self._module]) as found:
            rows = forward()
        return rows, self._project(found[0][1])
