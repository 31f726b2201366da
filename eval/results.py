"""The results file: what a metric looks like in it, the schema it is checked against, writing it task by task.

Values are fractions; undefined is null with a reason; nothing that differs between two equal runs stands outside `run`.
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vlp import __version__
from vlp.core.config import ConfigError
from vlp.core.output import write_whole
from vlp.core.untrusted import MAX_TEXT, inside, open_regular, parse_json, read_json, read_object

from .bootstrap import Interval
from .intervals import Part, of_macro
from .models.base import Card

SCHEMA = "vlp-eval/1"
FILE = "results.json"
DIGITS = 10


def metric(
    value: float | None,
    interval: Interval | None = None,
    *,
    chance: float | None = None,
    primary: bool = False,
    higher_is_better: bool = True,
    reason: str | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Return a metric as it stands in the results; raises ValueError for an undefined value without a reason."""
    if value is None and not reason:
        raise ValueError("an undefined metric needs a reason")
    result: dict[str, Any] = {"value": clean(value)}
    if value is None:
        result["reason"] = reason
    elif interval is not None:
        drawn = interval.kept + interval.skipped
        result |= {"ci": clean([interval.low, interval.high]), "ci_method": interval.method, "n_boot": drawn}
        if interval.skipped:
            result["n_boot_undefined"] = interval.skipped
        if interval.unreliable:
            result["unreliable"] = interval.unreliable
    if chance is not None:
        result["chance"] = clean(chance)
    if primary:
        result["primary"] = True
    result["higher_is_better"] = higher_is_better
    return result | {name: clean(item) for name, item in extra.items()}


def macro_metric(parts: Sequence[Part], weights: Sequence[float] | None = None, **facts: Any) -> dict[str, Any]:
    """Return the mean over classes of a score, with its interval, as it stands in the results."""
    value = float(np.mean([part.value for part in parts])) if parts else None
    return metric(value, of_macro(parts, weights), **facts)


def clean(value: Any) -> Any:
    """Return plain JSON values, floats rounded to 10 digits (below that, machines differ); raises ValueError for NaN."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("NaN or infinity in the results: undefined values are None with a reason")
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [clean(item) for item in value]
    return value


def code_version() -> dict[str, Any]:
    """Return the version, and the commit and whether it was changed, where this runs from a checkout."""
    root = Path(__file__).parent.parent

    def git(*words: str) -> str | None:
        try:
            command = ["git", "-C", str(root), *words]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return {"version": __version__, "git": None, "dirty": None}
    dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
    return {"version": __version__, "git": git("rev-parse", "HEAD"), "dirty": dirty}


class Results:
    """The results of one run, growing task by task. Reopened by `--resume`; raises ConfigError for another run's file."""

    def __init__(
        self, out: Path, card: Card, suite: Mapping[str, Any], settings: Mapping[str, Any], resume: bool
    ) -> None:
        import torch

        self.path = out / FILE
        model = {name: value for name, value in asdict(card).items() if name not in ("grid", "device", "trained_on")}
        self.tree: dict[str, Any] = {
            "schema": SCHEMA,
            "run": {
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "seconds": 0.0,
                "host": {"device": card.device, "torch": torch.__version__, "python": platform.python_version()},
            },
            "code": code_version(),
            "model": clean(model),
            "suite": clean(suite),
            "settings": clean(settings),
            "tasks": [],
        }
        if not resume:
            self.path.unlink(missing_ok=True)
        if not self.path.is_file():
            return
        old = read(self.path)
        for part in ("model", "suite", "settings"):
            if old.get(part) != self.tree[part]:
                changed = [key for key in self.tree[part] if old.get(part, {}).get(key) != self.tree[part][key]]
                raise ConfigError(
                    f"{self.path} was made with another {part} ({', '.join(changed)}): --resume goes on with the same run; "
                    "choose another --out"
                )
        self.tree["tasks"] = old["tasks"]

    def finished(self, task: str) -> bool:
        """Return whether a task is there already; a skipped or failed one is tried again."""
        return any(entry["id"] == task and entry["status"] == "ok" for entry in self.tree["tasks"])

    def add(self, task: Mapping[str, Any], order: Sequence[str]) -> None:
        """Enter a task's result in the suite's order and write the file, whole or not at all."""
        kept = [entry for entry in self.tree["tasks"] if entry["id"] != task["id"]]
        self.tree["tasks"] = sorted([*kept, clean(task)], key=lambda entry: order.index(entry["id"]))
        self.write()

    def write(self, seconds: float | None = None) -> None:
        """Check the file against the schema and write it."""
        if seconds is not None:
            self.tree["run"]["seconds"] = round(seconds, 3)
        validate(self.tree)
        write_whole(self.path, json.dumps(self.tree, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def require_same(out: Path, card: Card, suite: Mapping[str, Any], resume: bool) -> None:
    """Raise ConfigError when a run folder holds the results of another suite or model, which would be lost."""
    path = out / FILE
    if resume or not path.is_file():
        return
    parts = []
    try:
        old = read_json(path)
        if old["model"]["fingerprint"] != card.fingerprint:
            parts.append(f"the model {old['model'].get('name')}")
        if any(old["suite"][name] != suite[name] for name in ("name", "sha256")):
            parts.append(f"the suite {old['suite']['name']}, as it was then")
    except (ValueError, KeyError, TypeError):
        return  # damaged: nothing of it can be used
    if parts:
        raise ConfigError(
            f"--out {out} holds the results of {' and '.join(parts)}: choose another folder, or delete {path}"
        )


def validate(tree: Any) -> None:
    """Check a results tree against the schema; raises ConfigError with the path of what is wrong."""
    from jsonschema import Draft202012Validator

    schema = json.loads(Path(__file__).with_name("results.schema.json").read_text(encoding="utf-8"))
    errors = Draft202012Validator(schema).iter_errors(tree)
    if error := min(errors, key=lambda error: list(map(str, error.absolute_path)), default=None):
        where = ".".join(map(str, error.absolute_path)) or "results"
        raise ConfigError(f"the results do not fit the schema: {where}: {error.message[:300]}")


def read(out: Path) -> dict[str, Any]:
    """Read and check the results of a run folder or a results file."""
    tree = read_object(out / FILE if out.is_dir() else out, MAX_TEXT)
    validate(tree)
    return tree


@dataclass(frozen=True)
class TaskResult:
    """A scored task of the run folder `out`: its entry in the results; per-sample rows and figures are read when asked for."""

    out: Path
    entry: Mapping[str, Any]

    @property
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        return self.entry["metrics"]  # type: ignore[no-any-return]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        return read_samples(self.out, self.entry)

    @cached_property
    def figures(self) -> dict[str, Any]:
        """What the page draws; empty for a run without a page."""
        name = self.entry.get("figures")
        path = inside(self.out, name) if name else None
        return read_object(path, MAX_TEXT) if path and path.is_file() else {}


def scored(out: Path, tree: Mapping[str, Any]) -> dict[str, TaskResult]:
    """Return the scored tasks of a run folder by id."""
    return {entry["id"]: TaskResult(out, entry) for entry in tree["tasks"] if entry["status"] == "ok"}


def read_samples(out: Path, task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read a task's per-sample rows."""
    path = inside(out, str(task["samples"]))
    if not path.is_file():
        raise ConfigError(f"no per-sample file {path}")
    with open_regular(path) as file:  # not `splitlines`: texts may hold U+2028 or U+0085
        return [parse_json(line) for line in file]
