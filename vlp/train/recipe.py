"""The root of a run's configuration: what a recipe file may say, the parts declared where they are used.

Checks that need the whole recipe (or the number of processes) are here too, so that a plan that cannot work is refused
with its numbers before anything is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from vlp.core.config import ConfigError, compose, config, find, to_tree, validate
from vlp.core.declared import Kinds
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.kinds import Spec
from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.base import tokenizer_kinds
from vlp.modalities.volume.spec import VolumeSpec

from ..data.loader import DataConfig
from ..models.dual_encoder import ModelConfig
from .engines.base import EngineConfig, engines
from .logging import LogConfig
from .optimizer import OptimConfig


@config
class TrainConfig:
    """How long to train, and how often to look up from it.

    `samples` seen in all; the schedule is counted in them. `accumulate` splits each process's rows of a batch into so
    many chunks to save memory: the batch stays `data.batch_size`. Objectives whose loss couples the rows of a batch need
    `cached_embeddings: true` for that, whose gradients equal the whole batch's (one more forward of all chunks but one).
    A checkpoint is due after `checkpoint_every_steps` or `checkpoint_every_minutes`, whichever is first (null = never),
    and at the end; the newest `keep` stay. `validate_every` and `log_every` count steps.
    """

    samples: int
    accumulate: int = 1
    cached_embeddings: bool = False
    checkpoint_every_steps: int | None = None
    checkpoint_every_minutes: float | None = 30.0
    keep: int = 2
    validate_every: int | None = None
    log_every: int = 10


@config
class Recipe:
    """A whole run. Its folder is `{out}/{name}`; `name` is the recipe file's unless it is given.

    `volume`, where it is given, stands in the place of `image`: the run is on CT or MR volumes.
    """

    name: str
    seed: int = 0
    out: str = "runs"
    image: ImageSpec
    volume: VolumeSpec | None = None
    tokenizer: TextSpec
    model: ModelConfig
    data: DataConfig
    objectives: tuple[str | Annotated[dict[str, Any], Kinds("vlp.objectives:objectives")], ...]
    optim: OptimConfig
    engine: EngineConfig
    train: TrainConfig
    log: LogConfig

    @property
    def folder(self) -> Path:
        return Path(self.out) / self.name

    @property
    def seen(self) -> Spec:
        """What the model expects of an image, or of the volume in its place."""
        return self.volume or self.image

    @property
    def steps(self) -> int:
        """Return the number of optimiser steps: enough for `train.samples`, in whole batches."""
        return -(-self.train.samples // self.data.batch_size)


PARTS = ("image", "tokenizer", "optim", "engine", "log")
"""Parts of a recipe in which every key has a default, so that a recipe may leave the part out."""

MAY_CHANGE = (
    *("name", "out", "log", "engine", "data.workers", "data.max_rejected"),
    *("train.accumulate", "train.cached_embeddings", "train.log_every", "train.validate_every"),
    *("train.keep", "train.checkpoint_every_steps", "train.checkpoint_every_minutes"),
)
"""Keys that a resumed run may change: they say where and how fast, not what is learnt."""

PLACES = ("data.train", "data.val", "data.cache")
"""Keys that say where data lies: it may be moved, not changed."""


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe in a file with `a.b=c` overrides laid over it; raises ConfigError."""
    recipe = from_tree({"name": path.stem, **compose(path, overrides, Recipe)})
    # Here and not in `from_tree`, which also reads checkpoints' recipes: what those name is not imported.
    find(engines, recipe.engine.kind, "engine.kind")
    find(tokenizer_kinds, recipe.tokenizer.kind, "tokenizer.kind")
    return recipe


def from_tree(tree: Mapping[str, Any]) -> Recipe:
    """Return the recipe that a tree of plain values describes; raises ConfigError for what can be seen to be wrong."""
    recipe = validate(Recipe, {**{part: {} for part in PARTS}, **tree})
    check(recipe)
    return recipe


def check(recipe: Recipe) -> None:
    """Raise ConfigError for values that contradict one another."""
    train, engine = recipe.train, recipe.engine
    wrong = [
        (not recipe.objectives, "objectives: a recipe needs at least one"),
        (
            "/" in recipe.name or recipe.name in ("", ".", ".."),
            f"name: {recipe.name!r} is not a folder's name; use `out` for its parent",
        ),
        (train.samples < 1, f"train.samples: expected at least 1, found {train.samples}"),
        (train.accumulate < 1, f"train.accumulate: expected at least 1, found {train.accumulate}"),
        (train.keep < 1, f"train.keep: expected at least 1, found {train.keep}"),
        (train.log_every < 1, f"train.log_every: expected at least 1, found {train.log_every}"),
        (
            train.cached_embeddings and train.accumulate == 1,
            "train.cached_embeddings: does nothing with train.accumulate=1; set train.accumulate to the number of chunks",
        ),
        (
            engine.kind == "deepspeed" and engine.shard,
            "engine.shard: is the torch engine's; with engine.kind=deepspeed say engine.zero=3",
        ),
    ]
    for is_wrong, message in wrong:
        if is_wrong:
            raise ConfigError(message)


def check_world(recipe: Recipe, world: int) -> None:
    """Raise ConfigError unless the batch divides into `world` processes and each one's rows into the chunks."""
    rows, left = divmod(recipe.data.batch_size, world)
    if left:
        raise ConfigError(
            f"data.batch_size: {recipe.data.batch_size} rows do not divide among {world} processes; "
            f"the nearest that do: {rows * world or world} and {(rows + 1) * world}"
        )
    if rows % recipe.train.accumulate:
        raise ConfigError(
            f"train.accumulate: the {rows} rows of each process (data.batch_size {recipe.data.batch_size} / {world} "
            f"processes) do not divide into {recipe.train.accumulate} chunks"
        )


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Return (key, old value, new value) for every leaf in which two trees differ; a missing one is None."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        paths = {key: f"{path}.{key}" if path else str(key) for key in (*old, *new)}
        return [found for key, at in paths.items() for found in differences(old.get(key), new.get(key), at)]
    return [] if old == new else [(path, old, new)]


def follows_progress(recipe: Recipe, samples: int) -> bool:
    """Return whether a run longer than `samples` would have been trained otherwise from its first step on."""
    if recipe.optim.schedule != "constant" or recipe.optim.warmup_samples > samples:
        return True
    from ..objectives import build_objectives

    return build_objectives(recipe.objectives, recipe.model.dim).follows_progress


def without_paths(sources: Any) -> Any:
    """Return where data lies as a recipe says it, without the paths."""
    if isinstance(sources, list):
        return [without_paths(source) for source in sources]
    return {**sources, "path": ""} if isinstance(sources, Mapping) else sources and ""


def check_resume(recipe: Recipe, saved: Mapping[str, Any]) -> list[str]:
    """Compare with the recipe a checkpoint was trained with: raise ConfigError when what is learnt would change.

    Returns one line for each difference that is allowed: `MAY_CHANGE`, other `PLACES`, and `train.samples` where nothing
    follows the share of the run that is done, neither the learning rate nor the objectives.
    """
    shortest = min(recipe.train.samples, int(saved["train"]["samples"]))
    allowed = MAY_CHANGE if follows_progress(recipe, shortest) else (*MAY_CHANGE, "train.samples")
    notes: list[str] = []
    refused: list[str] = []
    for key, old, new in differences(saved, now := to_tree(recipe)):
        # of what was moved, the loader compares what lies there with what did
        moved = key in PLACES and without_paths(saved["data"][key[5:]]) == without_paths(now["data"][key[5:]])
        fine = moved or any(key == allowed_key or key.startswith(allowed_key + ".") for allowed_key in allowed)
        (notes if fine else refused).append(f"{key}: {old!r} -> {new!r}")
    if refused:
        raise ConfigError(
            f"{recipe.folder}: the checkpoint was trained with another recipe ({'; '.join(refused)}); "
            "restore these values to resume, or choose another name= for a new run"
        )
    return notes
