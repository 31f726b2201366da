"""What an objective is, how a recipe names it, and how several are added up.

An objective turns a `ModelOutput` and its `Batch` into a loss. It normalises, gathers over ranks and owns what
parameters it needs; it never sees the model, the optimiser or the step. With W processes each rank returns its share,
such that the mean over ranks is the loss of the whole batch, and data parallelism's averaged gradients are its gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Generic, TypeVar, cast, get_args

import torch
from pydantic import Field
from torch import Tensor, nn

from vlp.batch import Batch, Losses, ModelOutput, Prompts, PromptSpec
from vlp.core import distributed
from vlp.core.config import ConfigError, component
from vlp.core.registry import Registry
from vlp.needs import Need, find_needs
from vlp.needs.rows import with_text

C = TypeVar("C")
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Scale = Annotated[float, Field(ge=1, le=100)]
"""A start of a learned scale of logits: within what the optimiser keeps it in."""

SIDES = ("image", "text")
"""What an objective calls the two modalities that it compares."""


class Objective(nn.Module, Generic[C]):
    """A training loss: subclass `Objective[YourConfig]`, give it a `loss`, and register it under the name recipes use.

    `needs` names what must be in the output or the batch (registered in `vlp.needs`, of your own as "pkg.mod:Name", or an
    entry of `Batch.extras` as `extras.<name>`). `batch_coupled` is True when the loss of a batch is not the mean of the
    losses of its parts, so that gradient accumulation must go through cached embeddings. `needs_text` is True when it
    reads texts or what they say: it is given the rows that have one; it is False where images alone will do. `scale_init`
    is the start of the model's (log logit_scale, logit_bias) for objectives that use them. `progress` is the share of the
    training done, 0 to 1; one that looks at it sets `follows_progress`, as its run cannot be made longer. `between`: the two
    modalities that a recipe compares with it; the objective sees the first as `output.image`, the second as `output.text`.
    """

    Config: ClassVar[type[Any]]
    needs: frozenset[str] = frozenset()
    batch_coupled: bool = True
    needs_text: bool = True
    scale_init: tuple[float, float | None] | None = None
    progress: float = 0.0
    follows_progress: bool = False
    between: tuple[str, str] = SIDES
    name: str = ""

    def __init_subclass__(cls, **options: Any) -> None:
        """Take `Config` from the base: `class Clip(Objective[ClipConfig])`."""
        super().__init_subclass__(**options)
        declared = [get_args(base)[0] for base in cls.__dict__.get("__orig_bases__", ()) if get_args(base)]
        if declared:
            cls.Config = declared[0]

    def __init__(self, config: C, dim: int) -> None:
        super().__init__()
        self.config = config
        self.dim = dim
        self.name = self.name or type(self).__name__

    def prompt_spec(self) -> PromptSpec | None:
        """Return the prompt pairs that the loader shall put into `Batch.prompts`, None for none."""
        return None

    def need_settings(self) -> dict[str, Any]:
        """Return what the loader shall know of the objective's needs, by their names; empty for nothing."""
        return {}

    def check_kinds(self, kinds: frozenset[str]) -> None:
        """Raise ConfigError where the objective cannot train on all that the model reads: `image`, `volume` or both."""

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Return the range that each of the objective's own scales is kept in by the optimiser, by parameter name.

        A clamp in the forward would leave a scale that reaches its end without a gradient, for good.
        """
        return {}

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        """Return this rank's share of the loss; called in fp32 (or fp64) with autocast off and all needs present."""
        raise TypeError(f"{type(self).__name__} does not define loss(output, batch)")

    def forward(self, output: ModelOutput, batch: Batch) -> Losses:
        """Check the needs and return `loss`; called by `ObjectiveSum`. Raises ConfigError for a missing need."""
        self.check(output, batch)
        return self.loss(output, batch)

    @cached_property
    def _required(self) -> list[Need]:
        return [need for need in find_needs(self.needs) if not need.is_optional]

    def check(self, output: ModelOutput, batch: Batch) -> None:
        """Raise ConfigError naming the first need that the output or the batch does not hold, and how to get it."""
        for need in self._required:
            if need.find(output, batch) is None:
                raise ConfigError(
                    f"objective {self.name!r} needs {need.name}, but {need.place()} is missing: {need.hint}"
                )


objectives = Registry[type[Objective[Any]]]("objective", package="vlp.objectives")


@dataclasses.dataclass(frozen=True)
class WeightSchedule:
    """A weight that may follow the progress of training: straight lines through `points` of (progress, weight).

    A recipe writes `weight: 0.5`, or `weight: [[0.0, 0.0], [0.3, 1.0]]` for a rise over the first 30 %. Constant before
    the first and after the last point.
    """

    points: tuple[tuple[float, float], ...]

    @classmethod
    def read(cls, value: Any, where: str) -> WeightSchedule:
        """Build from a recipe's value; raises ConfigError when it is neither a number >= 0 nor points of rising progress."""
        try:
            pairs = (
                [(0.0, float(value))] if isinstance(value, (int, float)) else [(float(x), float(y)) for x, y in value]
            )
        except (TypeError, ValueError):
            pairs = []
        steps = [x for x, _ in pairs]
        if not pairs or steps != sorted(set(steps)) or not all(0 <= x <= 1 and y >= 0 for x, y in pairs):
            raise ConfigError(
                f"{where}: expected a number >= 0, or points [[progress, weight], ...] with progress rising in 0..1, "
                f"found {value!r}"
            )
        return cls(tuple(pairs))

    def at(self, progress: float) -> float:
        before = self.points[0]
        for after in self.points:
            if progress < after[0]:
                share = (progress - before[0]) / (after[0] - before[0]) if after != before else 0.0
                return before[1] + share * (after[1] - before[1])
            before = after
        return before[1]


class ObjectiveSum(nn.Module):
    """The weighted sum of a recipe's objectives: what the train step calls.

    Its `parts` are each objective's own, unweighted, under the objective's name: `clip`, `concept/patches`, ...
    """

    def __init__(self, terms: Mapping[str, Objective[Any]], weights: Mapping[str, WeightSchedule]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)
        self._slices = _prompt_slices(terms)

    def _objectives(self) -> dict[str, Objective[Any]]:
        return {name: term for name, term in self.terms.items() if isinstance(term, Objective)}

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(term.needs for term in self._objectives().values()))

    @property
    def needs_text(self) -> bool:
        return any(reads_text(term) for term in self._objectives().values())

    @property
    def batch_coupled(self) -> bool:
        return any(term.batch_coupled for term in self._objectives().values())

    @property
    def follows_progress(self) -> bool:
        """Whether the loss depends on the share of the training done: a weight or an objective does."""
        moving = any(len(weight.points) > 1 for weight in self.weights.values())
        return moving or any(term.follows_progress for term in self._objectives().values())

    @property
    def scale_init(self) -> tuple[float, float | None] | None:
        """The start of (log logit_scale, logit_bias); raises ConfigError when two objectives want different ones."""
        found: dict[str, tuple[float, float | None]] = {
            name: term.scale_init for name, term in self._objectives().items() if term.scale_init is not None
        }
        scales = {round(scale, 9) for scale, _ in found.values()}
        biases = {bias for _, bias in found.values() if bias is not None}
        if len(scales) > 1 or len(biases) > 1:
            wants = ", ".join(f"{name} {start}" for name, start in found.items())
            raise ConfigError(
                f"objectives share one logit_scale and logit_bias but start them differently ({wants}): "
                "set their scale and bias to the same values"
            )
        return (next(iter(found.values()))[0], next(iter(biases), None)) if found else None

    def prompt_spec(self) -> PromptSpec | None:
        """Return the prompt pairs of all objectives that want some, one after the other, None when none does."""
        specs = [term.prompt_spec() for term in self._objectives().values()]
        asked = [spec for spec in specs if spec is not None]
        if not asked:
            return None
        return PromptSpec(
            findings=tuple(finding for spec in asked for finding in spec.findings),
            affirm=tuple(text for spec in asked for text in spec.affirm),
            deny=tuple(text for spec in asked for text in spec.deny),
        )

    def need_settings(self) -> dict[str, Any]:
        """Return what all objectives say of their needs; raises ConfigError where two say different things of one."""
        found: dict[str, Any] = {}
        for name, term in self._objectives().items():
            for need, settings in term.need_settings().items():
                if found.setdefault(need, settings) != settings:
                    raise ConfigError(
                        f"objective {name!r} wants another {need} than one before it: give both the same settings"
                    )
        return found

    def check_kinds(self, kinds: frozenset[str]) -> None:
        """Raise ConfigError for the first objective that cannot train on all that the model reads."""
        for term in self._objectives().values():
            term.check_kinds(kinds)

    def check(self, output: ModelOutput, batch: Batch) -> None:
        """Raise ConfigError for the first objective whose needs are not met."""
        for term in self._objectives().values():
            term.check(seen_by(term, output), batch)

    def forward(self, output: ModelOutput, batch: Batch, progress: float = 0.0) -> Losses:
        """Return the weighted total and the named parts; `progress` in 0..1 moves scheduled weights.

        Here, and nowhere else, are autocast and half precision left, and rows without a text kept from every objective
        that needs one.
        """
        with torch.autocast(output.image.device.type, enabled=False):
            output = in_full_precision(output)
            read = with_text(output, batch, self.needs)
            total = output.image.new_zeros(())
            parts: dict[str, Tensor] = {}
            for name, term in self._objectives().items():
                term.progress = progress
                own_output, own_batch = self._own_prompts(name, *(read if reads_text(term) else (output, batch)))
                losses: Losses = term(seen_by(term, own_output), own_batch)
                # One of weight 0 stays in the graph: a parameter without a gradient would stop data parallelism.
                total = total + self.weights[name].at(progress) * losses.total
                parts[name] = losses.total.detach()
                parts.update({f"{name}/{part}": value.detach() for part, value in losses.parts.items()})
        return Losses(total=total, parts=parts)

    def _own_prompts(self, name: str, output: ModelOutput, batch: Batch) -> tuple[ModelOutput, Batch]:
        own = self._slices.get(name)
        if own is None or len(self._slices) == 1 or batch.prompts is None or output.prompts is None:
            return output, batch
        pairs = len(batch.prompts.findings)
        affirm, deny = output.prompts[:pairs], output.prompts[pairs:]
        prompts = dataclasses.replace(
            batch.prompts, findings=batch.prompts.findings[own], asserted=batch.prompts.asserted[:, own]
        )
        return (
            dataclasses.replace(output, prompts=torch.cat([affirm[own], deny[own]])),
            dataclasses.replace(batch, prompts=prompts),
        )


def reads_text(term: Objective[Any]) -> bool:
    return term.needs_text and "text" in term.between


def seen_by(term: Objective[Any], output: ModelOutput) -> ModelOutput:
    """Return the output with the two modalities that an objective compares as its image and its text.

    Raises ConfigError where the model embeds none of that name.
    """
    if term.between == SIDES:
        return output
    for name in term.between:
        if name not in output.pooled:
            raise ConfigError(
                f"objective {term.name!r}: between: the model has no encoder for {name!r}, only for {', '.join(output.pooled)}"
            )
    sides = list(zip(SIDES, term.between, strict=True))
    return dataclasses.replace(
        output,
        pooled={side: output.pooled[name] for side, name in sides},
        local={side: output.local[name] for side, name in sides if name in output.local},
    )


def in_full_precision(output: ModelOutput) -> ModelOutput:
    """Return `output` with its half-precision tensors in fp32; fp32 and fp64 stay what they are."""
    half = (torch.float16, torch.bfloat16)
    wide: dict[str, Any] = {name: value.float() for name, value in output.tensors().items() if value.dtype in half}
    return dataclasses.replace(output, **wide) if wide else output


def _prompt_slices(terms: Mapping[str, Objective[Any]]) -> dict[str, slice]:
    slices: dict[str, slice] = {}
    start = 0
    for name, term in terms.items():
        spec = term.prompt_spec()
        if spec is not None:
            slices[name] = slice(start, start + len(spec.findings))
            start += len(spec.findings)
    return slices


def _two_modalities(value: Any, where: str) -> tuple[str, str]:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or len({str(name) for name in value}) != 2:
        raise ConfigError(f"{where}: expected two modalities, such as [image, text], found {value!r}")
    return str(value[0]), str(value[1])


def build_objectives(trees: Sequence[Any], dim: int, where: str = "objectives") -> ObjectiveSum:
    """Build the objectives of a recipe: a list of `{kind: name, weight: number or points, ...}` or bare names.

    `between: [image, text]`, the two modalities that one compares, need not be written. `dim` is the joint width D; `where`
    the list's path in the recipe, for messages. The second objective of a kind is called `kind-2` in the parts. Raises
    ConfigError for an unknown kind, key or weight, and for an empty list.
    """
    if isinstance(trees, (str, Mapping)) or not trees:
        raise ConfigError(f"{where}: expected a list of at least one objective (kinds: {', '.join(objectives)})")
    terms: dict[str, Objective[Any]] = {}
    weights: dict[str, WeightSchedule] = {}
    for index, given in enumerate(trees):
        here = f"{where}.{index}"
        tree = {"kind": given} if isinstance(given, str) else given
        ours = ("weight", "between")
        settings = {key: value for key, value in tree.items() if key not in ours} if isinstance(tree, Mapping) else tree
        cls, config = component(objectives, settings, here)
        kind = str(settings["kind"]).rpartition(":")[2]
        same = sum(name == kind or name.startswith(f"{kind}-") for name in terms)
        name = kind if same == 0 else f"{kind}-{same + 1}"
        try:
            term = cls(config, dim)
        except ConfigError as error:
            raise ConfigError(f"{here}: {error}") from None
        term.name, term.between = name, _two_modalities(tree.get("between", SIDES), f"{here}.between")
        terms[name] = term
        weights[name] = WeightSchedule.read(tree.get("weight", 1.0), f"{here}.weight")
    built = ObjectiveSum(terms, weights)
    _ = built.scale_init, built.need_settings()  # objectives at odds over them are an error now, not at the first step
    return built


class _L2Normalize(torch.autograd.Function):
    """Vectors over their lengths; keeps the inputs and one number a vector, and needs one temporary in the backward."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        inverse: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_(min=1e-6).reciprocal_()
        ctx.save_for_backward(vectors, inverse)
        return vectors * inverse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        vectors, inverse = ctx.saved_tensors
        along = torch.linalg.vecdot(grads[0], vectors)[..., None] * inverse.square()
        return torch.addcmul(grads[0], vectors, along, value=-1).mul_(inverse)


def l2_normalize(vectors: Tensor) -> Tensor:
    """Scale vectors [..., D] to length 1; a zero vector stays zero, with a finite gradient."""
    return cast(Tensor, _L2Normalize.apply(vectors))


def paired_prompts(name: str, output: ModelOutput, batch: Batch) -> tuple[Tensor, Prompts]:
    """Return the embeddings [2F, D] of a batch's F pairs of prompts, and these; raises ConfigError where rows are missing."""
    assert batch.prompts is not None  # Objective.check has seen them
    count = 2 * len(batch.prompts.findings)
    if output.prompts is None or output.prompts.shape[0] != count:
        raise ConfigError(
            f"objective {name!r} needs ModelOutput.prompts with {count} rows: build the model with this objective's needs"
        )
    return output.prompts, batch.prompts


def mean_over_ranks(losses: Tensor, counted: Tensor) -> Tensor:
    """Return this rank's share of the mean of `losses` where `counted` (bool), over all ranks; 0 where nothing is."""
    total = distributed.sum_over_ranks(counted.sum().to(losses.dtype)).clamp(min=1)
    return losses.masked_fill(~counted, 0.0).sum() * (distributed.world() / total)


def as_scalar(parameter: Tensor | None) -> Tensor:
    """Return a (1,) parameter of the output as a 0-dim tensor that keeps its gradient."""
    assert parameter is not None  # Objective.check has seen it
    return parameter.reshape(())
