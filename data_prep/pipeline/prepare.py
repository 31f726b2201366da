"""From a source's sample to one that is ready to be written: what happens to every image and text, whatever the source.

Runs in the workers, one sample at a time: image checked and encoded, boxes and masks brought along, the report cut into
sections and sentences, concepts found, ids hashed, modality, view, sex and age mapped to known values. Pure but for
reading the image; raises Reject and ImageError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vlp.core.config import config
from vlp.data.shards.sample_io import FieldError, check_sample
from vlp.modalities.volume.options import VolumeOptions
from vlp.modalities.volume.read import is_volume_file, read_volume
from vlp.modalities.volume.volume import Volume
from vlp.sample import Box, Report, Sample, Voxels

from ..images.modality_codes import age_of, modality_of, sex_of, view_of
from ..images.store import ImageOptions, Stored, store_image, store_mask
from ..images.volumes import StoredVolume, store_volume, store_volume_mask
from ..privacy.identifiers import IdHasher
from ..reports.markup import LONGEST_WORD, plain_text
from ..reports.sections import parse_report
from ..sources.base import NoText, Reject, safe_key

if TYPE_CHECKING:
    from ..reports.concepts import Extractor
    from ..reports.umls import LinkedTexts

CUT = "boxes cut at the edge"
LONG_WORD = f"report had a word of more than {LONGEST_WORD} characters, cut"


@config
class TextOptions:
    """What happens to texts."""

    clean: bool = False
    """Take numbering, de-identification marks and boilerplate out of reports."""
    concepts: str = "vocabulary"
    """Where mentions come from: vocabulary, none, or a JSON-lines file of scispaCy and UMLS in ConceptCLIP's layout."""
    vocabulary: Path | None = None
    """A vocabulary of your own instead of the package's."""
    no_text: NoText | None = None
    """Images without a text: reject, leave out (drop), keep, or keep in test only (default: the source's rule)."""


ConceptExtractor: TypeAlias = "Extractor | LinkedTexts"
"""Where the mentions of a report come from: set up once in the main process, pickled to the workers."""


def choose_extractor(text: TextOptions, language: str | None = None) -> ConceptExtractor | None:
    """Return what `--concepts` and `--vocabulary` ask for; raises ConfigError for a file that cannot be read.

    `language`: of all reports where the source states it, else each report's own is looked for.
    """
    if text.concepts == "none":
        return None
    if text.concepts != "vocabulary":
        from ..reports.umls import LinkedTexts

        return LinkedTexts(Path(text.concepts))
    from ..reports.concepts import Extractor
    from ..reports.vocabulary import Vocabulary

    return Extractor(Vocabulary.read(text.vocabulary) if text.vocabulary else None, language=language)


@dataclass(frozen=True)
class SampleProcessor:
    """The per-sample work of a build, set up once per worker."""

    image: ImageOptions
    text: TextOptions
    extractor: ConceptExtractor | None = None
    hasher: IdHasher | None = None
    volume: VolumeOptions = field(default_factory=VolumeOptions)

    def __call__(self, sample: Sample, split: str | None) -> Sample:
        """Return the sample as it is written; raises Reject."""
        report, steps = self._report(sample.report)
        captions = tuple(text for text, _ in map(plain_text, sample.captions) if text)
        if report is None and not captions:
            self._without_text(split)
        concepts = sample.concepts
        if report is not None and self.extractor is not None and not concepts:
            unread = self.extractor.unread(report)
            concepts = () if unread else self.extractor.of_report(report)
            steps += (unread,) if unread else ()
        image = self._read(sample)
        stored = (
            store_volume(image, self.image.max_voxels) if isinstance(image, Voxels) else store_image(image, self.image)
        )
        boxes = [_scaled(box, stored) for box in sample.boxes]
        if (boxes or sample.masks) and any(step.startswith("turned") for step in stored.steps):
            raise Reject("bad_box", "the image is turned by its EXIF orientation: turn the file, then mark it")
        cut = sum(is_cut for _, is_cut in boxes)
        ready = replace(
            sample,
            key=safe_key(sample.key),
            modality=modality_of(sample.modality or (image.modality if isinstance(image, Volume) else None)),
            view=view_of(sample.view),
            groups=_known(sample.groups),
            image=stored.data,
            report=report,
            captions=captions,
            concepts=concepts,
            boxes=tuple(box for box, _ in boxes),
            masks={name: self._mask(mask, name, stored) for name, mask in sorted(sample.masks.items())},
            volume=stored.info if isinstance(stored, StoredVolume) else None,
            split=split,
            steps=tuple(dict.fromkeys((*sample.steps, *steps, *stored.steps, *([f"{CUT}: {cut}"] if cut else [])))),
        )
        if self.hasher:
            ready = self.hasher.sample(ready)
        try:
            check_sample(ready)
        except FieldError as error:
            raise Reject("bad_value", str(error)) from None
        return ready

    def _read(self, sample: Sample) -> Any:
        """Return a sample's image, read where it is the path of a volume's file."""
        if not (isinstance(sample.image, Path) and is_volume_file(sample.image)):
            return sample.image
        modality = self.volume.modality or modality_of(sample.modality) or ""
        return read_volume(sample.image, self.image.max_voxels, replace(self.volume, modality=modality))

    @staticmethod
    def _mask(mask: bytes, name: str, stored: Stored) -> bytes:
        store = store_volume_mask if isinstance(stored, StoredVolume) else store_mask
        return store(mask, name, stored)

    def _without_text(self, split: str | None) -> None:
        policy = self.text.no_text
        if policy == "reject":
            raise Reject("no_text", "neither report nor caption (--no-text keep | test | drop)")
        if policy == "drop" or (policy == "test" and split != "test"):
            raise Reject("no_text", "image without a text, left out by --no-text", counted=False)

    def _report(self, report: Report | None) -> tuple[Report | None, tuple[str, ...]]:
        """Return the report as it is written, and what was done to its words that a reader should know."""
        if report is None or not report.text.strip():
            return None, ()
        if report.sections or report.sentences:
            return report, ()
        _, cut = plain_text(report.text)
        return parse_report(report.text, clean=self.text.clean), (LONG_WORD,) if cut else ()


def _known(groups: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of a sample with its sex and age as known values."""
    mapped = {name: known(groups[name]) for name, known in (("sex", sex_of), ("age", age_of)) if name in groups}
    return {name: value for name, value in {**groups, **mapped}.items() if value}


def _scaled(box: Box, stored: Stored) -> tuple[Box, bool]:
    """Return a box in pixels of the stored image, cut at its edges, and whether more than half a pixel was cut off.

    Raises Reject for a box with nothing inside.
    """
    sides, half = [float(side) for side in reversed(stored.shape)], len(stored.shape)
    if len(box.xyxy) != 2 * half:
        raise Reject("bad_box", f"{box.phrase!r} {box.xyxy}: expected {2 * half} numbers, low corner and high corner")
    wanted = [edge * scale for edge, scale in zip(box.xyxy, 2 * stored.scale[::-1], strict=True)]
    low = [max(0.0, edge) for edge in wanted[:half]]
    high = [min(side, edge) for side, edge in zip(sides, wanted[half:], strict=True)]
    if any(first >= last for first, last in zip(low, high, strict=True)):
        size = " x ".join(f"{side:.0f}" for side in sides)
        raise Reject("bad_box", f"{box.phrase!r} {box.xyxy} has no area inside the image of {size} stored pixels")
    is_cut = any(abs(edge - other) > 0.5 for edge, other in zip((*low, *high), wanted, strict=True))
    return replace(box, xyxy=tuple(round(edge, 2) for edge in (*low, *high))), is_cut
