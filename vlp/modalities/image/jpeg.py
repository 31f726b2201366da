"""The segments of a JPEG file: how it is turned, and the file with nothing in it but pixels.

ITU-T T.81 (the segments), its JFIF and Adobe application segments (which colours the components are), Exif and XMP (the
orientation). Pixels are decoded elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import ImageError

START = b"\xff\xd8"
SOS, EOI, DQT, DHT, DRI, COM, APP0, APP1, APP14 = 0xDA, 0xD9, 0xDB, 0xC4, 0xDD, 0xFE, 0xE0, 0xE1, 0xEE
FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""Start of frame: all kinds of T.81, and JPEG-LS."""
ARITHMETIC = 0xCC
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


@dataclass(frozen=True, slots=True)
class Segment:
    """A marker and what follows it: `content` [start, end) of the file; `scan_end` where the coded data of a scan ends."""

    marker: int
    start: int
    end: int
    scan_end: int


@dataclass(frozen=True, slots=True)
class Frame:
    """What a start of frame says: size, and the sampling factors (horizontal, vertical) of each component."""

    height: int
    width: int
    sampling: tuple[tuple[int, int], ...]

    @property
    def is_subsampled(self) -> bool:
        """Whether components differ in size, as only luma and chroma do."""
        return len(set(self.sampling)) > 1


def segments(data: bytes, scans: bool = True) -> Iterator[Segment]:
    """Yield the segments up to the end of the image, EOI last; a file that is cut off ends without one.

    Without `scans` the first scan is the last segment, and its coded data is not looked through.
    """
    at = len(START)
    while True:
        at = data.find(b"\xff", at)  # what stands between segments is nothing's
        while 0 <= at < len(data) - 1 and data[at + 1] == 0xFF:
            at += 1
        if at < 0 or at + 1 >= len(data):
            return
        marker = data[at + 1]
        if marker == EOI:
            yield Segment(marker, at + 2, at + 2, at + 2)
            return
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        start, end = at + 4, at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end < start or end > len(data):
            return
        at = end
        if marker == SOS and not scans:
            yield Segment(marker, start, end, end)
            return
        if marker == SOS:
            found = _END_OF_SCAN.search(data, end)
            at = found.start() if found else len(data)
        yield Segment(marker, start, end, at)


def frame(data: bytes) -> Frame | None:
    """Return what the first start of frame says, None where there is none."""
    for segment in segments(data, scans=False):
        content = data[segment.start : segment.end]
        if segment.marker in FRAMES and len(content) >= 6 + 3 * content[5]:
            sampling = tuple((content[7 + 3 * k] >> 4, content[7 + 3 * k] & 15) for k in range(content[5]))
            return Frame(int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big"), sampling)
    return None


def orientation(data: bytes) -> int:
    """Return how the image is turned, 1 to 8 as in Exif: the Exif segment's word, else that of XMP, else 1."""
    xmp = 1
    for segment in segments(data, scans=False):
        if segment.marker != APP1:
            continue
        content = data[segment.start : segment.end]
        if content.startswith(b"Exif\0\0"):
            found = exif_orientation(content)
            if found is not None:
                return found
        elif content.startswith(b"http://ns.adobe.com/xap/") and (match := _XMP_ORIENTATION.search(content)):
            xmp = int(match[1])
    return xmp


def exif_orientation(content: bytes) -> int | None:
    """Return the orientation that an Exif block states, None where it states none."""
    from PIL import Image

    exif = Image.Exif()
    try:
        exif.load(content)
        found = exif.get(0x0112)
    except Exception:  # Pillow raises many kinds on damaged blocks, which say nothing then
        return None
    return found if isinstance(found, int) and 1 <= found <= 8 else None


def pixels_only(data: bytes) -> bytes:
    """Return the file with only what its pixels need; raises ImageError for one that has no end or no frame.

    Comments, application segments but JFIF (written anew, without a thumbnail) and Adobe's, tables that no scan uses, and
    whatever stands behind the end are left out; bytes between segments are damage. What stands inside of a scan's coded
    data cannot be told from it: a strict decoder complains of it.
    """
    found = list(segments(data))
    if not found or found[-1].marker != EOI:
        raise ImageError(f"a truncated JPEG ({len(data)} bytes, no end marker)", "image_truncated")
    if _has_gaps(data, found):  # a lost marker: decoders read on, with pixels missing
        raise ImageError(f"a damaged JPEG ({len(data)} bytes, bytes between its segments)")
    quantisation, huffman = _used_tables(data, found)
    kept = [START]
    for segment in found:
        content = data[segment.start : segment.end]
        if segment.marker == APP0 and content[:5] == b"JFIF\0" and len(content) >= 14:
            kept.append(JFIF)
        elif segment.marker == APP14 and content[:5] == b"Adobe" and len(content) >= 12:
            kept.append(b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + content[11:12])
        elif segment.marker == DQT:
            kept.append(_tables(DQT, content, quantisation))
        elif segment.marker == DHT:
            kept.append(_tables(DHT, content, huffman))
        elif segment.marker in FRAMES or segment.marker in (SOS, DRI, ARITHMETIC):
            if len(content) != _length(segment.marker, content):
                raise ImageError("a JPEG segment of the wrong length")
            kept.append(data[segment.start - 4 : segment.scan_end])
        elif not (0xE0 <= segment.marker <= 0xEF or segment.marker in (COM, EOI)):
            raise ImageError(f"a JPEG segment that no decoder knows (0x{segment.marker:02x})")
    kept.append(b"\xff\xd9")
    return b"".join(kept)


def _length(marker: int, content: bytes) -> int:
    """Return how long the content of a frame, a scan or a restart interval has to be."""
    if marker == SOS:
        return 4 + 2 * content[0] if content else 6
    if marker in FRAMES:
        return 6 + 3 * content[5] if len(content) > 5 else 9
    return 2 if marker == DRI else len(content)


def _has_gaps(data: bytes, found: list[Segment]) -> bool:
    """Return whether anything but fill bytes stands between segments."""
    ends = [len(START), *(segment.scan_end for segment in found)]
    starts = (segment.start - (2 if segment.marker == EOI else 4) for segment in found)
    return any(data[end:start].strip(b"\xff") for end, start in zip(ends, starts, strict=False))


def besides_pixels(data: bytes) -> list[str]:
    """Return the names of what a JPEG file holds that is no pixels."""
    found = list(segments(data))
    names = ["bytes between segments"] if _has_gaps(data, found) else []
    for segment in found:
        content = data[segment.start : segment.end]
        if segment.marker == COM:
            names.append("comment")
        elif segment.marker == APP1 and content.startswith(b"Exif"):
            names.append("Exif")
        elif segment.marker == APP0 and content.startswith(b"JFIF\0"):
            names += ["thumbnail"] if len(content) > 14 else []
        elif 0xE0 <= segment.marker <= 0xEF and not (segment.marker == APP14 and len(content) <= 12):
            names.append(f"APP{segment.marker - 0xE0}")
    if found and found[-1].marker == EOI and found[-1].end < len(data):
        names.append("bytes behind the end")
    return sorted(set(names))


def _used_tables(data: bytes, found: list[Segment]) -> tuple[set[int], set[int]]:
    """Return the ids of the quantisation tables that the frame uses, and of the Huffman tables (class and id) of scans."""
    quantisation, huffman = set(), set()
    for segment in found:
        content = data[segment.start : segment.end]
        if not content:
            continue
        if segment.marker in FRAMES and len(content) >= 6:
            quantisation |= set(content[8::3])
        elif segment.marker == SOS:
            for pair in content[2 : 1 + 2 * content[0] : 2]:
                huffman |= {pair >> 4, 0x10 | (pair & 15)}
    return quantisation, huffman


def _tables(marker: int, content: bytes, used: set[int]) -> bytes:
    """Return a segment of the quantisation or Huffman tables that are used, b"" where none is; raises ImageError."""
    kept, at = b"", 0
    while at < len(content):
        if marker == DQT:
            number, end = content[at] & 15, at + 1 + (128 if content[at] >> 4 else 64)
        else:
            number, end = content[at], at + 17 + sum(content[at + 1 : at + 17])
        if end > len(content):
            raise ImageError(f"a JPEG {'quantisation' if marker == DQT else 'Huffman'} table that is cut off")
        kept += content[at:end] if number in used else b""
        at = end
    return bytes([0xFF, marker]) + (len(kept) + 2).to_bytes(2, "big") + kept if kept else b""
