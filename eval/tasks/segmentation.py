"""Zero-shot segmentation: a phrase's map becomes a mask, by itself or through a SAM, and is scored against the data's masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveInt

from vlp.core.config import ConfigError, config, to_tree
from vlp.modalities.image.decode import decode

from ..data.checks import check_masks
from ..data.dataset import Data, Findings
from ..data.spec import DataError
from ..maps.masks import Rule, Sam, by_crf, by_kmeans, by_threshold, largest_parts
from ..maps.phrase_maps import Maps, Source
from ..maps.resize import stretched
from ..metrics.grounding import pixel_ranking
from ..metrics.segmentation import dice, hausdorff, iou, surface_dice
from .base import Context, Outcome, Plan, families, mean_metric, require_any, words_of
from .controls import centre_map, control_of, partners
from .grounding.location_prior import Truth, learn_masks, map_of_masks, mask_of
from .map_task import MapTask

Mask = NDArray[np.bool_]
SCORES = ("dice", "iou", "nsd", "hd95", "pixel_auroc")
UNRELATED = "\0unrelated"
"""Stands for the phrase that no mask of the task is asked by."""


@config
class Settings:
    """`masks`: name of a mask in the data -> the phrase that asks for it. `rule` makes a first mask of the map, its
    `parts` largest pieces become `prompt`s of the SAM in the folder `sam` (None: the pieces are the answer).

    `threshold` is of the map scaled to [0, 1]; it must not be chosen on the masks that are scored. `tolerance`: of the
    surface score, in pixels, of volumes in millimetres. Controls: the same phrase on another patient's image; on the same
    image the phrase of another mask, or `unrelated` where the task asks for one mask only; the mean mask of `prior_split`, or
    of the other patients; a box in the middle. They go through the same `rule`, and the same SAM.
    """

    masks: dict[str, str]
    rule: Rule = "kmeans"
    threshold: float = 0.5
    parts: PositiveInt = 1
    prompt: Literal["box", "points"] = "box"
    sam: str | None = None
    tolerance: NonNegativeFloat = 2.0
    sigma: NonNegativeFloat = 0.0
    source: Source = "patches"
    layer: str | None = None
    limit: PositiveInt | None = None
    prior_split: str | None = "train"
    unrelated: str = "a photo of a cat"


@dataclass(kw_only=True)
class Masks(Plan):
    """The masks that are scored, decoded once."""

    truths: list[Truth]


@families.register("segmentation")
class Segmentation(MapTask[Masks]):
    Config = Settings
    needs = frozenset({"masks"})
    compares_samples = True
    titles, meanings = words_of("segmentation")
    unbounded = r"hd95.*"

    def __init__(self, spec: Any, settings: Settings, folder: Any = None) -> None:
        super().__init__(spec, settings, folder)
        if not settings.masks:
            raise ConfigError(f"task {spec.id}: `masks` names no mask")

    def check(self, data: Data) -> Findings:
        return check_masks(data, tuple(self.settings.masks))

    def plan(self, context: Context) -> Masks:
        found: list[Truth] = []
        for index in context.usable:
            for name in self.settings.masks:
                mask = mask_of(context.data, index, name)
                if mask is not None and mask.any():
                    found.append(Truth(index, name, mask.shape, np.packbits(mask)))
        require_any([truth.index for truth in found], f"a mask {' or '.join(self.settings.masks)}", context.data)
        found = found[: self.settings.limit]
        indices = sorted({truth.index for truth in found})
        local = indices if self.settings.source == "patches" else []
        return Masks(images=indices, patches=local, texts=list(self._phrases().values()), truths=found)

    def _phrases(self) -> dict[str, str]:
        """Return the phrase of each mask, and the wrong one of a task that asks for a single mask."""
        asked = self.settings.masks
        return dict(asked) | ({UNRELATED: self.settings.unrelated} if len(asked) == 1 else {})

    def _wrong(self, found: Sequence[Truth]) -> list[str]:
        """Return for each mask the name of another, one that its image does not have where there is such a one."""
        here: dict[int, set[str]] = {}
        for truth in found:
            here.setdefault(truth.index, set()).add(truth.name)
        phrases = self._phrases()
        result = []
        for truth in found:
            others = [name for name in phrases if phrases[name] != phrases[truth.name]]
            absent = [other for other in others if other not in here[truth.index]]
            result.append(next(iter(absent or others), ""))
        return result

    def run(self, context: Context, plan: Masks) -> Outcome:
        found, indices = plan.truths, plan.images
        settings, phrases = self.settings, self._phrases()
        maps = Maps(context.cache, context.data, indices, settings.source, settings.sigma, settings.layer)
        texts = dict(zip(phrases, context.cache.texts(list(phrases.values())), strict=True))
        if maps.is_volume and (settings.sam or settings.rule == "crf"):
            raise DataError(
                "a SAM and the CRF are of 2-D images: of volumes leave out `sam`, and take rule kmeans or threshold"
            )
        sam = Sam.load(settings.sam, context.cache.card.device) if settings.sam else None
        prior = learn_masks(context, settings.prior_split, found)
        place_of = {index: place for place, index in enumerate(indices)}
        others, wrong = partners(context.data, indices, context.seed), self._wrong(found)
        outcome = Outcome(indices, {}, scoring=to_tree(settings) | {"prior": prior.source})
        if maps.is_volume:
            outcome.scoring["surface"] = "in millimetres, by the spacing of each volume"
        table: list[dict[str, float | None]] = []
        for asked, other in zip(found, wrong, strict=True):
            index, name, truth = asked.index, asked.name, asked.mask
            place = place_of[index]
            if maps.shape(place) != truth.shape:
                sizes = [" x ".join(map(str, shape[::-1])) for shape in (truth.shape, maps.shape(place))]
                raise DataError(
                    f"{context.data.name}: mask {name!r} of {context.data.records[index].key!r} has {sizes[0]} pixels, "
                    f"its image {sizes[1]}"
                )
            pixels = None if maps.is_volume else decode(context.data.image(index), 3)
            shuffled = maps.of(others[place], texts[name]) if others[place] != place else None
            heats = {
                "": maps.of(place, texts[name]),
                "shuffled": None if shuffled is None else stretched(shuffled, truth.shape),
                "wrong_phrase": maps.of(place, texts[other]) if other else None,
                "prior": map_of_masks(prior, name, index, truth.shape),
                "centre": centre_map(truth.shape),
            }
            values: dict[str, float | None] = {}
            for control, heat in heats.items():
                values |= self._scores(heat, truth, pixels, sam, maps.spacing(place), control)
            table.append(values)
            outcome.rows.append(context.row(index) | {"mask": name} | values)
        names, owners = [truth.name for truth in found], [truth.index for truth in found]
        outcome.metrics = self._summary(context, table, owners)
        for name in sorted(set(names)):
            rows = [row for row, own in enumerate(names) if own == name]
            entry = self._summary(context, [table[row] for row in rows], [owners[row] for row in rows])
            outcome.per_class[name] = {"n": len(rows)} | entry
        return outcome

    def _scores(
        self,
        heat: NDArray[np.float32] | None,
        truth: Mask,
        pixels: NDArray[np.uint8] | None,
        sam: Sam | None,
        spacing: tuple[float, ...],
        control: str,
    ) -> dict[str, float | None]:
        """Return the scores of a map's mask, or of a control's (`control` ends their names), None where undefined."""
        values: dict[str, float | None] = dict.fromkeys(SCORES)
        if heat is not None:
            answer, ranking = self.answer(heat, pixels, sam), pixel_ranking(heat, truth)
            values = {
                "dice": dice(answer, truth),
                "iou": iou(answer, truth),
                "nsd": surface_dice(answer, truth, self.settings.tolerance, spacing or None),
                "hd95": hausdorff(answer, truth, spacing=spacing or None),
                "pixel_auroc": ranking[0] if ranking else None,
            }
        return {f"{name}_{control}" if control else name: value for name, value in values.items()}

    def _summary(
        self, context: Context, table: Sequence[Mapping[str, float | None]], records: Sequence[int]
    ) -> dict[str, dict[str, Any]]:
        """Return the mean of each score over masks, with its interval; masks for which it is undefined are left out."""
        drawn = context.draw(records)
        result = {}
        for name in table[0]:
            values = np.array([np.nan if row[name] is None else row[name] for row in table], dtype=np.float64)
            distance, chance = name.startswith("hd95"), 0.5 if name == "pixel_auroc" else None
            facts = {"primary": name == "dice", "higher_is_better": not distance, **control_of(name, SCORES)}
            reason = "undefined for every mask"
            result[name] = mean_metric(values, drawn, bounded=not distance, chance=chance, reason=reason, **facts)
        return result

    def answer(self, heat: NDArray[np.float32], pixels: NDArray[np.uint8] | None, sam: Sam | None) -> Mask:
        """Return the mask that a map stands for; `pixels` of the image, None for a volume."""
        rule = self.settings.rule
        if rule == "threshold":
            first = by_threshold(heat, self.settings.threshold)
        elif rule == "kmeans" or pixels is None:
            first = by_kmeans(heat)
        else:
            first = by_crf(heat, pixels)
        parts = largest_parts(first, self.settings.parts)
        if sam is not None and pixels is not None and parts:
            return sam(pixels, parts, self.settings.prompt)
        return np.any(parts, axis=0) if parts else first
