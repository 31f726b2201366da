"""A trained model as a folder, and back: weights, configuration, preprocessing and tokenizer together, offline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .core.config import ConfigError
from .core.errors import first_line
from .core.untrusted import open_regular, read_object
from .core.version import __version__
from .modalities.base import ImageLike, Processor, processors
from .modalities.geometry import resample_grid
from .modalities.kinds import load_processor
from .modalities.text.processor import TextProcessor
from .modalities.text.tokenizers.base import Tokenizer
from .modalities.volume.volume import Volume

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from .models.dual_encoder import DualEncoder

WEIGHTS, CONFIG = "model.safetensors", "config.json"
OBJECTIVES = "objectives.safetensors"
FORMAT = "vlp-1"


def save_pretrained(
    folder: Path | str,
    model: DualEncoder,
    preprocess: ImageLike[Any],
    tokenizer: Tokenizer,
    extra: Mapping[str, Any] | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
    objectives: Mapping[str, torch.Tensor] | None = None,
    others: Mapping[str, Processor[Any, Any]] | None = None,
) -> None:
    """Write a model to a folder: `model.safetensors`, `config.json`, `preprocess.json`, `tokenizer/`.

    `extra` is kept in the configuration (`Pretrained.config["extra"]`). `weights`: the whole state dict, for engines that
    hold the parameters in pieces; by default the model's own. `objectives`: what the objectives learnt for themselves
    (prototypes, decoders), which goes to `objectives.safetensors` where there is any. `others`: the processors of further
    modalities, by name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict() if weights is None else weights
    expected, found = set(model.state_dict()), set(state)
    if expected != found:
        name = min(expected ^ found)
        raise ValueError(
            f"the weights to save are not the model's: {name!r} is {'extra' if name in found else 'missing'}"
        )
    weights_sha256 = _write_tensors(state, folder / WEIGHTS)
    objectives_sha256 = _write_tensors(objectives, folder / OBJECTIVES) if objectives else None
    others = others or {}
    every: list[Processor[Any, Any]] = [preprocess, TextProcessor(tokenizer), *others.values()]
    for processor in every:
        processor.save(folder)
    record = {
        "format": FORMAT,
        "vlp_version": __version__,
        **model.resolved_config(),
        "preprocess_fingerprint": preprocess.fingerprint,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "processor_fingerprints": {name: processor.fingerprint for name, processor in others.items()},
        "weights_sha256": weights_sha256,
        "objectives_sha256": objectives_sha256,
        "libraries": _versions(),
        "extra": dict(extra or {}),
    }
    (folder / CONFIG).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> str:
    """Write a safetensors file; returns its SHA-256."""
    from safetensors.torch import save_file

    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(plain, str(path), metadata={"format": "pt"})
    return _sha256(path)


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_tensors(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    """Read what `_write_tensors` wrote; raises ConfigError when it is missing, torn or another file."""
    from .models.weights.files import read_weights

    tensors = read_weights(path)
    if _sha256(path) != sha256:
        raise ConfigError(f"{path} is damaged or another model's: its hash is not the one in {CONFIG}")
    return tensors


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "timm", "open_clip_torch")}


@dataclass
class Pretrained:
    """A trained model with what must travel with it: `.model`, `.preprocess`, `.tokenizer`, `.config`.

    `.objectives`: what the objectives learnt for themselves, by their names in `ObjectiveSum.state_dict()`, on the CPU.
    `.trust`: what `from_pretrained` was told to trust. `.others`: the processors of further modalities.
    """

    model: DualEncoder
    preprocess: ImageLike[Any]
    tokenizer: Tokenizer
    config: dict[str, Any]
    objectives: dict[str, torch.Tensor] = field(default_factory=dict)
    trust: tuple[str, ...] = ()
    others: dict[str, Processor[Any, Any]] = field(default_factory=dict)

    @property
    def processors(self) -> dict[str, Processor[Any, Any]]:
        """The processors by modality."""
        return {"image": self.preprocess, "text": TextProcessor(self.tokenizer), **self.others}

    @property
    def device(self) -> torch.device:
        return self.model.mean.device

    def to(self, device: torch.device | str) -> Pretrained:
        """Move the model; returns itself."""
        self.model.to(device)
        return self

    def embed_images(
        self, images: Sequence[str | Path | bytes | np.ndarray | Image | Volume], batch_size: int = 32, **options: Any
    ) -> torch.Tensor:
        """Embed images (paths, encoded bytes, uint8 arrays [H, W] or [H, W, 3], or PIL images) -> [N, D], unit length.

        DICOM is read as any other file, by `window`: "file", "range" or "center,width" (see `DicomOptions`). A model of
        volumes takes paths of files or of a DICOM series' folder, a shard's bytes, or a `Volume`; its `options` are those of
        `read_volume`. Raises ImageError.
        """

        def encode(part: Sequence[Any]) -> torch.Tensor:
            natives = [self.preprocess.native(image, **options) for image in part]
            return self.model.encode_image(self.preprocess.batch(natives).to(self.device))

        return self._embed(images, batch_size, encode)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 64) -> torch.Tensor:
        """Embed texts -> [N, D], unit length."""

        def encode(part: Sequence[str]) -> torch.Tensor:
            return self.model.encode_text(self.tokenizer(list(part)).tokens.to(self.device))

        return self._embed(texts, batch_size, encode)

    def _embed(
        self, items: Sequence[Any], batch_size: int, encode: Callable[[Sequence[Any]], torch.Tensor]
    ) -> torch.Tensor:
        import torch

        with torch.no_grad():
            rows = [encode(items[start : start + batch_size]) for start in range(0, len(items), batch_size)]
            found = torch.cat(rows) if rows else torch.zeros(0, self.model.dim, device=self.device)
            return torch.nn.functional.normalize(found.float(), dim=1)

    def heatmap(
        self, image: str | Path | bytes | np.ndarray | Image | Volume, phrase: str, **options: Any
    ) -> np.ndarray:
        """Return how much each pixel of the image speaks of the phrase: cosines, float32 [H, W] on the image's own pixels.

        Of a volume each voxel, in the order of its file's axes. NaN where the model's input does not show the image (the ends
        that `resize: crop` cuts off, what lies beyond a volume's box). `image` and `options` as for `embed_images`; an image
        that its file has turned is seen upright.
        """
        import torch

        native = self.preprocess.native(image, **options)
        input_, geometry = self.preprocess.eval(native)
        batch = input_[None].to(self.device)
        with torch.no_grad():
            _, patches = self.model.encode_image(batch, patches=True)
            unit = torch.nn.functional.normalize(patches[0].float(), dim=1)
            cosines = (unit @ self.embed_texts([phrase])[0]).cpu().numpy()
        grid = self.model.grid_of(batch)
        spread = resample_grid(cosines.reshape(grid.shape), grid, batch.shape[2:])
        found = geometry.map_to_source(spread.reshape(geometry.input))  # a picture beside volumes is one slice of it
        return native.axes.to_file(found) if isinstance(native, Volume) and found.ndim == 3 else found


def from_pretrained(source: Path | str, trust: Collection[str] = ()) -> Pretrained:
    """Load a model that `save_pretrained` wrote: an export, a checkpoint folder, or a run's `last`; in eval mode, on the CPU.

    A name that is no folder here is looked up on the Hugging Face Hub (its local cache when offline). `trust`: modules whose
    towers and tokenizer the folder may name (`module:Class`), and libraries (`timm`, `transformers`, `open_clip`) whose
    options it may set freely; nothing else that is in the folder is run. Raises ConfigError naming the file when the folder
    is torn, incomplete, of another format, or names what is not trusted.
    """
    from .models.lora import add_lora_to_towers

    folder = locate(source)
    model, found, tree = rebuild(folder, trust)
    add_lora_to_towers(model)
    tensors = _read_tensors(folder / WEIGHTS, tree["weights_sha256"])
    sha256 = tree.get("objectives_sha256")  # models from before 2026-11-22 have none
    objectives = _read_tensors(folder / OBJECTIVES, sha256) if sha256 else {}
    own = model.state_dict()
    for name in sorted(set(own) | set(tensors)):
        if name not in tensors or name not in own or tensors[name].shape != own[name].shape:
            raise ConfigError(
                f"{folder / WEIGHTS} does not hold this model's weights: {name!r} is missing, unknown or of another shape "
                f"(saved with {tree.get('libraries')})"
            )
    model.load_state_dict(tensors)
    preprocess, text = cast(ImageLike[Any], found.pop("image")), cast(TextProcessor, found.pop("text"))
    return Pretrained(model.eval(), preprocess, text.tokenizer, tree, objectives, tuple(trust), found)


def rebuild(
    folder: Path, trust: Collection[str] = ()
) -> tuple[DualEncoder, dict[str, Processor[Any, Any]], dict[str, Any]]:
    """Return the model of a folder with random weights, its processors by modality, and its configuration.

    Needs nothing but the folder. Raises ConfigError as `from_pretrained` does.
    """
    from .models.build import build_untrained
    from .models.record import read_record

    path = folder / CONFIG
    tree = _read_config(path)
    record = read_record(tree, trust, str(path))
    kinds = {name: processors.get(name) for name in record.model.encoders}
    others = {name: kind.load(folder) for name, kind in kinds.items()}
    preprocess, text = load_processor(folder), TextProcessor.load(folder, trust)
    found: dict[str, Processor[Any, Any]] = {"image": preprocess, "text": text, **others}
    told = {
        "image": record.preprocess_fingerprint,
        "text": record.tokenizer_fingerprint,
        **record.processor_fingerprints,
    }
    for modality, processor in found.items():
        if told.get(modality) != processor.fingerprint:
            name = {"image": "preprocess", "text": "tokenizer"}.get(modality, f"{modality} processor")
            raise ConfigError(
                f"the {name} in {folder} is not the one that the model was saved with: the fingerprint differs"
            )
    try:
        model = build_untrained(record.model, preprocess.spec, text.tokenizer, record.needs, record.scale_init, others)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except Exception as error:  # whatever the libraries say of an architecture that cannot be
        raise ConfigError(
            f"{path}: model: no such architecture can be built ({type(error).__name__}: {first_line(error)})"
        ) from error
    return model, found, tree


def locate(source: Path | str) -> Path:
    """Return the folder of a model: an export, a checkpoint, a run's newest checkpoint, or a Hub name's local copy."""
    folder = Path(source)
    if folder.is_dir():
        if not (folder / CONFIG).is_file() and (folder / "last").is_dir():
            return folder / "last"
        return folder
    name = str(source)
    if name.count("/") != 1 or name.startswith((".", "/")) or (folder.parent.is_dir() and folder.parent != Path(".")):
        raise ConfigError(f"no such folder: {folder}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name))
    except Exception as error:
        raise ConfigError(
            f"{name!r} is no folder here, and the Hub has no such model ({type(error).__name__})"
        ) from None


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ConfigError(f"no model in {path.parent}: {path.name} is missing")
    tree = read_object(path)
    if tree.get("format") != FORMAT:
        raise ConfigError(f"{path} is not a model of vlp's (format {FORMAT!r}); load it with the library that wrote it")
    return tree
