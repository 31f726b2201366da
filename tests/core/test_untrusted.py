"""Names, files and JSON of others: what leads out of a folder, waits for ever or fills the memory is refused at once."""

from __future__ import annotations

import gzip
import os
import socket
from pathlib import Path

import pytest

from vlp.core.untrusted import (
    RefusedError,
    inside,
    is_relative_name,
    open_gzip,
    open_regular,
    parse_json,
    read_regular,
    read_text,
    replacing,
)

CLIMBING = ["", ".", "..", "../x", "a/../x", "a/..", "~/../x", "%2e%2e/../x", "a//b", "./x", "a\\b", "..\\x"]
ABSOLUTE = ["/etc/passwd", "//host/x", "C:/x", "C:x", "file:///etc/passwd", "http://host/x", "memory://x", "a::b"]
UNPRINTABLE = ["a\0b", "a\nb", "\x1b[2J", "\udc80", "x" * 2000]
BAD_NAMES = [*CLIMBING, *ABSOLUTE, *UNPRINTABLE, "reference://x::data:,"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        inside(tmp_path, name)
    said = str(caught.value)
    assert said.isprintable() and len(said) < 400


@pytest.mark.parametrize("name", ["x.tar", "a/b/c.tar", "Übung/x y.png", "~x", "a..b", "...", "a%2e/b"])
def test_an_ordinary_name_is_a_path_below_the_folder(name: str, tmp_path: Path) -> None:
    assert is_relative_name(name) and inside(tmp_path, name) == tmp_path / name


def test_a_link_is_followed_inside_of_its_folder_and_to_the_blobs_of_a_hub_cache(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "real").write_text("y")
    (folder / "near").symlink_to("real")
    (folder / "out").symlink_to("../secret")
    (folder / "up").symlink_to("..")
    assert inside(folder, "near").read_text() == "y"
    for name in ("out", "up/secret"):
        with pytest.raises(RefusedError, match="link that leads out"):
            inside(folder, name)
        assert inside(folder, name, follow_links=True).read_text() == "x"
    cache = tmp_path / "datasets--lab--set"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "abc").mkdir(parents=True)
    (cache / "blobs" / "123").write_text("z")
    (cache / "snapshots" / "abc" / "x.tar").symlink_to("../../blobs/123")
    assert inside(cache / "snapshots" / "abc", "x.tar").read_text() == "z"


def odd_files(folder: Path) -> dict[str, Path]:
    os.mkfifo(folder / "fifo")
    (folder / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
    return {name: folder / name for name in ("fifo", "directory", "socket")} | {"device": Path("/dev/zero")}


@pytest.mark.timeout(10)
def test_only_regular_files_are_opened_and_none_makes_us_wait(tmp_path: Path) -> None:
    for kind, path in odd_files(tmp_path).items():
        for read in (open_regular, read_regular, read_text, open_gzip):
            with pytest.raises(OSError) as caught:
                read(path)
            assert kind.upper() in (caught.value.strerror or "").upper() and "regular file" in str(caught.value)


def test_a_file_of_any_size_is_read_up_to_a_limit_only(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="more than 1000 bytes"):
        read_regular(tmp_path / "sparse", 1000)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(10_000_000)))
    with open_gzip(tmp_path / "bomb.gz", 10_000_000) as file:
        assert sum(len(part) for part in iter(lambda: file.read(100_000), b"")) == 10_000_000
    with open_gzip(tmp_path / "bomb.gz", 9_999_999) as file, pytest.raises(OSError, match="9999999 bytes unpacked"):
        file.read()


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b'{"a":' * 1000, b'"\\ud800"', b"NaN", b"\xff\xfe[\x00]\x00", b"[1] x", b"", b"9" * 5000, b"\x80"],
)
def test_json_that_would_hurt_later_does_not_parse(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(data)


def test_json_is_what_python_makes_of_it() -> None:
    import json

    data = b'\xef\xbb\xbf{"a": [1, 2.5, -0.0, 1e300, true, null, "\\u00fc\\ud83d\\ude00"], "n": 123456789012345678901}'
    assert parse_json(data) == json.loads(data.decode("utf-8-sig"))


def test_a_file_is_replaced_whole_and_no_link_is_followed(tmp_path: Path) -> None:
    victim, target = tmp_path / "victim", tmp_path / "set" / "manifest.jsonl"
    target.parent.mkdir()
    victim.write_text("precious")
    target.symlink_to(victim)
    (target.parent / ".manifest.jsonl.partial").symlink_to(victim)
    with replacing(target) as file:
        file.write(b"new")
    assert (target.read_text(), victim.read_text(), target.is_symlink()) == ("new", "precious", False)

    def fail_half_way() -> None:
        with replacing(target) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert target.read_text() == "new"
    assert sorted(one.name for one in target.parent.iterdir()) == [".manifest.jsonl.partial", "manifest.jsonl"]
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask
