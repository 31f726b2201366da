"""What is in a step: tokens, a batch, a feature grid, what the model returns, losses. No behaviour but moving.

Shapes use: B samples of the batch, C channels, H and W pixels, L sub-word tokens, P patches, N words, D joint width,
T concept mentions of the batch, S phrases of the batch, F findings with prompt pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")


@dataclass(slots=True)
class Tokens:
    """Tokenised texts, padded to the longest of them.

    `ids` [B, L] int64; `mask` [B, L] bool, True on real tokens (special ones included); `words` [B, L] int64, the word
    that a token is a piece of, -1 on special tokens and padding.
    `most_words`: the words of the longest text, counted before the batch goes to its device, so that no shape has to be
    waited for; None where they were not counted.
    """

    ids: Tensor
    mask: Tensor
    words: Tensor
    most_words: int | None = None

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def take(self, rows: slice | Tensor, width: int | None = None) -> Tokens:
        """Return some of the texts, without the columns from `width` on."""
        return _each(self, lambda tensor: tensor[rows, :width].contiguous())

    def trimmed(self, rows: slice | Tensor) -> Tokens:
        """Return some of the texts, as wide as the longest of them."""
        lengths = self.mask[rows].sum(1)
        part = self.take(rows, int(lengths.max()) if lengths.numel() else 0)
        part.most_words = part.count_words()
        return part

    def widened(self, width: int, pad_id: int) -> Tokens:
        """Return the texts padded on the right to `width` tokens, as they are where they are that wide."""
        from torch.nn.functional import pad

        extra = max(0, width - self.ids.shape[1])
        return replace(
            self,
            ids=pad(self.ids, (0, extra), value=pad_id),
            mask=pad(self.mask, (0, extra), value=False),
            words=pad(self.words, (0, extra), value=-1),
        )

    def to(self, device: torch.device | str) -> Tokens:
        """Return the texts on `device`."""
        return _each(self, lambda tensor: tensor.to(device))

    def count_words(self) -> int:
        """Return how many words the longest text has, at least 1; waits for the device."""
        return max(int(self.words.max()) + 1, 1) if self.words.numel() else 1


@dataclass(slots=True, kw_only=True)
class Ragged:
    """Entries of which a batch's rows have different numbers: `owner` [T] int64 is the row that each belongs to.

    A subclass holds a tensor, or tokens, with an entry each beside it.
    """

    owner: Tensor

    def entries(self, rows: slice | Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return which entries belong to some of a batch's `count` rows, and their owners among these rows."""
        place = self.owner.new_full((count,), -1)
        chosen = self.owner.new_tensor(range(count))[rows]
        place[chosen] = chosen.new_tensor(range(len(chosen)))
        own = (place[self.owner] >= 0).nonzero().squeeze(1)
        return own, place[self.owner[own]]

    def take(self, rows: slice | Tensor, count: int) -> Self:
        """Return the entries of some of a batch's `count` rows."""
        own, owner = self.entries(rows, count)
        return replace(_each(self, lambda tensor: tensor[own]), owner=owner)

    def joined_order(self, rows: int) -> Tensor:
        """Return the order that brings the entries of consecutive chunks of `rows` rows back to this one's."""
        return (self.owner // rows).argsort(stable=True).argsort()


@dataclass(slots=True, kw_only=True)
class Spans(Ragged):
    """Concept mentions of a batch's texts, as tokens `[start, end)` of `Batch.text` (special tokens counted).

    All int64 [T]: `start`, `end`, `owner` (row of the batch), `code` (a stable hash of what is said to be where: equal
    codes are the same concept), `assertion` (1 present, 0 absent, -1 uncertain). T may be 0. Mentions beyond the
    tokeniser's limit are dropped, not clamped, and counted in `dropped`.
    """

    start: Tensor
    end: Tensor
    code: Tensor
    assertion: Tensor
    dropped: int = 0


@dataclass(slots=True, kw_only=True)
class Phrases(Ragged):
    """Sentences of the batch's reports that assert a finding, tokenised on their own, for patch-level alignment.

    `tokens` of S phrases; `owner` [S] int64, row of the batch; `code` [S] int64, a stable hash of (finding, side, zone):
    an image whose own report holds the same code is a true match, not a negative. S may be 0.
    """

    tokens: Tokens
    code: Tensor


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """The prompt pairs that an objective asks the loader for: F finding codes, F affirming texts, F denying texts."""

    findings: tuple[str, ...]
    affirm: tuple[str, ...]
    deny: tuple[str, ...]


@dataclass(slots=True)
class Prompts:
    """Prompt pairs, and what each report asserts of their findings.

    `tokens` of the distinct texts among them; `rows` [2F] int64, which of these each prompt is: first the F that affirm a
    finding, then the F that deny it; `findings` their F names; `asserted` [B, F] int8: 1 present, 0 absent, -1 uncertain,
    -2 not mentioned.
    """

    tokens: Tokens
    rows: Tensor
    findings: list[str]
    asserted: Tensor


class Entry(Generic[T]):
    """A short name for one entry of a class's dictionaries: `batch.image` is `batch.inputs["image"]`; None where it is not."""

    def __init__(self, *path: str) -> None:
        self.path = path

    def __get__(self, holder: Any, owner: Any = None) -> T:
        value: Any = self if holder is None else holder
        for step in self.path if holder is not None else ():
            value = value.get(step) if isinstance(value, dict) else getattr(value, step, None)
        return cast(T, value)

    def __set__(self, holder: Any, value: T) -> None:
        place, name, *inner = self.path
        entries: dict[str, Any] = getattr(holder, place)
        if inner and (value is not None or name in entries):
            setattr(entries.setdefault(name, Local()), inner[0], value)
        elif not inner and value is not None:
            entries[name] = value
        elif not inner:
            entries.pop(name, None)


class Named:
    """A dataclass whose dictionaries hold what there is of each modality, and may be given and read by short names too.

    `dataclasses.replace` takes both; the dictionaries of a copy are its own.
    """

    __slots__ = ()

    def __init__(self, image: Any = MISSING, text: Any = MISSING, **values: Any) -> None:
        values.update({name: value for name, value in (("image", image), ("text", text)) if value is not MISSING})
        for item in fields(self):  # type: ignore[arg-type]
            if item.name in values:
                setattr(self, item.name, _copied(values.pop(item.name)))
            elif item.default is not MISSING:
                setattr(self, item.name, item.default)
            elif item.default_factory is not MISSING:
                setattr(self, item.name, item.default_factory())
            else:
                raise TypeError(f"{type(self).__name__} needs {item.name}")
        for name, value in values.items():
            _entry(type(self), name).__set__(self, value)

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors, those in its dictionaries by their short names or as `pooled.signal`, `local.signal.mask`.

        `dataclasses.replace` takes these names.
        """
        short = {entry.path: name for name, entry in vars(type(self)).items() if isinstance(entry, Entry)}
        found = dict(_tensors_of({item.name: getattr(self, item.name) for item in fields(self)}))  # type: ignore[arg-type]
        return {short.get(path, ".".join(path)): value for path, value in found.items()}


def _entry(kind: type, name: str) -> Entry[Any]:
    entry = vars(kind).get(name) or Entry(*name.split("."))
    if not isinstance(entry, Entry) or len(entry.path) < 2:
        raise TypeError(f"{kind.__name__} has no {name!r}")
    return entry


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(inner) for name, inner in value.items()}
    return replace(value) if isinstance(value, Local) else value


def _tensors_of(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(value, Local):
        value = {item.name: getattr(value, item.name) for item in fields(value)}
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _tensors_of(inner, (*path, name))
    elif hasattr(value, "is_floating_point"):
        yield path, value


@dataclass(slots=True, init=False)
class Batch(Named):
    """What the loader yields and what `DualEncoder` and the objectives read.

    `inputs` by modality: `image` [B, C, H, W] uint8 (the model normalises it) or float (already normalised), `text` as
    `Tokens`, others as their processor's `collate` returns them; `batch.image` and `batch.text` are short for the first two.
    `group` [B, 2] int64: a hash of the study and one of the normalised report, rows that agree in any column are not
    negatives of each other; `labels` [B, K] int8 in the order of `label_names` (1 present, 0 absent, -1 uncertain, -2
    unknown). `text_view` is another random part of the same reports. `extras` holds further tensors that an objective needs,
    by name: `text_labels` [B, K] int8, what the text that is shown says of each label; `category` [B] int64, one of a
    sample's present labels, drawn (counted from 1, K + 1 where all are absent, 0 where that is not known); or an objective's
    own. `has_text` [B] says which rows have a text, the others hold an empty one that no loss sees; None where every sample
    of the set has one, which is the same on all ranks. The last four are for messages and counts.
    """

    group: Tensor
    keys: list[str]
    inputs: dict[str, Any] = field(default_factory=dict)
    labels: Tensor | None = None
    label_names: tuple[str, ...] = ()
    spans: Spans | None = None
    phrases: Phrases | None = None
    prompts: Prompts | None = None
    text_view: Tokens | None = None
    extras: dict[str, Any] = field(default_factory=dict)
    has_text: list[bool] | None = None
    sources: list[str] = field(default_factory=list)
    cursor: int = 0
    truncated: int = 0
    rejected: int = 0

    image = Entry["Tensor"]("inputs", "image")
    text = Entry[Tokens]("inputs", "text")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def texts(self) -> int:
        """How many rows have a text."""
        return len(self) if self.has_text is None else sum(self.has_text)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """Return the batch with every tensor on `device`."""
        return _each(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch with every tensor in page-locked memory, from which copies to a GPU overlap with its work."""
        return _each(self, lambda tensor: tensor.pin_memory())


def _each(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """Return a value with every tensor in it changed, however deep in dataclasses and dictionaries."""
    changed: Any = value
    if is_dataclass(value) and not isinstance(value, type):
        changed = replace(value, **{item.name: _each(getattr(value, item.name), change) for item in fields(value)})
    elif isinstance(value, dict):
        changed = {name: _each(inner, change) for name, inner in value.items()}
    elif hasattr(value, "is_floating_point"):
        changed = change(changed)
    return cast(T, changed)


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the cells of a feature map sit on the model's input, in any number of dimensions: (y, x), (z, y, x), ...

    The centre of cell (row, column) is at `offset + stride * (row, column)`, in pixels, where pixel i covers [i, i + 1):
    a patch-16 ViT has stride 16 and offset 8, an odd-kernel stride-2 convolution stride 2 and offset 0.5.
    """

    shape: tuple[int, ...]
    stride: tuple[float, ...]
    offset: tuple[float, ...]

    @property
    def cells(self) -> int:
        """How many cells there are."""
        return math.prod(self.shape)


@dataclass
class Local:
    """What a tower says of the parts of a sample: `features` [B, N, D] of patches, cells or words.

    `mask` [B, N] bool: which are there, None where all are; `attention` [B, N] from the pooling token, None for towers
    without one; `grid`: where patches lie on the input.
    """

    features: Tensor | None = None
    mask: Tensor | None = None
    attention: Tensor | None = None
    grid: Grid | None = None


# Without slots: DeepSpeed's ZeRO-3 hooks look for tensors in the __dict__ of what a module returns.
@dataclass(init=False)
class ModelOutput(Named):
    """What `DualEncoder.forward` returns: **unnormalised** embeddings; objectives normalise. None = no objective needs it.

    `pooled` [B, D] and `local` by modality. Short names: `image`, `text` [B, D] are the pooled ones; `patches` [B, P, D] (P
    = cells of `grid`) with `patch_attention` [B, P] and `grid` are the image's local features; `words` [B, N, D] (word
    pieces summed) with `word_mask` [B, N] and `word_attention` [B, N] the text's. `tokens` [B, L, D] projected token states.
    `phrases` [S, D] and `prompts` [2F, D]: text embeddings of `Batch.phrases` and `Batch.prompts`. `logit_scale` (1,),
    already exponentiated; `logit_bias` (1,). `text_view` [B, D]: embeddings of a second, augmented view of the texts.
    `masked_patches` [B, P, D]: the image tower's patches of the image with the cells in `patch_mask` [B, P] bool blanked out.
    `extras`: what needs of your own compute, by their keys.
    """

    pooled: dict[str, Tensor] = field(default_factory=dict)
    local: dict[str, Local] = field(default_factory=dict)
    tokens: Tensor | None = None
    phrases: Tensor | None = None
    prompts: Tensor | None = None
    logit_scale: Tensor | None = None
    logit_bias: Tensor | None = None
    text_view: Tensor | None = None
    masked_patches: Tensor | None = None
    patch_mask: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    image = Entry["Tensor"]("pooled", "image")
    text = Entry["Tensor"]("pooled", "text")
    patches = Entry["Tensor | None"]("local", "image", "features")
    patch_attention = Entry["Tensor | None"]("local", "image", "attention")
    grid = Entry["Grid | None"]("local", "image", "grid")
    words = Entry["Tensor | None"]("local", "text", "features")
    word_mask = Entry["Tensor | None"]("local", "text", "mask")
    word_attention = Entry["Tensor | None"]("local", "text", "attention")


@dataclass  # without slots: DeepSpeed's ZeRO-3 hooks look for tensors in the __dict__ of what a module returns
class Losses:
    """A loss and the named parts it is made of, all scalars; `total` is what is differentiated.

    With several processes each rank returns its own share, such that the mean over ranks is the loss of the whole batch.
    """

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
