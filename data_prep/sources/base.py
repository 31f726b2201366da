"""What a source is: a class in a file of this folder, registered by its name, that turns a raw layout into samples.

Adding a data set is one file here, one line in `__init__.py` and one test. A source does two things. `records` lists
what there is: cheaply, in a stable order, reading tables and file names but no pixels; it runs once, in the main process.
`sample` turns one record into a `Sample`; it runs in the workers, may read and decode, and raises `Reject` for what
cannot be used. Splitting, writing shards, cleaning reports, finding concepts, hashing ids and encoding images are not a
source's business.
"""

from __future__ import annotations

import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from vlp.core.config import ConfigError, config
from vlp.core.registry import Registry
from vlp.core.untrusted import MAX_FILE, MAX_TEXT, open_regular, read_regular, shown, stays_inside
from vlp.data.tables.cells import CellError
from vlp.data.tables.keys import safe_key as safe_key
from vlp.data.tables.read import Row, rows
from vlp.modalities.image.decode import MAX_PIXELS
from vlp.modalities.volume.options import VolumeOptions
from vlp.modalities.volume.read import read_volume
from vlp.modalities.volume.store import MAX_VOXELS
from vlp.modalities.volume.volume import Volume
from vlp.sample import Report, Sample

from ..images.modality_codes import RADIOGRAPH

NoText = Literal["reject", "drop", "keep", "test"]
"""What happens to a sample without any text: rejected and counted against `--max-rejected`; left out, not counted; kept
as image-only; kept as image-only when it falls into the test split and left out otherwise."""


LEARN = "train+val"
"""The split of a record that the publisher keeps out of a test set of its own: the build's shares, test aside."""


class Reject(CellError):
    """A record that cannot become a sample: a short reason (a stable word, counted) and a detail (for a person).

    `counted=False` marks what was left out by choice (a view that was not asked for): listed, but no sign of bad data.
    """

    def __init__(self, reason: str, detail: str = "", *, counted: bool = True) -> None:
        super().__init__(reason, detail)
        self.counted = counted


@dataclass(frozen=True, slots=True)
class Record:
    """One image to be: its key, whom it belongs to, and whatever `sample` needs, small and picklable.

    `patient` (else `study`, else `key`) decides the split, so that no patient is on both sides; `split` overrides it
    where the publisher made the split, or is `LEARN` where only a test set was published.
    """

    key: str
    data: Mapping[str, Any] = field(default_factory=dict)
    patient: str | None = None
    study: str | None = None
    split: str | None = None


class Source(ABC):
    """A raw layout. Subclasses set the class attributes, declare a `Config`, and register under their name.

    `raw` is the folder that the user downloaded; it is None for a source that makes its own data (`needs_raw = False`).
    """

    @config
    class Config:
        """No options."""

    name: ClassVar[str]
    version: str = ""
    licence: ClassVar[str] = "see the publisher's terms"
    homepage: ClassVar[str] = ""
    needs_raw: ClassVar[bool] = True
    no_text: ClassVar[NoText] = "reject"
    modality: ClassVar[str | None] = None
    """Of all images, where the layout has one."""
    identifying: ClassVar[bool] = False
    """True where ids come from a hospital and must not be written without being hashed."""
    max_pixels: int = MAX_PIXELS
    """The largest image that a source may make pixels of; a build's workers set their own, as of what follows."""
    max_voxels: int = MAX_VOXELS
    volume_options: VolumeOptions = VolumeOptions()
    """How files of volumes are read."""
    language: ClassVar[str | None] = None
    """The ISO 639-1 code of all reports, None where each report's own is looked for."""

    def __init__(self, raw: Path | None, config: Any, follow_links: bool = False) -> None:
        self.config = config
        self.raw = raw if raw is not None else Path()
        self._follow_links = follow_links
        self._archives: dict[str, zipfile.ZipFile] = {}

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """Yield what there is, in the same order each time; raises ConfigError when the layout is not as expected."""

    @abstractmethod
    def sample(self, record: Record) -> Sample:
        """Return the sample of a record; raises Reject."""

    def sample_of(
        self,
        record: Record,
        image: Any,
        report: Report | str | None = None,
        groups: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Sample:
        """Return a record's sample: with the record's ids, and the source, licence and modality of this class.

        An empty report is none, and groups without a value are left out; `fields` are the sample's others.
        """
        fields = {"modality": self.modality, "source": self.name, "licence": self.licence, **fields}
        return Sample(
            key=record.key,
            image=image,
            report=(Report(report) if isinstance(report, str) else report) if report else None,
            patient=record.patient,
            study=record.study,
            groups={name: value for name, value in (groups or {}).items() if value},
            **fields,
        )

    def holds_volumes(self) -> bool:
        """Return whether records are volumes, of a hundred megabytes each: shards are shorter, workers take one at a time."""
        return False

    def place(self, record: Record) -> str:
        """Return what a record was made of (a file, a row), for the owner of the data to find it again."""
        named = (record.data.get(name) for name in ("file", "image", "path", "name"))
        return next((str(value) for value in named if isinstance(value, (str, Path)) and str(value)), record.key)

    def refuse(self, record: Record) -> None:
        """Raise Reject where a record states what is wrong with it: `problem`, a reason, a detail, and whether it counts."""
        if "problem" in record.data:
            reason, detail, counted = record.data["problem"]
            raise Reject(reason, detail, counted=counted)

    def path(self, name: str | Path, root: Path | None = None) -> Path:
        """Return the path of a file named in a table, relative to the raw folder; raises Reject when it leads out of it.

        `root` is another folder that the user named (the images of a set of annotations). A link inside the folder that
        points out of it is followed only with `--follow-links`.
        """
        if not str(name).strip():
            raise Reject("image_missing", "the row names no file")
        if "://" in str(name) or "::" in str(name):
            raise Reject("outside_raw", f"{shown(str(name))} is a URL: nothing is fetched, download it first")
        if not str(name).isprintable():
            raise Reject("outside_raw", f"{shown(str(name))} holds a control character")
        folder = _normal((root or self.raw).absolute())
        lexical = _normal(folder / name)
        if not lexical.is_relative_to(folder):
            raise Reject("outside_raw", f"{shown(str(name))} leaves the folder of the data: name files below it")
        if not self._follow_links and not stays_inside(root or self.raw, lexical):
            raise Reject(
                "outside_raw", f"{shown(str(name))} is a link out of the raw folder (--follow-links allows it)"
            )
        return lexical

    def image(self, *names: str | Path, root: Path | None = None) -> Path:
        """Return the path of the first of the named images that exists; raises Reject."""
        for name in names:
            path = self.path(name, root)
            if path.is_file():
                return path
        listed = dict.fromkeys(shown(str(name)) for name in names)
        raise Reject("image_missing", f"no such file: {' or '.join(listed)}")

    def volume(self, path: Path | Sequence[Path], **stated: Any) -> Volume:
        """Return the volume of a file, or of DICOM files, read with the build's options; raises ImageError.

        `stated` are options that the layout or a table states, in place of the build's.
        """
        known = {name: value for name, value in stated.items() if value not in (None, "")}
        return read_volume(path, self.max_voxels, replace(self.volume_options, **known))

    def member(self, archive: Path, name: str) -> bytes:
        """Return a file out of a zip archive, which stays open for the next one; raises Reject."""
        try:
            if str(archive) not in self._archives:
                self._archives[str(archive)] = zipfile.ZipFile(open_regular(archive))
            opened = self._archives[str(archive)]
            size = opened.getinfo(name).file_size
            if size > MAX_FILE:
                raise Reject("image_too_large", f"{name} in {archive.name} unpacks to {size} bytes")
            return opened.read(name)
        except KeyError:
            raise Reject("image_missing", f"no {name} in {archive.name}") from None
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError) as error:
            raise Reject("image_unreadable", f"{name} in {archive.name}: {error}") from None

    def text(self, path: Path, encoding: str = "utf-8") -> str:
        """Return a text file; raises Reject when it is missing or not in that encoding, which is never guessed."""
        try:
            return decode_text(read_regular(path, MAX_TEXT), encoding)
        except FileNotFoundError:
            raise Reject("report_missing", f"no such file: {path.name}") from None
        except OSError as error:
            raise Reject("report_unreadable", f"{path.name}: {error.strerror}") from None

    def require(self, *names: str) -> Path:
        """Return the first of the files or folders that exists below `raw`; raises ConfigError naming all of them."""
        for name in names:
            if (self.raw / name).exists():
                return self.raw / name
        raise ConfigError(f"{self.name}: {self.raw} has no {' or '.join(names)}: is this the folder as published?")

    def rows(self, name: str, columns: Iterable[str] = ()) -> Iterator[Row]:
        """Return the rows of a table below `raw`, none where the file is not there: for what a layout may lack."""
        return rows(self.raw / name, columns) if (self.raw / name).is_file() else iter(())


class Radiographs(Source):
    """A set of radiographs with labels or regions: images without a text are kept."""

    no_text = "keep"
    modality = RADIOGRAPH


def _normal(path: Path) -> Path:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and len(parts) > 1:
            parts.pop()
        elif part not in ("..", "."):
            parts.append(part)
    return Path(*parts)


def decode_text(data: bytes, encoding: str = "utf-8") -> str:
    """Return bytes as text; raises Reject naming the place where they are not in that encoding."""
    try:
        return data.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        raise Reject("text_encoding", f"not {encoding} at byte {error.start}: give --encoding") from None


def grouped(table: Iterable[Row], column: str) -> dict[str, list[Row]]:
    """Return the rows of a table by what they say in a column, such as those of one image."""
    found: dict[str, list[Row]] = {}
    for row in table:
        found.setdefault(str(row[column]), []).append(row)
    return found


sources: Registry[type[Source]] = Registry("source")
