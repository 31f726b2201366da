"""`vlp-prep build`: raw data to shards, a manifest, the list of what was rejected, and a data card.

    source.records -> plan (which record in which shard) -> workers (samples) -> this process (tar files) -> gather

The main process is the only writer. Each finished shard leaves a small file of its counts in `.build/`; resuming and
job arrays are nothing but skipping the shards that have one, and the last to finish gathers them into the results.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal

from vlp.config import ConfigError, config, digest, to_tree
from vlp.data.tables.cells import CellError
from vlp.output import PARTIAL, InUseError, hold, partial_of, remove, whole
from vlp.types import Sample

from .gather import check_rejected, gather
from .killed import collect, forget, left_out
from .pixels import ImageOptions
from .plan import Planned, plan
from .prepare import TextOptions, choose_finder
from .privacy import VARIABLE, IdHasher, read_key
from .rejected import add_private, private_of, replace_private
from .sources.base import Reject, find_source
from .splits import parse_shares
from .stats import Tally
from .work import Job, Pool, Rejected

WORTH_WORKERS = 500
MADE_BY = "vlp-prep build"
MOMENT = 120.0
"""Seconds that the other jobs of an array are waited for, while one gathers what all have made."""
ELSEWHERE = ("out", "raw", "workers", "engine", "resume", "overwrite", "shard_of", "key_file")
"""Options that say where and how, and do not change what is written."""


@config
class BuildOptions:
    """Where to, how many at a time, and the rules of the set.

    `workers` None is all cores, or none at all for a set too small to be worth starting processes. `shard_of` is (i, n):
    make only every n-th shard.
    """

    source: str
    out: Path
    raw: Path | None = None
    source_config: Any = None
    workers: int | None = None
    engine: str = "processes"
    resume: bool = False
    overwrite: bool = False
    shard_size: int = 512
    shard_of: tuple[int, int] = (0, 1)
    split: str = "0.8,0.1,0.1"
    seed: int = 0
    max_rejected: float = 0.01
    ids: Literal["auto", "hash", "keep"] = "auto"
    key_file: Path | None = None
    follow_links: bool = False
    image: ImageOptions = ImageOptions()
    text: TextOptions = TextOptions()


class Build:
    """One run of `vlp-prep build`: checks first, then `run`, which gathers what is made in the end."""

    def __init__(self, options: BuildOptions) -> None:
        self.options = options
        cls = find_source(options.source)
        if cls.needs_raw and (options.raw is None or not options.raw.is_dir()):
            raise ConfigError(f"source {options.source!r} needs --raw, the folder as published; found {options.raw}")
        part, parts = options.shard_of
        if not 0 <= part < parts:
            raise ConfigError(f"--shard-of {part}/{parts}: expected i/n with 0 <= i < n")
        self.shares = parse_shares(options.split)
        self.source = cls(options.raw, options.source_config or cls.Config(), options.follow_links)
        self.key = self._id_key()
        self.finder = choose_finder(options.text)
        self.state = options.out / ".build"
        self._write_to(options.out, self.state, self.rejected_places)
        if not self._replaces:
            self._check_out()
        elif parts > 1:
            raise ConfigError("--overwrite replaces a whole set: give it without --shard-of, or another --out")

    def _id_key(self) -> bytes | None:
        options = self.options
        key = None if options.ids == "keep" else read_key(options.key_file)
        if key is None and (options.ids == "hash" or (options.ids == "auto" and self.source.identifying)):
            raise ConfigError(
                f"the ids of {options.source!r} must be replaced by keyed hashes: set {VARIABLE} or give --key-file "
                "(or --ids keep, if they identify nobody)"
            )
        return key

    @cached_property
    def _fingerprint(self) -> str:
        """Return a hash of everything that decides the bytes of the output, the raw folder's place excepted."""
        tree = to_tree(self.options)
        for name in (*ELSEWHERE, "max_rejected"):
            del tree[name]
        tree["version"] = self.source.version
        tree["concepts"] = self.finder.fingerprint() if self.finder else None
        tree["key"] = IdHasher(self.key)("check", "key") if self.key else None
        return digest(tree)

    def _check_out(self) -> None:
        """Raise ConfigError for a folder that holds anything but a build with these options that may go on."""
        out, made, fingerprint = self.options.out, self.state / "options.json", self._fingerprint
        if made.is_file():
            if json.loads(made.read_text())["fingerprint"] != fingerprint:
                raise ConfigError(f"{out} was built with other options: give --overwrite, or another --out")
            if not self.options.resume and self.options.shard_of[1] == 1:
                raise ConfigError(f"{out} already holds a build: give --resume to go on, --overwrite to start again")
        elif out.exists() and (not out.is_dir() or any(path != self.state for path in out.iterdir())):
            raise ConfigError(f"{out} is not empty and was not made by vlp-prep build: give another --out")

    @contextmanager
    def _claim(self) -> Iterator[None]:
        """Hold this job's part of the folder, and write down there with which options it is made.

        Jobs of one array (`--shard-of`) work at the same time; any other two builds do not.
        """
        part, parts = self.options.shard_of
        own = self.state / f".vlp-{part}-of-{parts}.lock"
        with ExitStack() as stack:
            with self._alone():
                try:
                    self._refuse_others(own)
                    if not self._replaces:
                        self._check_out()
                    stack.enter_context(hold(self.state, MADE_BY, name=own.name))
                    if not self._replaces:
                        self._sign()
                except BaseException:
                    self._leave_nothing()
                    raise
            try:
                yield
            finally:
                with self._alone():
                    self._leave_nothing(own)
                with suppress(OSError):  # not empty, or a mounted folder
                    self.options.out.rmdir()

    def _refuse_others(self, own: Path) -> None:
        """Raise InUseError while another build works here, or this job of the array does already."""
        siblings = f"*-of-{self.options.shard_of[1]}.lock"
        for lock in self.state.glob(".vlp-*.lock"):
            if lock == own or self.options.overwrite or not lock.match(siblings):
                with hold(self.state, MADE_BY, name=lock.name):
                    pass

    def _leave_nothing(self, own: Path | None = None) -> None:
        """Take the locks away where nothing was built and no other job (than the one that holds `own`) is at it."""
        if any(self.state.glob("*-[0-9]*.json")):
            return
        locks = list(self.state.glob(".vlp-*.lock"))
        with suppress(InUseError):
            for lock in locks:
                if lock != own:
                    with hold(self.state, MADE_BY, name=lock.name):
                        pass
            for path in (*locks, self.state / "options.json"):
                remove(path, MADE_BY)

    def _sign(self) -> None:
        with whole(self.state / "options.json") as file:
            file.write(json.dumps({"fingerprint": self._fingerprint}))

    @property
    def rejected_places(self) -> Path:
        """The file that says to the owner of the data which files were rejected."""
        return private_of(self.options.out)

    @property
    def _replaces(self) -> bool:
        return self.options.overwrite and (self.state / "options.json").is_file()

    def _alone(self) -> AbstractContextManager[Any]:
        """Hold the folder of what is finished against all other jobs, for a moment; they wait that long."""
        return hold(self.state, MADE_BY, wait=MOMENT)

    def run(self, report: Any = None) -> Counter[str]:
        """Make the shards that are not there yet and gather what is; return the counts of `gather`.

        `report(event, number)` is told "total" (records to do), "written" and "rejected". Raises ConfigError.
        """
        tell = report or (lambda *_: None)
        with self._claim(), self._room() as replace:
            counts = self._run(tell)
            if replace:
                check_rejected(counts, self.options.max_rejected, self.out)
                self._replace()
            return counts

    def _run(self, tell: Any) -> Counter[str]:
        with tempfile.TemporaryFile(dir=self.state) as list_file, self._pool() as pool:
            names, total = self._list(list_file, pool, tell)
            tell("total", total)
            open_shards: dict[int, Planned] = {}

            def groups() -> Iterator[tuple[int, str | None, list[Any]]]:
                for shard in _listed(list_file):
                    open_shards[shard.ordinal] = shard
                    yield shard.ordinal, shard.split, shard.records

            for ordinal, outcomes in itertools.groupby(pool.map(groups()), key=lambda pair: pair[0]):
                self._finish(open_shards.pop(ordinal), (one for _, one in outcomes), pool, tell)
            for shard in open_shards.values():  # only duplicates: nothing came back from the workers
                self._finish(shard, iter(()), pool, tell)
            with self._alone():
                return gather(names, self.done, self.out, self.private, self._about())

    def _write_to(self, out: Path, done: Path, private: Path) -> None:
        """Set where shards, what says that they are finished, and the owner's list of rejects are written."""
        self.out, self.done, self.private = out, done, private

    @contextmanager
    def _room(self) -> Iterator[bool]:
        """Make room for a set that replaces another once it is whole; yields whether it does.

        What was rejected stays there where that was too much.
        """
        if not self._replaces:
            if not any(self.state.glob("*-[0-9]*.json")):
                self.private.unlink(missing_ok=True)
            yield False
            return
        room = partial_of(self.state / "overwrite")
        remove(room, MADE_BY)
        room.mkdir()
        self._write_to(room, room, room / self.rejected_places.name)
        try:
            yield True
        except BaseException:
            if not (room / "rejected.jsonl").is_file():
                remove(room, MADE_BY)
            raise

    def _replace(self) -> None:
        """Put the new set in the place of the old one; a kill on the way leaves what `--resume` goes on with."""
        room, out = self.out, self.options.out
        remove_build(out)
        self._sign()
        replace_private(self.private, self.rejected_places)
        for ending in (".tar", ".json", ""):  # a shard, then what says that it is finished, then the rest
            for path in sorted(room.glob(f"*{ending}")):
                os.replace(path, (self.state if ending == ".json" else out) / path.name)
        remove(room, MADE_BY)
        self._write_to(out, self.state, self.rejected_places)

    def _list(self, file: IO[bytes], pool: Pool, tell: Any) -> tuple[list[str], int]:
        """Ask the source once what there is: write the shards that are still to be made to `file`, one pickle each.

        Return the names of all shards of the set, and the number of records to do; workers are started as soon as there is
        enough for them. Raises ConfigError.
        """
        names, total = [], 0
        try:
            for shard in plan(self.source.records(), self.shares, self.options.seed, self.options.shard_size):
                size = len(shard.records) + len(shard.duplicates)
                tell("listed", size)
                names.append(shard.name)
                if self._mine(shard) and (self._replaces or not self._done(shard)):
                    pickle.dump(shard, file, pickle.HIGHEST_PROTOCOL)
                    total += size
                    pool.start(self._workers(total))
        except CellError as error:  # of a source that reads cells to list its records
            raise ConfigError(f"{self.source.name}: {error}") from None
        return names, total

    def _pool(self) -> Pool:
        options = self.options
        if self.finder:
            self.finder.prepare(self.state)
        if self.options.resume:
            collect(self.state, 1)
        elif self.options.shard_of[1] == 1:
            forget(self.state)
        job = Job(
            source=options.source,
            raw=options.raw,
            config=self.source.config,
            image=options.image,
            text=options.text,
            finder=self.finder,
            key=self.key,
            follow_links=options.follow_links,
            state=self.state,
            left_out=left_out(self.state),
        )
        return Pool(job, options.engine)

    def _workers(self, total: int) -> int:
        if self.options.workers is not None:
            return self.options.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cores if total >= WORTH_WORKERS else 0

    def _mine(self, shard: Planned) -> bool:
        part, parts = self.options.shard_of
        return shard.ordinal % parts == part

    def _done(self, shard: Planned) -> bool:
        path = self.state / f"{shard.name}.json"
        if not path.is_file():
            return False
        if json.loads(path.read_text())["digest"] != shard.digest():
            raise ConfigError(f"{path.stem} was made from other records: the raw data has changed; give --overwrite")
        return True

    def _finish(self, shard: Planned, outcomes: Iterator[Sample | Rejected], pool: Pool, tell: Any) -> None:
        """Write one shard and, after it, the file that says it is there."""
        tally, rejected = Tally(), []
        for index, record in shard.duplicates:
            reject = Reject("duplicate_key", f"{record.key} was there before")
            rejected.append(pool.local.rejected(index, record, reject))
        tell("rejected", len(rejected))

        def samples() -> Iterator[Sample]:
            for outcome in outcomes:
                if isinstance(outcome, Rejected):
                    rejected.append(outcome)
                    tell("rejected", 1)
                else:
                    tally.add(outcome)
                    yield outcome
                    tell("written", 1)

        entry = self._write_shard(shard, samples())
        lines = [asdict(one) for one in sorted(rejected, key=lambda one: one.index)]
        private = [{"index": line["index"], "reason": line["reason"], **line.pop("private")} for line in lines]
        if private:
            add_private(self.private, private)
        done = {
            "ordinal": shard.ordinal,
            "digest": shard.digest(),
            "entry": entry,
            "tally": tally.to_json(),
            "rejected": lines,
        }
        with whole(self.done / f"{shard.name}.json") as file:
            file.write(json.dumps(done, sort_keys=True))

    def _write_shard(self, shard: Planned, samples: Iterator[Sample]) -> str | None:
        """Write the tar file of a shard under its name, whole or not at all; return its line of the manifest."""
        from .writer import ShardWriter

        room = partial_of(self.done / shard.name)
        remove(room, MADE_BY)
        writer = ShardWriter(
            room, self.options.shard_size, self.source.name, self.source.version, shard_bytes=sys.maxsize
        )
        try:
            for sample in samples:
                writer.write(sample)
            if not writer.counts:
                return None
            writer.close()
            lone = f"{shard.split or 'shard'}-000000.tar"
            os.replace(room / lone, self.out / f"{shard.name}.tar")
            line = (room / "manifest.jsonl").read_text(encoding="utf-8").strip()
            return line.replace(f'"shard": "{lone}"', f'"shard": "{shard.name}.tar"', 1)
        finally:
            writer.abort()
            remove(room, MADE_BY)

    def _about(self) -> dict[str, Any]:
        tree = to_tree(self.options)
        for name in (*ELSEWHERE, "source", "source_config"):
            del tree[name]
        tree["ids"] = "replaced by keyed hashes" if self.key else "as in the source"
        text = tree["text"]
        text["concepts"] = Path(text["concepts"]).name  # where files lie is nobody's business
        text["vocabulary"] = text["vocabulary"] and Path(text["vocabulary"]).name
        return {
            "source": self.source.name,
            "version": self.source.version,
            "licence": self.source.licence,
            "homepage": self.source.homepage,
            "options": {**tree, **to_tree(self.source.config)},
        }


def _listed(file: IO[bytes]) -> Iterator[Planned]:
    """Yield the shards that `Build._list` wrote; the place in the file is kept between them."""
    file.seek(0)
    with suppress(EOFError):
        while True:
            yield pickle.load(file)


def remove_build(out: Path) -> None:
    """Remove what a build made: only from a folder that one made, and nothing else in it."""
    state = out / ".build"
    done = list(state.glob("*-[0-9]*.json"))
    files = [out / f"{path.stem}.tar" for path in done]
    files += [out / name for name in ("manifest.jsonl", "rejected.jsonl", "README.md")]
    partial = [path for path in state.glob(f".*{PARTIAL}") if path != partial_of(state / "overwrite")]
    for path in (*files, *done, *partial, state / "options.json"):
        remove(path, MADE_BY)
