"""The `data` section of a recipe."""

from __future__ import annotations

from typing import Literal

from vlp.core.config import config
from vlp.modalities.image.processor import Augment, Decode

VALIDATION_SPLITS = ("val", "valid", "validation", "dev")


@config
class TextView:
    """Which part of a report is shown beside the image.

    `field`: the whole report, one of its sections, or a caption (a random one in training, the first otherwise); where
    a sample lacks that field the report is shown, then a caption. In training, `sentence` shows one random sentence,
    and `subset` is the share of texts that are replaced by a random non-empty subset of their sentences, in order.
    """

    field: Literal["report", "findings", "impression", "captions"] = "report"
    subset: float = 0.0
    sentence: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.subset <= 1:
            raise ValueError(f"subset is a share of the texts, expected 0 to 1, found {self.subset}")


@config
class SourceConfig:
    """A set of shards: folder, manifest file or URL; its share of the stream relative to other sources; its split."""

    path: str
    weight: float = 1.0
    split: str | None = "train"


@config
class DataConfig:
    """What is read and how.

    `train` is a path (a folder, manifest or URL of indexed shards, or webdataset's `pipe:...{000..123}...`: see
    `vlp.data.pipe_stream` for what that costs) or a list of sources; with several, each has `weight` / sum of weights of all
    samples, however large it is. `val` is a path, read by its validation split (or whole where it is not split); None
    takes the validation split of the training sources, if there is one. `batch_size` counts all ranks. `window` shards
    are shuffled together. `bucket` puts texts of like length into a batch, within the window. More than the share
    `max_rejected` of damaged samples, those of all ranks and from before a resume together, ends the run. `decode: fast`
    decodes training JPEGs at 1/2, 1/4 or 1/8 of their size where the input needs no more: cheaper, and not the same
    pixels. Like `augment` it changes what is trained on, not what the model expects: validation and evaluation decode in
    full, and the preprocessing's fingerprint stays. Remote shards are copied to `cache` (a folder, $VLP_CACHE by default),
    at most `cache_gb` GiB of them.
    """

    train: str | tuple[SourceConfig, ...]
    batch_size: int
    val: str | None = None
    workers: int = 2
    window: int = 16
    bucket: bool = False
    max_rejected: float = 0.01
    text: TextView = TextView()
    labels: tuple[str, ...] = ()
    augment: Augment = Augment()
    decode: Decode = "full"
    cache: str | None = None
    cache_gb: float = 64.0

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("window", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, found {getattr(self, name)}")

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        """The training sources, a bare path included."""
        return (SourceConfig(path=self.train),) if isinstance(self.train, str) else self.train


def is_pipe(path: str) -> bool:
    """Return whether a path is a stream that cannot seek: webdataset's `pipe:` notation."""
    return path.startswith("pipe:")
