"""The run: read data, encode what all tasks together need, score task by task, write each result as it is done."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vlp.core.config import ConfigError, to_tree
from vlp.core.errors import cannot_write
from vlp.core.output import LOCK, write_whole
from vlp.core.untrusted import MAX_FILE, parse_json, read_text

from .data.dataset import Data, UnreadableError, ids_digest
from .data.load import read
from .data.spec import DataError, DataSpec
from .data.training_overlap import Training, doubt_words, overlap_words
from .embeddings.cache import EmbeddingCache
from .failures import reason_of
from .report.terminal import headline, warnings_of
from .results import Results, clean
from .suite import Suite, config_digest
from .tasks.base import Context, Outcome, Plan, Task

OK, DATA, PARTIAL = 0, 2, 3
CURVE = "training.json"
"""The loss curve, beside the results: no task can be called like it."""
MADE_BY = "vlp-eval"


@dataclass(frozen=True)
class Settings:
    """What the user sets of a run beyond model, suite and data."""

    seed: int = 0
    resamples: int = 1000
    limit: int | None = None
    allow_missing: bool = False
    show_text: bool = False
    draw_images: bool = True
    maps: Path | None = None


class Datasets:
    """The data of a run, each split read once."""

    def __init__(self, root: Path, limit: int | None, allow_missing: bool = False) -> None:
        self.root, self.limit, self.allow_missing = root, limit, allow_missing
        self._read: dict[str, Data | DataError] = {}

    def get(self, spec: DataSpec, split: str | None = "") -> Data:
        """Return the records that a spec names; raises DataError, again on each call."""
        key = json.dumps([to_tree(spec), split], sort_keys=True)
        if key not in self._read:
            try:
                self._read[key] = read(spec, self.root, split, self.limit if split == "" else None)
            except DataError as error:
                self._read[key] = error
        found = self._read[key]
        if isinstance(found, DataError):
            raise found
        if found.rejected and not self.allow_missing:
            first = next(iter(found.rejected.values()))
            raise DataError(
                f"{found.name}: {len(found.rejected)} damaged records (--allow-missing leaves them out), the first: {first}"
            )
        return found

    def forget_unreadable(self) -> None:
        """Take every image for readable again, as a task that runs alone, or that is resumed, does."""
        for data in self._read.values():
            if isinstance(data, Data):
                data.unreadable.clear()

    def left_out(self, but: Data) -> list[str]:
        """Return a line for each other reading of which the present task left images out."""
        return sorted(
            f"{len(data.unreadable)} unreadable images of {data.name}, split {data.split!r}, left out"
            for data in self._read.values()
            if isinstance(data, Data) and data.unreadable and data is not but
        )

    def other(self, spec: DataSpec, split: str) -> Data | None:
        """Return another split of the same data, None where there is none."""
        try:
            found = self.get(spec, split) if split != spec.split else None
            return found if found and found.digest != self.get(spec).digest else None
        except DataError:
            return None


class Session:
    """The tasks of a run on one model and one folder of data."""

    def __init__(self, cache: EmbeddingCache, data_root: Path, settings: Settings) -> None:
        self.cache, self.settings = cache, settings
        self.datasets = Datasets(data_root, settings.limit, settings.allow_missing)
        self.plans: dict[str, Plan] = {}

    def context(self, task: Task[Any]) -> Context:
        data = self.datasets.get(task.spec.data)
        return Context(
            data=data,
            cache=self.cache,
            split=partial(self.datasets.other, task.spec.data),
            read=self.datasets.get,
            seed=self.settings.seed,
            resamples=self.settings.resamples,
            show_text=self.settings.show_text or data.synthetic,
            draw_images=self.settings.draw_images,
            maps=self.settings.maps / task.spec.id if self.settings.maps else None,
        )

    def encode(self, todo: Sequence[Task[Any]]) -> None:
        """Encode each image and text that the tasks need, once, as far as possible; keep the plans.

        Errors in the data of a task, or in an image, are reported when the task runs.
        """
        wanted: dict[int, tuple[Data, set[int], set[int]]] = {}  # by reading: indices mean nothing in another
        texts: set[str] = set()
        for task in todo:
            try:
                context = self.context(task)
                plan = self.plans[task.spec.id] = task.plan(context)
            except Exception:
                continue
            _, images, patches = wanted.setdefault(id(context.data), (context.data, set(), set()))
            patches.update(plan.patches)
            images.update(plan.images)
            texts.update(plan.texts)
        for local in (True, False):  # patches bring the embedding with them: first, so that no image is encoded twice
            if local and self.cache.grid is None:
                continue
            for data, images, patches in wanted.values():
                with contextlib.suppress(Exception):
                    self.cache.encode_images(data, sorted(patches if local else images), patches=local)
        with contextlib.suppress(Exception):
            self.cache.texts(sorted(texts))

    def attempt(self, task: Task[Any]) -> tuple[Context, Outcome]:
        """Run one task by the plan that `encode` made, or by its own.

        With `allow_missing` again when images of any of its data turn out unreadable, without them. Each task finds out for
        itself, so that its result does not depend on those before it.
        """
        plan = self.plans.pop(task.spec.id, None)
        self.datasets.forget_unreadable()
        while True:
            context = self.context(task)
            try:
                plan = plan or task.plan(context)
                if plan.patches and self.cache.grid is None:
                    raise DataError(
                        f"{self.cache.card.name} has no patch features, which {task.spec.family} needs; "
                        "give the task a `source` (gradcam, gscorecam, m2ib)"
                    )
                return context, task.run(context, plan)
            except UnreadableError as error:
                if not self.settings.allow_missing or error.reasons.keys() <= error.data.unreadable.keys():
                    raise
                error.data.unreadable |= error.reasons
                plan = None

    def score(self, task: Task[Any], out: Path, training: Training) -> dict[str, Any]:
        """Run one task; write its samples and figures; return its entry in the results."""
        context, outcome = self.attempt(task)
        rows = outcome.rows or [context.row(index) for index in outcome.indices]
        figures = f"figures/{task.spec.id}.json" if outcome.figures else None
        files = {"samples": f"samples/{task.spec.id}.jsonl", "figures": figures}
        for name, lines in (("samples", rows), ("figures", [outcome.figures])):
            if path := files[name]:
                (out / path).parent.mkdir(exist_ok=True)
                text = "".join(json.dumps(clean(line), ensure_ascii=False) + "\n" for line in lines)
                write_whole(out / path, text)
        entry = entry_of(task, context.data, outcome, self.datasets.left_out(context.data))
        found = training.overlap(context.data, outcome.indices)
        entry["data"]["training"] = found
        if found["status"] == "found":
            entry["references"] = []
            entry["warnings"].insert(0, overlap_words(found, bool(task.spec.references)))
        elif found["status"] == "unknown" and task.spec.references:
            entry["warnings"].insert(0, doubt_words(found))
        return entry | files


def run(suite: Suite, session: Session, out: Path, resume: bool, say: Callable[[str], None]) -> int:
    """Score a suite and write `out`; return the exit code."""
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    kept = {name: getattr(session.settings, name) for name in ("seed", "resamples", "limit")}
    results = Results(out, session.cache.card, suite.to_tree(), kept, resume)
    if not resume:  # that of an earlier checkpoint, maybe; `training_curve` copies this one's
        (out / CURVE).unlink(missing_ok=True)
    todo = [task for task in suite.tasks if not results.finished(task.spec.id)]
    session.encode(todo)
    training = Training(session.cache.card.trained_on)

    def failed(name: str, version: str, family: str, status: str, reason: str) -> None:
        entry = {"id": name, "version": version, "family": family, "status": status, "reason": reason}
        results.add(entry, suite.order)
        say(f"{name}: {status}: {reason}")

    for task in todo:
        try:
            entry = session.score(task, out, training)
            results.add(entry, suite.order)
            say(f"{task.spec.id}: {headline(entry)}")
            for line in warnings_of(entry):
                say(f"  {line}")
        except Exception as error:  # of whatever kind: it ends this task, and no other
            if cannot_write(error):  # as the results of the others cannot be
                raise
            failed(task.spec.id, task.spec.version, task.spec.family, *verdict(error))
    for unbuilt in suite.unbuilt:
        failed(unbuilt.id, "", unbuilt.family, "failed", unbuilt.reason)
    results.write(time.perf_counter() - started)
    return exit_code([task["status"] == "ok" for task in results.tree["tasks"]])


def embed(suite: Suite, session: Session, say: Callable[[str], None]) -> int:
    """Encode all that scoring a suite from the cache needs, whatever can be; return the exit code."""
    session.encode(suite.tasks)
    done = []
    for task in suite.tasks:
        try:
            if task.needs_model():
                session.plans.get(task.spec.id) or task.plan(session.context(task))
                say(f"{task.spec.id} needs the model itself: `run` scores it, `score` cannot")
            else:  # for what it encodes on the way: other splits, damaged images, others in place of unreadable ones
                session.attempt(task)
            done.append(True)
        except Exception as error:
            if cannot_write(error):
                raise
            say("{}: {}: {}".format(task.spec.id, *verdict(error)))
            done.append(False)
    for unbuilt in suite.unbuilt:
        say(f"{unbuilt.id}: failed: {unbuilt.reason}")
    return exit_code(done + [False] * len(suite.unbuilt))


def exit_code(done: Sequence[bool]) -> int:
    """Return whether all tasks were scored, some or none."""
    return OK if all(done) else PARTIAL if any(done) else DATA


def verdict(error: Exception) -> tuple[str, str]:
    """Return whether a task was skipped (its data is not there) or failed, and why: one line, the same in each run."""
    reason = reason_of(error)
    absent = "no manifest.jsonl" in reason or "no such folder" in reason
    return "skipped" if absent else "failed", reason


def entry_of(task: Task[Any], data: Data, outcome: Outcome, more: Sequence[str] = ()) -> dict[str, Any]:
    """Return a task's entry in the results, but for its files; `more` are warnings about other data than the scored."""
    keys = [data.records[index].key for index in outcome.indices]
    warnings = []
    if data.is_whole:
        warnings.append(
            f"{data.name} names no split: all of its {len(data)} records are scored, whatever the model was trained on "
            "(split: null in the suite says that this is meant)"
        )
    warnings += outcome.warnings
    if data.unit != "patient":
        warnings.append(
            f"no record says its patient: intervals are by {data.unit}, and too short if patients have several"
        )
    warnings += [f"{count} left out: {reason}" for reason, count in outcome.excluded.items()]
    if data.unreadable:
        warnings.append(f"{len(data.unreadable)} unreadable images left out")
    if data.rejected:
        first = next(iter(data.rejected.values()))
        warnings.append(f"{len(data.rejected)} damaged records left out, the first: {first}")
    unit = unit_of(task, data, outcome.indices)
    if len(set(outcome.indices)) > unit.get("n_studies", len(keys)):
        warnings.append(
            f"{len(set(outcome.indices))} volumes of {unit['n_studies']} studies are scored: papers count one or the other "
            "(data: one_per: study takes one of each)"
        )
    warnings += more
    return {
        **{name: getattr(task.spec, name) for name in ("id", "version", "family", "about")},
        "status": "ok",
        "config_sha256": config_digest(task),
        "data": {
            "name": data.name,
            "split": data.split,
            "n": len(keys),
            "n_patients": len({data.patient(index) for index in outcome.indices}),
            "resampled": data.unit,
            "ids_sha256": ids_digest(keys),
            "data_digest": data.digest,
            "missing": len(data.unreadable) + len(data.rejected),
            "excluded": outcome.excluded,
            "prevalence": outcome.prevalence,
            **unit,
        },
        **{name: getattr(outcome, name) for name in ("prompts", "scoring", "metrics", "per_class", "subgroups")},
        "references": to_tree(task.spec.references),
        "warnings": warnings,
    }


def unit_of(task: Task[Any], data: Data, indices: Sequence[int]) -> dict[str, Any]:
    """Return what is counted of volumes, and of how many studies they are: a study may have several; empty for images."""
    records = [data.records[index] for index in indices]
    if not any(record.volume for record in records):
        return {}
    return {
        "unit": task.spec.data.one_per or "volume",
        "n_studies": len({record.study or record.key for record in records}),
    }


def training_curve(model: str, out: Path) -> None:
    """Copy the loss curve of the run that a checkpoint folder belongs to, for the report; nothing where there is none."""
    folder = Path(model)
    if not folder.exists():
        return
    places = (folder.resolve(), *folder.resolve().parents[:2], folder.parent)
    path = next((place / "log.jsonl" for place in places if (place / "log.jsonl").is_file()), None)
    rows = []
    for line in read_text(path, MAX_FILE).splitlines() if path else ():
        with contextlib.suppress(ValueError):  # the last line of a run that was killed
            row = parse_json(line)
            loss = row.get("loss") if isinstance(row, dict) and "step" in row else None
            if isinstance(loss, float) and math.isfinite(loss):
                rows.append({key: row[key] for key in ("event", "step", "samples", "loss") if key in row})
    if rows:
        write_whole(out / CURVE, json.dumps(rows) + "\n")


def require_place(out: Path, what: str = "--out") -> None:
    """Raise ConfigError for a folder that holds shards, or lies inside one that does: a run never writes among them."""
    for folder in (out.resolve(), *out.resolve().parents):
        if (folder / "manifest.jsonl").is_file() or (folder == out.resolve() and any(folder.glob("*.tar"))):
            raise ConfigError(f"{what} {out} lies in a folder of shards, {folder}: choose another folder")


def require_empty(out: Path) -> None:
    """Raise ConfigError when a folder holds shards, or anything that is not a run of vlp-eval."""
    require_place(out)
    is_ours = (out / "results.json").is_file() or (out / ".embeddings").is_dir()
    if not is_ours and out.exists() and any(path.name != LOCK for path in out.iterdir()):
        raise ConfigError(f"--out {out} is not empty and holds no results.json; choose another folder")
