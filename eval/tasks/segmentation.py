"""Zero-shot segmentation: a phrase's map becomes a mask, by itself or through a SAM, against the masks of the data."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlp.config import ConfigError, config, to_tree
from vlp.modalities.image.decode import decode, decode_mask

from .. import segment
from ..bootstrap import mean_interval, multiplicities
from ..data import Data, DataError
from ..metrics.grounding import pixel_auroc
from ..metrics.segmentation import dice, hausdorff, iou, surface_dice
from ..results import metric
from .base import Context, Outcome, Plan, Task, some, tasks
from .grounding import Maps
from .grounding import Settings as MapSettings

Mask = NDArray[np.bool_]


@config
class Settings:
    """`masks`: name of a mask in the data -> the phrase that asks for it. `rule` makes a first mask of the map, its
    `parts` largest pieces become `prompt`s of the SAM in the folder `sam` (None: the pieces are the answer).

    `threshold` is of the map scaled to [0, 1]; it must not be chosen on the masks that are scored. `tolerance`: of the
    surface score, in pixels.
    """

    masks: dict[str, str]
    rule: segment.Rule = "kmeans"
    threshold: float = 0.5
    parts: int = 1
    prompt: Literal["box", "points"] = "box"
    sam: str | None = None
    tolerance: float = 2.0
    sigma: float = 0.0
    source: Literal["patches", "gradcam", "gscorecam", "m2ib"] = "patches"
    layer: str | None = None
    limit: int | None = None


def mask_of(data: Data, index: int, name: str) -> Mask | None:
    """Return a record's mask [H, W], or None; raises DataError naming one that does not decode."""
    content = data.mask(index, name)
    try:
        return decode_mask(content) if content is not None else None
    except (ValueError, OSError) as error:
        raise DataError(f"{data.name}: mask {name!r} of {data.records[index].key!r}: {error}") from None


@tasks.register("segmentation")
class Segmentation(Task):
    Config = Settings
    needs = frozenset({"masks"})

    def __init__(self, spec: Any, settings: Settings, folder: Any = None) -> None:
        super().__init__(spec, settings, folder)
        if not settings.masks:
            raise ConfigError(f"task {spec.id}: `masks` names no mask")

    def needs_model(self) -> bool:
        return bool(self.settings.source != "patches")

    def show(self) -> dict[str, Any]:
        return {"scoring": to_tree(self.settings)}

    def select(self, context: Context) -> list[tuple[int, str, Mask]]:
        """Return (record, mask name, mask) for each mask that is there and not empty."""
        found = []
        for index in context.usable:
            for name in self.settings.masks:
                mask = mask_of(context.data, index, name)
                if mask is not None and mask.any():
                    found.append((index, name, mask))
        some([one for one, _, _ in found], f"a mask {' or '.join(self.settings.masks)}", context.data)
        return found[: self.settings.limit]

    def plan(self, context: Context) -> Plan:
        indices = sorted({one for one, _, _ in self.select(context)})
        local = indices if self.settings.source == "patches" else []
        return Plan(images=indices, patches=local, texts=list(self.settings.masks.values()))

    def run(self, context: Context) -> Outcome:
        found = self.select(context)
        indices = sorted({one for one, _, _ in found})
        settings = self.settings
        maps = Maps(context, indices, MapSettings(sigma=settings.sigma, source=settings.source, layer=settings.layer))
        texts = dict(zip(settings.masks, context.store.texts(list(settings.masks.values())), strict=True))
        sam = segment.Sam.load(settings.sam, context.store.card.device) if settings.sam else None
        outcome = Outcome(indices, {}, scoring=to_tree(settings))
        scores: dict[str, list[float]] = {name: [] for name in ("dice", "iou", "nsd", "hd95", "pixel_auroc")}
        for index, name, truth in found:
            heat = maps.of(indices.index(index), texts[name])
            pixels = decode(context.data.image(index), 3)
            if pixels.shape[:2] != truth.shape:
                sizes = ["{1} x {0}".format(*one.shape) for one in (truth, pixels)]
                raise DataError(
                    f"{context.data.name}: mask {name!r} of {context.data.records[index].key!r} has {sizes[0]} pixels, "
                    f"its image {sizes[1]}"
                )
            answer = self.answer(heat, pixels, sam)
            values = {
                "dice": dice(answer, truth),
                "iou": iou(answer, truth),
                "nsd": surface_dice(answer, truth, settings.tolerance),
                "hd95": hausdorff(answer, truth),
                "pixel_auroc": pixel_auroc(heat, truth),
            }
            for key, value in values.items():
                scores[key].append(np.nan if value is None else value)
            outcome.rows.append(context.row(index) | {"mask": name} | values)
        owners = [context.data.patient(one) for one, _, _ in found]
        weights = multiplicities(owners, context.resamples, context.seed)
        for key, column in scores.items():
            values_of = np.array(column)
            known = np.isfinite(values_of)
            value = float(values_of[known].mean()) if known.any() else None
            bounds = mean_interval(values_of, weights) if known.any() else None
            outcome.metrics[key] = metric(
                value,
                bounds,
                primary=key == "dice",
                higher_is_better=key != "hd95",
                reason="undefined for every mask",
                n=int(known.sum()),
                chance=0.5 if key == "pixel_auroc" else None,
            )
        return outcome

    def answer(self, heat: NDArray[np.float32], pixels: NDArray[np.uint8], sam: segment.Sam | None) -> Mask:
        """Return the mask that a map stands for."""
        rule = self.settings.rule
        if rule == "threshold":
            first = segment.by_threshold(heat, self.settings.threshold)
        else:
            first = segment.by_kmeans(heat) if rule == "kmeans" else segment.by_crf(heat, pixels)
        parts = segment.largest_parts(first, self.settings.parts)
        if sam is not None and parts:
            return sam(pixels, parts, self.settings.prompt)
        return np.any(parts, axis=0) if parts else first
