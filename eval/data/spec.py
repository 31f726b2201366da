"""The `data` section of a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vlp.core.config import ConfigError, config


class DataError(ConfigError):
    """The data of a task is absent or unfit; the message says which, where, and what to do."""


@config
class Columns:
    """Which columns of a table hold what. `labels` maps a finding to its column; `boxes` holds JSON [{phrase, xyxy}].

    `key` is what an image is called in the results: its path without the ending, where no column says so. Rows of one
    image are one record with all their texts, labels and boxes. Images are files below the table's folder; a link out of
    it is read with `follow_links`.
    """

    image: str = "image"
    key: str | None = None
    report: str | None = None
    captions: str | None = None
    patient: str | None = None
    study: str | None = None
    split: str | None = None
    boxes: str | None = None
    labels: dict[str, str] | None = None
    groups: tuple[str, ...] = ()
    encoding: str = "utf-8"
    separator: str | None = None
    follow_links: bool = False

    def named(self) -> list[str]:
        """Return the columns that must be there."""
        named = [self.image, self.key, self.report, self.captions, self.patient, self.study, self.split, self.boxes]
        return [name for name in (*named, *(self.labels or {}).values(), *self.groups) if name is not None]


@config
class DataSpec:
    """Where a task's data is, below `--data`, and which of it is scored.

    `folder`: shards with a manifest (empty: `--data` itself, which may also be the folder of this name). `table`: a CSV or
    JSONL file, with `columns`, for where there are no shards.
    `split`: None takes everything; `whole_if_unsplit` takes everything of a set without splits. `where`: keep records with
    these values (`modality`, `view`, `source`, or a group column). `one_per: study` keeps of each study (or patient) the
    record whose key comes first: the reconstructions of a CT share report and labels, and count once.
    """

    folder: str = ""
    table: str | None = None
    columns: Columns = Columns()
    split: str | None = "test"
    whole_if_unsplit: bool = True
    where: dict[str, str] | None = None
    one_per: Literal["study", "patient"] | None = None

    def __post_init__(self) -> None:
        for name, value in (("folder", self.folder), ("table", self.table or "")):
            if Path(value).is_absolute() or ".." in Path(value).parts:
                raise ValueError(f"{name}: expected a place below --data, found {value!r}")

    def takes_whole(self, split: str | None) -> bool:
        """Return whether all of a set that is not split stands for the split."""
        return split == "test" and self.whole_if_unsplit
