"""The chunks of a PNG file: what it is, and the file with nothing in it but pixels (ISO/IEC 15948)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from .errors import ImageError

START = b"\x89PNG\r\n\x1a\n"
GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
_SAMPLES = {GREY: 1, COLOUR: 3, PALETTE: 1, GREY_ALPHA: 2, COLOUR_ALPHA: 4}
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT")


@dataclass(slots=True)
class Layout:
    """What the header says, and the chunks by name in their order: where the content `[start, end)` of each lies."""

    width: int
    height: int
    depth: int
    kind: int
    interlaced: bool
    chunks: list[tuple[bytes, int, int]] = field(default_factory=list)
    end: int = 0

    def has(self, *names: bytes) -> bool:
        """Return whether there is a chunk of one of the names."""
        return any(name in names for name, _, _ in self.chunks)


def read_size(data: bytes) -> tuple[int, int]:
    """Return height and width; raises ImageError."""
    header = _header(data)
    return header.height, header.width


def read_layout(data: bytes) -> Layout:
    """Return the layout of a file up to its end; raises ImageError for one that is cut off."""
    layout, at = _header(data), len(START)
    while True:
        if at + 12 > len(data):
            raise ImageError(f"a truncated PNG ({len(data)} bytes, no end marker)", "image_truncated")
        name, start = data[at + 4 : at + 8], at + 8
        stop = start + int.from_bytes(data[at : at + 4], "big")
        if stop + 4 > len(data):
            raise ImageError(f"a truncated PNG ({len(data)} bytes)", "image_truncated")
        layout.chunks.append((name, start, stop))
        at = stop + 4
        if name == b"IEND":
            layout.end = at
            return layout


def _header(data: bytes) -> Layout:
    if len(data) < 33 or data[8:16] != b"\0\0\0\rIHDR":
        raise ImageError(f"a PNG without its header ({len(data)} bytes)")
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    return Layout(width, height, depth, kind, bool(interlaced))


def still(data: bytes, layout: Layout) -> bytes:
    """Return the file with its critical chunks alone: its first picture, whatever moves."""
    kept = [data[start - 8 : stop + 4] for name, start, stop in layout.chunks if name in _CRITICAL]
    return b"".join([START, *kept, _chunk(b"IEND", b"")])


def pixels_only(data: bytes, layout: Layout) -> bytes | None:
    """Return a file of 8-bit grey or RGB with only what its pixels need, None where only decoding it can give that.

    A palette, unused room in the compressed data and what follows it may hold anything.
    """
    if layout.depth != 8 or layout.kind not in (GREY, COLOUR) or layout.interlaced or layout.has(b"tRNS"):
        return None
    content = b"".join(data[start:stop] for name, start, stop in layout.chunks if name == b"IDAT")
    size = layout.height * (1 + layout.width * _SAMPLES[layout.kind])
    unpack = zlib.decompressobj()
    try:
        found = unpack.decompress(content, size + 1)
    except zlib.error:
        return None
    if len(found) != size or unpack.unused_data or unpack.unconsumed_tail or not unpack.eof:
        return None
    names = [name for name, _, _ in layout.chunks]
    empty_end = layout.chunks[-1][1] == layout.chunks[-1][2]
    if names == [b"IHDR", *[b"IDAT"] * (len(names) - 2), b"IEND"] and empty_end and layout.end == len(data):
        return data
    chunks = [data[start - 8 : stop + 4] for name, start, stop in layout.chunks if name in (b"IHDR", b"IDAT")]
    return b"".join([START, *chunks, _chunk(b"IEND", b"")])


def besides_pixels(data: bytes) -> list[str]:
    """Return the names of what a PNG file holds that is no pixels; raises ImageError for one that is cut off."""
    layout = read_layout(data)
    needed = (*_CRITICAL, b"IEND", b"tRNS")
    names = {f"{name.decode('latin-1')} chunk" for name, _, _ in layout.chunks if name not in needed}
    names |= {"palette that is not used"} if layout.has(b"PLTE") and layout.kind != PALETTE else set()
    names |= {"bytes behind the end"} if layout.end < len(data) else set()
    names |= {"bytes behind the end"} if layout.chunks[-1][2] > layout.chunks[-1][1] else set()
    if layout.depth == 8 and layout.kind in (GREY, COLOUR) and not layout.interlaced and not layout.has(b"tRNS"):
        names |= {"bytes in the compressed data"} if pixels_only(data, layout) is None else set()
    return sorted(name if name.isprintable() else "unknown chunk" for name in names)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
