"""From a recipe to the components of a run, and these to and from a checkpoint folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlp.batch import Batch
from vlp.core import distributed
from vlp.core.config import ConfigError, dump_yaml, read_yaml, to_tree
from vlp.core.config import digest as digest_of
from vlp.core.output import hold, partial_of, remove, write_whole
from vlp.core.trust import LIBRARIES, dotted_modules
from vlp.data.pipe_stream import PipeStream
from vlp.data.stream import Stream, check_texts, open_stream
from vlp.modalities.base import ImageLike
from vlp.modalities.kinds import processor_of
from vlp.modalities.text.processor import TextProcessor
from vlp.modalities.text.tokenizers.base import Tokenizer
from vlp.modalities.text.tokenizers.load import build_tokenizer, load_tokenizer, needs_texts
from vlp.models.build import build_model, prepare_for_training
from vlp.models.dual_encoder import DualEncoder

from .. import hub
from ..data.loader import Loader
from ..objectives import build_objectives
from . import checkpoint
from .engines.base import Engine, build_engine
from .grad_cache import check_accumulation, check_batch, split_batch
from .random_state import random_file, random_states, seed_all, set_random_states
from .recipe import Recipe, check_resume, check_world, from_tree
from .train_step import TrainStep

OWN = ("recipe.yaml", "log.jsonl", "tokenizer", "ranks", checkpoint.FOLDER, checkpoint.LAST, "wandb", "wandb_id")
"""What a run's folder holds."""

READ_FROM = ("path", "train", "val", "pretrained", "checkpoint")
"""Keys of a recipe whose text may be a file or folder to read."""

TOKENIZER_TEXTS = 200_000
"""Training texts that a tokenizer is trained on at most; more change next to nothing."""

ALIKE = 1e-5
"""Largest difference, as a share of the vectors' length, at which texts count as having one vector."""


@dataclass
class Components:
    """What the trainer works with."""

    engine: Engine
    loader: Loader
    validation: Loader | None
    preprocess: ImageLike[Any]
    tokenizer: Tokenizer
    device: torch.device

    def summary(self) -> dict[str, Any]:
        """Return the run's size in numbers, for the log's first line."""
        parameters = list(self.engine.module.parameters())
        return {
            "parameters": sum(parameter.numel() for parameter in parameters),
            "trained": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            "without_text": self.loader.stream.without_text,
            "precision": self.engine.precision,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
        }


def open_data(recipe: Recipe) -> Stream | PipeStream:
    """Open the training data. Raises ConfigError for what it cannot do for this many ranks.

    Not collective: called before anything that is, so that no rank waits for one that has failed.
    """
    check_world(recipe, distributed.world())
    return open_stream(recipe.data, recipe.seed, "train", distributed.world())


@contextmanager
def hold_run(recipe: Recipe, resume: bool) -> Iterator[Path | None]:
    """Make the run folder, hold it, and yield the checkpoint to go on from, None for a fresh start. Collective.

    Rank 0 holds it for all. Raises on every rank: ConfigError when the folder holds another run's checkpoints, (without
    `resume`) this one's, or what was not made by a run; InUseError while another process trains there; OSError.
    """
    with ExitStack() as stack:
        found: Path | None = None
        failure: Exception | None = None
        if distributed.is_main():
            try:
                is_run = checkpoint.is_run(recipe.folder)
                stack.enter_context(hold(recipe.folder, checkpoint.MADE_BY, OWN, is_ours=is_run))
                found = _prepare_run_dir(recipe, resume)
            except (ConfigError, OSError) as error:
                failure = error
        found, failure = distributed.broadcast_object((found, failure))
        if failure is not None:
            raise failure
        yield found


def _prepare_run_dir(recipe: Recipe, resume: bool) -> Path | None:
    run, sources = recipe.folder, source_folders(recipe)
    if any(source.resolve() == run.resolve() for source in sources):
        raise ConfigError(f"{run} is what the recipe reads from: choose another name=")
    found = checkpoint.latest(run)
    if found is not None and not resume:
        raise ConfigError(
            f"{run} holds a run already (checkpoint {found.name}): add --resume to go on with it, or choose another name="
        )
    if found is not None:
        check_resume(recipe, _with_defaults(read_yaml(found / "recipe.yaml")))
    else:  # what an earlier start left behind before its first checkpoint
        remove(run / "log.jsonl", checkpoint.MADE_BY)
        remove(run / "tokenizer", checkpoint.MADE_BY, *sources)
    checkpoint.rotate(run, recipe.train.keep)
    write_whole(run / "recipe.yaml", dump_yaml(recipe))
    return found


def source_folders(recipe: Recipe) -> list[Path]:
    """Return the files and folders of this machine that a recipe reads from: data, tokenizers, weights."""
    return list(_places({part: to_tree(getattr(recipe, part)) for part in ("data", "tokenizer", "model")}, ""))


def _places(value: Any, key: str) -> Iterator[Path]:
    if isinstance(value, (dict, list)):
        for name, item in value.items() if isinstance(value, dict) else [(key, item) for item in value]:
            yield from _places(item, name)
    elif isinstance(value, str) and key in READ_FROM and os.path.exists(value):
        yield Path(value)


def _with_defaults(saved: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's recipe with the keys that it could not have yet, since they did not exist."""
    try:
        tree: dict[str, Any] = to_tree(from_tree(saved))
    except ConfigError:  # it has keys that exist no more: the comparison names them
        return saved
    return tree


def remove_failed_start(recipe: Recipe) -> None:
    """Remove what a start that came to nothing wrote into its folder; a folder that was new goes with its lock."""
    if distributed.is_main():
        remove(recipe.folder / "recipe.yaml", checkpoint.MADE_BY)
        for name in ("ranks", "tokenizer"):
            remove(recipe.folder / name, checkpoint.MADE_BY, *source_folders(recipe))


def build(recipe: Recipe, run: Path, data: Stream | PipeStream, start: Path | None = None) -> Components:
    """Build everything that a recipe names over `open_data`'s stream, the same on every rank. Collective.

    A run that goes on from the checkpoint `start` takes tokenizer and architecture from there: what they were first made of
    may be gone. Raises ConfigError.
    """
    device = distributed.device()
    torch.manual_seed(recipe.seed)
    objectives = build_objectives(recipe.objectives, recipe.model.dim)
    check_accumulation(recipe.train.accumulate, recipe.train.cached_embeddings, objectives.batch_coupled)
    check_batch(recipe.data.batch_size, objectives.batch_coupled)
    if objectives.needs_text:
        check_texts(data)
    preprocess = processor_of(recipe.seen)
    preprocess.check_training(recipe.data.augment, recipe.data.decode)
    objectives.check_kinds(preprocess.kinds)
    if start is None:
        tokenizer = build_or_train_tokenizer(recipe, run, data)
        model = build_model(recipe.model, recipe.seen, tokenizer, objectives.needs, objectives.scale_init)
    else:
        named = (recipe.model.image, recipe.model.text, recipe.tokenizer.kind)
        model, processors, _ = hub.rebuild(start, (*dotted_modules(*named, *objectives.needs), *LIBRARIES))
        tokenizer = cast(TextProcessor, processors["text"]).tokenizer
        prepare_for_training(model, tokenizer)
    make_loader = partial(
        Loader,
        recipe.data,
        preprocess,
        tokenizer,
        objectives.needs,
        objectives.prompt_spec(),
        seed=recipe.seed,
        rank=distributed.rank(),
        world=distributed.world(),
        settings=objectives.need_settings(),
        grid=model.grid,
    )
    loader = make_loader(split="train", stream=data)
    validation = make_loader(split="val")
    engine = build_engine(TrainStep(model, objectives), recipe.optim, recipe.engine, device)
    engine.module.train()
    # Parameters start alike on all ranks; dropout must not.
    seed_all(recipe.seed * 1_000_003 + distributed.rank())
    return Components(engine, loader, validation if validation.samples else None, preprocess, tokenizer, device)


@torch.no_grad()
def check_vectors(engine: Engine, batch: Batch, chunks: int) -> None:
    """Raise ConfigError on every rank where all the different texts of a rank's first rows have one vector. Collective.

    A tower that pools at a token which sees no other trains without an error and learns nothing. `chunks` is what the batch is
    cut into for memory; only the first is embedded.
    """
    part = split_batch(batch, chunks)[0]
    device = part.image.device
    was_training = engine.module.training
    engine.module.eval()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        text = engine.embed(part).text.float()
    engine.module.train(was_training)
    different = len({tuple(row) for row in part.text.ids.tolist()})
    if distributed.agree(different > 1 and has_one_vector(text)):
        raise ConfigError(
            "model.text: the different texts of the first batch have one vector, so nothing can be learnt of them. Look at the "
            "tower's pooling (model.text.pooling, or pool_type of open_clip): it may take a token that sees none of the others"
        )


def has_one_vector(vectors: Tensor) -> bool:
    """Return whether rows [B, D] are all alike, up to rounding."""
    spread = (vectors - vectors[:1]).abs().amax()
    return bool(spread <= ALIKE * vectors.abs().amax())


def build_or_train_tokenizer(recipe: Recipe, run: Path, data: Stream | PipeStream) -> Tokenizer:
    """Return the recipe's tokenizer; one that has no file yet is trained by rank 0 and kept in the run folder. Collective."""
    spec = recipe.tokenizer
    if not needs_texts(spec):
        return build_tokenizer(spec, None)
    folder = run / "tokenizer"
    failure: str | None = None
    if distributed.is_main() and not folder.is_dir():
        try:
            temporary = partial_of(folder)
            remove(temporary, checkpoint.MADE_BY)
            build_tokenizer(spec, data.texts(TOKENIZER_TEXTS)).save(temporary)
            temporary.rename(folder)
        except ConfigError as error:
            failure = str(error)
        except (ValueError, OSError) as error:
            failure = f"tokenizer: {error}"
    failure = distributed.broadcast_object(failure)
    if failure is not None:
        raise ConfigError(failure)
    return load_tokenizer(folder, dotted_modules(spec.kind))


def write_checkpoint(
    components: Components, recipe: Recipe, step: int, samples: int, position: dict[str, Any]
) -> Callable[[Path], None]:
    """Return what `checkpoint.save` has every rank run.

    The collective part comes first: a rank that fails later, alone, keeps no other rank waiting.
    """
    weights, objectives = components.engine.weights("model"), components.engine.weights("objectives")
    counters = {
        "step": step,
        "samples": samples,
        "loader": position,
        "rejected": sorted(components.loader.rejected),
        "world": distributed.world(),
        "engine": components.engine.scalars(),
        "recipe": digest_of(recipe),
        "torch": torch.__version__,
    }

    def write(folder: Path) -> None:
        components.engine.save(folder / "state" / "engine")
        random = random_file(folder, distributed.rank())
        random.parent.mkdir(parents=True, exist_ok=True)
        save_file(random_states(), random)
        if distributed.is_main():
            hub.save_pretrained(
                folder,
                cast(DualEncoder, components.engine.module.model),
                components.preprocess,
                components.tokenizer,
                {"step": step, "trained_on": components.loader.stream.trained_on()},
                weights=weights,
                objectives=objectives,
            )
            (folder / "recipe.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
            checkpoint.write_counters(folder, counters)

    return write


def load_checkpoint(components: Components, recipe: Recipe, folder: Path) -> tuple[int, int, Callable[[], None]]:
    """Put a checkpoint's state into the components; return step, samples, and what sets the random generators. Collective.

    At the same number of processes everything goes on exactly; at another the data and the optimiser do, while dropout
    draws anew. Raises ConfigError for a folder that is not such a checkpoint.
    """
    counters = checkpoint.read_counters(folder)
    components.engine.load(folder / "state" / "engine")
    components.engine.set_scalars(counters["engine"])
    components.loader.load_state(counters["loader"])
    components.loader.rejected = dict.fromkeys(counters.get("rejected", ()), "rejected before the checkpoint")
    if counters["world"] == distributed.world():
        restore = partial(set_random_states, load_file(random_file(folder, distributed.rank())))
    else:
        restore = partial(seed_all, (recipe.seed * 1_000_003 + counters["step"]) * 1_000_003 + distributed.rank())
    return counters["step"], counters["samples"], restore
