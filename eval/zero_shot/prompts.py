"""Prompt sets: versioned YAML files of affirming and denying texts per class, stored verbatim with every score.

A file gives texts per class, or templates and names from which the texts are made; a typo is an error, not a lower score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vlp.core.config import ConfigError, config, digest, load
from vlp.core.registry import did_you_mean

FOLDER = Path(__file__).parents[1] / "prompts"
MAX_PROMPTS = 100_000


Span = tuple[int, int]
T = TypeVar("T")


@config
class Texts:
    """The prompts of a class: `pos` affirm it; `neg` deny it (needed by the pair rules)."""

    pos: tuple[str, ...] = ()
    neg: tuple[str, ...] = ()


@config
class PromptFile:
    """What a prompt file holds: `templates` with {} for each of the `names` of each class, and `classes` verbatim.

    A class that the templates would garble ("there is no no finding") is given verbatim beside the others.
    """

    version: str
    about: str
    templates: Texts = Texts()
    names: dict[str, tuple[str, ...]] | None = None
    classes: dict[str, Texts] | None = None


@dataclass(frozen=True)
class PromptSet:
    """The prompts of a task: class -> texts, with the name, version and hash that stand in the results.

    `spans`: the characters `[start, end)` of each affirming text that name its class.
    """

    name: str
    version: str
    texts: dict[str, Texts]
    spans: dict[str, tuple[Span, ...]]

    @property
    def sha256(self) -> str:
        return digest(self.texts)

    def all(self) -> list[str]:
        return [text for pair in self.texts.values() for text in (*pair.pos, *pair.neg)]

    def named(self) -> dict[str, list[str]]:
        """Return the words of each affirming text that name its class."""
        return {
            label: [text[start:end] for text, (start, end) in zip(prompts.pos, self.spans[label], strict=True)]
            for label, prompts in self.texts.items()
        }

    def to_tree(self) -> dict[str, object]:
        """Return the set as it stands in the results: every text verbatim."""
        text = {name: {"pos": list(prompts.pos), "neg": list(prompts.neg)} for name, prompts in self.texts.items()}
        return {"set": self.name, "version": self.version, "sha256": self.sha256, "text": text}


def read(name: str, classes: Sequence[str], base: Path | None = None, pairs: bool = False) -> PromptSet:
    """Read the prompts of `classes` from a shipped set (by name) or a file (relative to `base`). Raises ConfigError.

    With `pairs`, each class must have as many denying texts as affirming ones.
    """
    path = _find(name, base)
    content = load_file(PromptFile, path)
    if not content.classes and not content.names:
        raise ConfigError(f"{path}: expected `classes`, or `templates` with `names`")
    if twice := sorted(set(content.classes or {}) & set(content.names or {})):
        raise ConfigError(f"{path}: class {twice[0]!r} stands under `classes` and under `names`")
    known = dict(content.classes or {})
    spans = {label: tuple(span_of(label, text) for text in prompts.pos) for label, prompts in known.items()}
    for label, words in (content.names or {}).items():
        if len(words) * (len(content.templates.pos) + len(content.templates.neg)) > MAX_PROMPTS:
            raise ConfigError(f"{path}: class {label!r} has more than {MAX_PROMPTS} prompts, its templates written out")
        for template in (*content.templates.pos, *content.templates.neg):
            if "{}" not in template or set("{}") & set(template.replace("{}", "", 1)):
                raise ConfigError(f"{path}: template {template!r} must hold {{}} once, and no other brace")
        known[label] = Texts(
            pos=tuple(template.format(word) for word in words for template in content.templates.pos),
            neg=tuple(template.format(word) for word in words for template in content.templates.neg),
        )
        starts = [template.index("{}") for template in content.templates.pos]
        spans[label] = tuple((start, start + len(word)) for word in words for start in starts)
    for label in classes:
        if label not in known:
            raise ConfigError(f"{path} has no prompts for class {label!r}{did_you_mean(label, known)}")
        if not known[label].pos:
            raise ConfigError(f"{path}: class {label!r} has no affirming prompt")
        if not all(text.strip() for text in (*known[label].pos, *known[label].neg)):
            raise ConfigError(f"{path}: class {label!r} has an empty prompt")
        if pairs and len(known[label].neg) != len(known[label].pos):
            counts = f"{len(known[label].pos)} affirming and {len(known[label].neg)} denying"
            raise ConfigError(f"{path}: class {label!r} has {counts} prompts; a pair rule needs as many of each")
    named = {label: spans[label] for label in classes}
    return PromptSet(path.stem, content.version, {label: known[label] for label in classes}, named)


def load_file(kind: type[T], path: Path) -> T:
    """Read a YAML file of `kind`; raises ConfigError naming the file."""
    try:
        return load(kind, path)
    except ConfigError as error:
        raise ConfigError(f"{error}" if str(path) in str(error) else f"{path}: {error}") from None


def span_of(label: str, text: str) -> Span:
    """Return where a text that no template made names its class: the label's first occurrence, else the whole text."""
    start = text.lower().find(label.lower())
    return (start, start + len(label)) if start >= 0 else (0, len(text))


def _find(name: str, base: Path | None) -> Path:
    for path in ((base / name) if base else Path(name), FOLDER / f"{name}.yaml"):
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return path
    if Path(name).suffix:
        raise ConfigError(f"no prompt file {(base / name) if base else name}")
    shipped = [file.stem for file in FOLDER.glob("*.yaml")]
    raise ConfigError(f"no prompt set {name!r}{did_you_mean(name, shipped)}")
