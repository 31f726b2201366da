"""`vlp-prep build`: raw data to shards, a manifest, the list of what was rejected, and a data card.

    source.records -> plan (which record in which shard) -> workers (samples) -> this process (tar files) -> gather

The main process is the only writer. Each finished shard leaves a small file of its counts in `.build/`; resuming and
job arrays are nothing but skipping the shards that have one, and the last to finish gathers them into the results.
"""

from __future__ import annotations

import itertools
import json
import pickle
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from vlp.core.config import ConfigError, digest, to_tree, validate
from vlp.core.output import partial_of, remove, whole, write_whole
from vlp.core.process import cores
from vlp.core.untrusted import read_text
from vlp.data.tables.cells import CellError
from vlp.sample import Sample

from ..images.volumes import FACE
from ..privacy.identifiers import VARIABLE, IdHasher, read_key
from ..reports.languages.detect import UNREAD
from ..sources.base import Reject, sources
from ..splits.split import parse_shares
from .claim import MADE_BY, Claim
from .data_card import render_card
from .killed import collect, forget, left_out
from .options import BuildOptions, shard_of
from .prepare import CUT, choose_extractor
from .rejected import add_private, private_of, replace_private, sort_private
from .replacement import BESIDE, STATE, replace_build, settle
from .shard_file import write_shard
from .shard_plan import ShardPlan, plan
from .stats import GROUPED_BY, DatasetStats
from .workers import CHUNK, Job, Pool, Rejected

WORTH_WORKERS, WORTH_WORKERS_OF_VOLUMES = 500, 8
"""How many records it takes to start processes for them."""
PER_SHARD, VOLUMES_PER_SHARD = 512, 32
SHOWN = 3
"""How many reasons are named where a build fails, and how many keys of each."""
ELSEWHERE = ("out", "raw", "workers", "engine", "resume", "overwrite", "shard_of", "key_file")
"""Options that say where and how, and do not change what is written."""


class Build:
    """One run of `vlp-prep build`: checks first, then `run`, then `gather`."""

    def __init__(self, options: BuildOptions) -> None:
        self.name = options.source["kind"]
        cls = sources.get(self.name)
        self.options = replace(options, text=replace(options.text, no_text=options.text.no_text or cls.no_text))
        if cls.needs_raw and (options.raw is None or not options.raw.is_dir()):
            raise ConfigError(f"source {self.name!r} needs --raw, the folder as published; found {options.raw}")
        self.shard_of = shard_of(options.shard_of)
        self.shares = parse_shares(options.split)
        own = {name: value for name, value in options.source.items() if name != "kind"}
        self.source = cls(options.raw, validate(cls.Config, own, self.name), options.follow_links)
        self.holds_volumes = self.source.holds_volumes()
        if self.options.shard_size is None:
            self.options = replace(self.options, shard_size=VOLUMES_PER_SHARD if self.holds_volumes else PER_SHARD)
        self.key = self._id_key()
        self.extractor = choose_extractor(self.options.text, cls.language)
        self.out = self._choose_out()
        self.state = self.out / STATE
        self.rejected_places = private_of(options.out)
        self.private = private_of(options.out, BESIDE) if self.out != options.out else self.rejected_places
        self.claim = Claim(options.out / STATE, self.shard_of, options.overwrite)

    def _id_key(self) -> bytes | None:
        options = self.options
        key = None if options.ids == "keep" else read_key(options.key_file)
        if key is None and (options.ids == "hash" or (options.ids == "auto" and self.source.identifying)):
            raise ConfigError(
                f"the ids of {self.name!r} must be replaced by keyed hashes: set {VARIABLE} or give --key-file "
                "(or --ids keep, if they identify no patient)"
            )
        return key

    @cached_property
    def _fingerprint(self) -> str:
        """Return a hash of everything that decides the bytes of the output, the raw folder's place excepted."""
        tree = to_tree(self.options)
        for name in (*ELSEWHERE, "max_rejected"):
            del tree[name]
        tree |= {"source": self.name, "source_config": to_tree(self.source.config)}
        tree["version"] = self.source.version
        tree["concepts"] = self.extractor.fingerprint() if self.extractor else None
        tree["key"] = IdHasher(self.key)("check", "key") if self.key else None
        return digest(tree)

    def _choose_out(self) -> Path:
        """Return the folder to write to: `--out`, or a folder in it where an older set stays until the new one is whole."""
        out, options, fingerprint = self.options.out, self.options, self._fingerprint
        made = out / STATE / "options.json"
        if made.is_file() and options.overwrite:
            if self.shard_of[1] > 1:
                raise ConfigError("--overwrite replaces a whole set: give it without --shard-of, or another --out")
            return out / BESIDE
        if made.is_file():
            if json.loads(made.read_text())["fingerprint"] != fingerprint:
                raise ConfigError(f"{out} was built with other options: give --overwrite, or another --out")
            if not options.resume and self.shard_of[1] == 1:
                raise ConfigError(f"{out} already holds a build: give --resume to go on, --overwrite to start again")
        elif out.exists() and (not out.is_dir() or any(path.name != STATE for path in out.iterdir())):
            raise ConfigError(f"{out} is not empty and was not made by vlp-prep build: give another --out")
        return out

    def __enter__(self) -> Build:
        """Hold the folder and write down with which options it is made. Raises InUseError while another build has it."""
        self.claim.open(self._sign)
        return self

    def __exit__(self, *_: object) -> None:
        if not any(self.state.glob("*-[0-9]*.json")) and self.out != self.options.out:
            remove(self.state / "options.json", MADE_BY)
        self.claim.close()
        for folder in (self.state, self.out, self.options.out):
            with suppress(OSError):  # not empty: something was built
                folder.rmdir()

    def _sign(self) -> None:
        settle(self.options.out)
        if self._choose_out() != self.out:  # another build was there meanwhile
            raise ConfigError(f"{self.options.out} was built by another process just now: give --resume or --overwrite")
        if self.out != self.options.out:
            remove(self.out, MADE_BY)
        self.state.mkdir(parents=True, exist_ok=True)
        if not (self.state / "options.json").is_file():
            self.private.unlink(missing_ok=True)  # of a set that was here and is gone
        write_whole(self.state / "options.json", json.dumps({"fingerprint": self._fingerprint}))

    def run(self, tell: Callable[[str, int], None]) -> Counter[str]:
        """Make the shards that are not there yet and gather what is, inside `with build:`; return the counts of `gather`.

        `tell(event, number)` is told "total" (records to do), "written" and "rejected". Raises ConfigError.
        """
        with tempfile.TemporaryFile(dir=self.state) as list_file, self._pool() as pool:
            names, total = self._list(list_file, pool, tell)
            tell("total", total)
            open_shards: dict[int, ShardPlan] = {}

            def groups() -> Iterator[tuple[int, str | None, list[Any]]]:
                for shard in _listed(list_file):
                    open_shards[shard.ordinal] = shard
                    yield shard.ordinal, shard.split, shard.records

            for ordinal, outcomes in itertools.groupby(pool.map(groups()), key=lambda pair: pair[0]):
                self._finish(open_shards.pop(ordinal), (outcome for _, outcome in outcomes), pool, tell)
            for shard in open_shards.values():  # only duplicates: nothing came back from the workers
                self._finish(shard, iter(()), pool, tell)
        with self.claim.alone():
            return self.gather(names)

    def _list(self, file: IO[bytes], pool: Pool, tell: Any) -> tuple[list[str], int]:
        """Ask the source once what there is: write the shards that are still to be made to `file`, one pickle each.

        Return the names of all shards of the set, and the number of records to do; workers are started as soon as there is
        enough for them. Raises ConfigError.
        """
        names, total = [], 0
        try:
            for shard in plan(
                self.source.records(), self.shares, self.options.seed, self.options.shard_size or PER_SHARD
            ):
                size = len(shard.records) + len(shard.duplicates)
                tell("listed", size)
                names.append(shard.name)
                if shard.ordinal % self.shard_of[1] == self.shard_of[0] and not self._done(shard):
                    pickle.dump(shard, file, pickle.HIGHEST_PROTOCOL)
                    total += size
                    pool.start(self._workers(total))
        except CellError as error:  # of a source that reads cells to list its records
            raise ConfigError(f"{self.source.name}: {error}") from None
        return names, total

    def _pool(self) -> Pool:
        if self.extractor:
            self.extractor.prepare(self.state)
        if self.options.resume:
            collect(self.state, 1)
        elif self.shard_of[1] == 1:
            forget(self.state)
        left = left_out(self.state)
        job = Job(self.options, self.source.config, self.extractor, self.key, self.state, left)
        return Pool(job, 1 if self.holds_volumes else CHUNK)

    def _workers(self, total: int) -> int:
        if self.options.workers is not None:
            return self.options.workers
        return cores() if total >= (WORTH_WORKERS_OF_VOLUMES if self.holds_volumes else WORTH_WORKERS) else 0

    def _done(self, shard: ShardPlan) -> bool:
        path = self.state / f"{shard.name}.json"
        if not path.is_file():
            return False
        if json.loads(path.read_text())["digest"] != shard.digest():
            raise ConfigError(f"{path.stem} was made from other records: the raw data has changed; give --overwrite")
        return True

    def _finish(self, shard: ShardPlan, outcomes: Iterator[Sample | Rejected], pool: Pool, tell: Any) -> None:
        """Write one shard and, after it, the file that says it is there."""
        stats, rejected = DatasetStats(), []
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
                    stats.add(outcome)
                    yield outcome
                    tell("written", 1)

        path = self.out / f"{shard.name}.tar"
        partial = partial_of(self.state / path.name)
        entry = write_shard(path, samples(), shard.split, self.source.name, self.source.version, partial)
        lines = [asdict(line) for line in sorted(rejected, key=lambda line: line.index)]
        private = [{"index": line["index"], "reason": line["reason"], **line.pop("private")} for line in lines]
        if private:
            add_private(self.private, private)
        done = {
            "ordinal": shard.ordinal,
            "digest": shard.digest(),
            "entry": entry,
            "tally": stats.to_json(),
            "rejected": lines,
        }
        write_whole(self.state / f"{shard.name}.json", json.dumps(done, sort_keys=True))

    def gather(self, planned: list[str]) -> Counter[str]:
        """Write manifest, rejected.jsonl and card from what is finished; return read, written, rejected, missing.

        `planned` are the names of all shards of the set, in order. With shards of other jobs missing nothing is written:
        the job that finishes last does it.
        """
        missing = [name for name in planned if not (self.state / f"{name}.json").is_file()]
        if missing:
            return Counter(missing=len(missing), shards=len(planned))
        stats, reasons, counted = DatasetStats(), Counter[str](), 0
        lines: list[dict[str, Any]] = []
        with whole(self.out / "manifest.jsonl") as manifest:
            for name in planned:
                done = json.loads((self.state / f"{name}.json").read_text())
                if done["entry"] is not None:
                    manifest.write(done["entry"] + "\n")
                stats.merge(done["tally"])
                lines += done["rejected"]
        sort_private(self.private)
        with whole(self.out / "rejected.jsonl") as file:
            for line in sorted(lines, key=lambda line: int(line["index"])):
                reasons[line["reason"]] += 1
                counted += line.pop("counted")
                file.write(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n")
        read = stats.samples + len(lines)
        write_whole(self.out / "README.md", render_card(self._about(), stats, reasons, read))
        counts = Counter(read=read, written=stats.samples, rejected=len(lines), counted=counted, shards=len(planned))
        counts["unread"], counts["boxes cut"] = stats.counts["steps"][UNREAD], stats.counts["steps"][CUT]
        counts["volumes"] = stats.counts["unit"].total()
        counts["studies"], counts["patients"] = len(stats.people["study"]), len(stats.people["patient"])
        counts["faces"] = stats.counts["steps"][FACE]
        counts["concepts"] = stats.counts["with"]["concepts"]
        counts["without patient"] = stats.samples - stats.counts[GROUPED_BY]["patient"]
        counts.update({f"reason {name}": number for name, number in reasons.items()})
        return counts

    def finish(self, counts: Counter[str]) -> None:
        """Check how much was rejected, then let the new set take the old one's place. Raises ConfigError."""
        most = self.options.max_rejected
        if counts["read"] and counts["counted"] > most * counts["read"]:
            raise ConfigError(
                f"{counts['counted']} of {counts['read']} rejected, more than --max-rejected {most:g}: "
                f"see {self.out / 'rejected.jsonl'} ({self._examples()})"
            )
        if self.out != self.options.out:
            replace_build(self.options.out)
            replace_private(self.private, private_of(self.options.out))

    def _examples(self) -> str:
        """Return what was rejected for which reason, the commonest first, with the keys of three of each."""
        keys: dict[str, list[str]] = {}
        for line in map(json.loads, read_text(self.out / "rejected.jsonl").splitlines()):
            keys.setdefault(line["reason"], []).append(line["key"])
        ordered = sorted(keys.items(), key=lambda item: (-len(item[1]), item[0]))[:SHOWN]
        return "; ".join(f"{len(found)} {reason}: {', '.join(found[:SHOWN])}" for reason, found in ordered)

    def _about(self) -> dict[str, Any]:
        tree = to_tree(self.options)
        for name in (*ELSEWHERE, "source"):
            del tree[name]
        tree["ids"] = "replaced by keyed hashes" if self.key else "as in the source"
        text = tree["text"]
        text["concepts"] = Path(text["concepts"]).name  # paths do not leave this machine
        text["vocabulary"] = text["vocabulary"] and Path(text["vocabulary"]).name
        return {
            "source": self.source.name,
            "version": self.source.version,
            "licence": self.source.licence,
            "homepage": self.source.homepage,
            "options": {**tree, **to_tree(self.source.config)},
        }


def _listed(file: IO[bytes]) -> Iterator[ShardPlan]:
    """Yield the shards that `Build._list` wrote; the place in the file is kept between them."""
    file.seek(0)
    with suppress(EOFError):
        while True:
            yield pickle.load(file)
