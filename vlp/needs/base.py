"""What a need is: one object that says of one thing that objectives ask for where it is, how it is collated and computed.

An objective names its needs: `needs = frozenset({"words"})`. The collator asks each for `prepare`, `texts` and `collate`,
the model for `compute`, the rows of an output are told apart by `axis`; none of them knows one by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from vlp.batch import Batch, Entry, Grid, ModelOutput, PromptSpec, Tokens
from vlp.core.config import ConfigError
from vlp.core.registry import Registry, UnknownNameError
from vlp.sample import Mention, Sample

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vlp.modalities.geometry import Geometry
    from vlp.modalities.text.tokenizers.base import Encoded

BUILD = "build shards whose samples hold `concepts` (vlp-prep build --concepts vocabulary)"

Part = Literal["patch_head", "patches", "word_head", "token_states", "attention", "logit_scale", "logit_bias"]
"""What a model has only where a need uses it. `patches`: of each image, in its one pass; `token_states`: the word head is
for single tokens, not for words; `attention`: the towers record the pooling token's."""


@dataclass(frozen=True, slots=True)
class SelectedText:
    """A text as shown: its sentences as spans into it, and which stretches of the report, its segments, it is made of.

    `segments`: (start, end) in `Report.text` and where that stretch begins in `text`; none for a caption.
    """

    text: str
    sentences: tuple[tuple[int, int], ...]
    segments: tuple[tuple[int, int, int], ...] = ()

    def to_shown_span(self, start: int, end: int) -> tuple[int, int] | None:
        """Return where characters `[start, end)` of the report are in the text, None where they are not shown."""
        for first, last, begin in self.segments:
            if first <= start and end <= last:
                return start - first + begin, end - first + begin
        return None

    def mentions(self, sample: Sample) -> list[Mention]:
        """Return the mentions of the sample's report that are shown."""
        return [mention for mention in sample.concepts if self.to_shown_span(mention.start, mention.end) is not None]


@dataclass(frozen=True, slots=True)
class DataSetup:
    """What a recipe says that needs are collated by.

    `encode` tokenizes texts; `select_text` chooses the part of a sample's text that is shown, at random where
    `is_random`, with a generator. `settings`: what objectives say of a need, by its name; `grid`: the cells of the model's
    image tower, None where there is none yet.
    """

    labels: tuple[str, ...]
    prompts: PromptSpec | None
    encode: Callable[[Sequence[str]], Tokens]
    select_text: Callable[[Sample, np.random.Generator | None], SelectedText]
    is_random: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    grid: Grid | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """What the collator offers a need: a batch's samples, their texts, these encoded, what `prepare` made of each, and
    the tokens of the need's own `texts`."""

    samples: Sequence[Sample]
    shown: Sequence[SelectedText]
    encoded: Encoded
    prepared: Sequence[Any]
    own: Tokens


@dataclass(frozen=True, slots=True)
class Features:
    """What the model has computed of a batch when it asks the needs: patches [B, P, D] embedded, the text tower's states
    [B, L, C], attention [B, P] and [B, L] of the pooling tokens; None where no need uses it. `has_text` as in `Batch`."""

    patches: Tensor | None
    patch_attention: Tensor | None
    states: Tensor | None
    state_attention: Tensor | None
    has_text: Tensor | None


class Model(Protocol):
    """What the model offers a need."""

    @property
    def grid(self) -> Grid: ...

    def grid_of(self, image: Tensor) -> Grid: ...

    @property
    def mask_share(self) -> float: ...

    @property
    def logit_scale(self) -> Tensor | None: ...

    @property
    def logit_bias(self) -> Tensor | None: ...

    def normalise(self, image: Tensor) -> Tensor: ...

    def embed_patches(self, image: Tensor) -> Tensor: ...

    def embed_texts(self, tokens: Tokens, counted: Tensor | None) -> Tensor: ...

    def project_words(self, states: Tensor, counted: Tensor | None) -> Tensor: ...


class Need:
    """Something that objectives ask for. Subclass it and register it under the name that objectives use.

    `key`: the field of `ModelOutput` (or, `in_batch`, of `Batch`) that holds it, or its name in their `extras`; the need's
    name unless given. `hint`: how a user gets it. `is_optional`: objectives do without it where a tower has none. `uses`:
    parts of the model that are there for it. `axis`: what the rows of its output stand for: the batch's, the entries of a
    ragged value of the batch (its key), or, None, nothing of either. `stream`: the number of the random stream that
    `prepare` draws from, None where it draws nothing. `reads_masks`: `prepare` looks at a sample's masks, which are not read
    otherwise.
    """

    name: str = ""
    key: str = ""
    hint: ClassVar[str] = ""
    in_batch: ClassVar[bool] = False
    is_optional: ClassVar[bool] = False
    uses: ClassVar[frozenset[Part]] = frozenset()
    axis: ClassVar[str | None] = "batch"
    stream: ClassVar[int | None] = None
    reads_masks: bool = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = self.key or name

    def find(self, output: ModelOutput, batch: Batch) -> Any:
        """Return its value, None where it is missing."""
        return value_of(batch if self.in_batch else output, self.key)

    @property
    def field(self) -> str:
        """Its name among the tensors of an output."""
        return self.key if is_field(ModelOutput, self.key) else f"extras.{self.key}"

    def place(self) -> str:
        """Return where it is, for messages."""
        holder = Batch if self.in_batch else ModelOutput
        name = self.key if is_field(holder, self.key) else f"extras[{self.key!r}]"
        return f"{holder.__name__}.{name}"

    def open(self, setup: DataSetup) -> None:
        """Keep what each batch needs of the recipe; raises ConfigError where the recipe does not give it."""

    def holds(self) -> str:
        """Return what samples must hold, and how to get that; empty where they need not hold anything."""
        return ""

    def is_in(self, sample: Sample) -> bool:
        """Return whether a sample has it."""
        return True

    def prepare(self, sample: Sample, rng: np.random.Generator | None, geometry: Geometry) -> Any:
        """Return what it needs of a sample, drawn with `rng` in training; called where the sample is decoded.

        `geometry`: how the source lies on the input, augmentation included.
        """
        return None

    def texts(self, prepared: Sequence[Any]) -> list[str]:
        """Return texts of its own, encoded together with those that are shown."""
        return []

    def collate(self, rows: Rows) -> Any:
        """Return its value in the batch, None where the batch holds nothing of it."""
        return None

    def short_texts(self, batch: Batch) -> Tokens | None:
        """Return texts that the model embeds for it, with those of other needs in one pass."""
        return None

    def compute(self, model: Model, batch: Batch, features: Features, output: ModelOutput) -> None:
        """Put its value into the output."""

    def receive(self, embedded: Tensor, batch: Batch, output: ModelOutput) -> None:
        """Put the embeddings [T, D] of its short texts into the output."""
        put(output, self.key, embedded)


class LoaderNeed(Need):
    """A tensor in `Batch.extras` that a loader of one's own fills."""

    in_batch = True
    hint = "have the loader fill it"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.key = name.removeprefix("extras.")

    def open(self, setup: DataSetup) -> None:
        raise ConfigError(f"an objective needs Batch.{self.name}, which the loader does not fill")


needs: Registry[type[Need]] = Registry("need", package="vlp.needs")


def find_needs(names: Iterable[str]) -> list[Need]:
    """Return the needs called `names`, in the order of their names; raises ConfigError for one that there is not."""
    found = []
    for name in sorted(names):
        try:
            found.append((LoaderNeed if name.startswith("extras.") and name not in needs else needs.get(name))(name))
        except UnknownNameError as error:
            raise ConfigError(str(error)) from None
    return found


def is_field(holder: type[Batch] | type[ModelOutput], key: str) -> bool:
    return key in holder.__dataclass_fields__ or isinstance(vars(holder).get(key), Entry)


def value_of(holder: Batch | ModelOutput, key: str) -> Any:
    """Return a field of a batch or output, or what it holds in `extras` under that name; None where it is missing."""
    return getattr(holder, key) if is_field(type(holder), key) else holder.extras.get(key)


def put(holder: Batch | ModelOutput, key: str, value: Any) -> None:
    """Set a field of a batch or output; what has no field of its own goes into `extras`."""
    if is_field(type(holder), key):
        setattr(holder, key, value)
    elif value is not None:
        holder.extras[key] = value
