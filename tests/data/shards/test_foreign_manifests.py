"""Manifests of others: which files and hosts they may lead to, and what they may claim."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.shards.test_remote import Handler, Server, cache, server
from vlp.data.shards.manifest import Manifest, ManifestError
from vlp.data.shards.remote.cache import Cache, locked
from vlp.data.shards.shard_set import ShardSet
from vlp.data.shards.verify import index_folder, verify
from vlp_prep.cli import main

__all__ = ["cache", "server"]


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None], line: int = 0) -> Path:
    """Change a line of a manifest."""
    path = folder / "manifest.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    change(lines[line])
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return folder


BAD_SHARDS = [
    "../train-000000.tar",
    "/etc/passwd",
    "a/../../train-000000.tar",
    "file:///etc/passwd",
    "local:///etc/passwd",
    "memory://x.tar",
    "reference://x.tar::data:x.json;base64,e30=",
    "simplecache::https://127.0.0.1/x.tar",
    "zip://x.tar::file:///etc/x.zip",
    "http://169.254.169.254/latest/x.tar",
    "https://user@127.0.0.1/x.tar",
    "ftp://127.0.0.1/x.tar",
    "data://x",
    "github://a:b@/x.tar",
    "s3://other/x.tar",
    "hf://datasets/a/b/x.tar",
    "https:///x.tar",
    "https://[::1/x.tar",
    "https://127.0.0.1:99999/x.tar",
    "https://a\\@b/x.tar",
    "pipe:cat /etc/passwd",
    "pipe:cat x://y",
    "train\u0000.tar",
    "",
    7,
    None,
    ["train-000000.tar"],
]


@pytest.mark.parametrize("name", BAD_SHARDS, ids=str)
def test_a_shard_is_a_file_of_its_folder_or_is_refused_unopened(
    name: object, new_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = rewrite(new_set(n=7), lambda line: line.update(shard=name))

    def no_network(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    assert main(["verify", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "manifest.jsonl:1" in said and "shard" in said and said.count("\n") == 1 and "root:" not in said


def test_a_link_among_the_shards_leads_only_to_the_shard_itself(new_set: Callable[..., Path], tmp_path: Path) -> None:
    folder, other = new_set(n=14), new_set(n=14, shard_size=14)
    shard = folder / "train-000001.tar"
    shutil.move(shard, tmp_path / "elsewhere.tar")
    shard.symlink_to(tmp_path / "elsewhere.tar")
    assert ShardSet(Manifest.read(folder)).sample(8).key == "s000008" and verify(folder) == []
    shard.unlink()
    shard.symlink_to(other / "train-000000.tar")
    with pytest.raises(OSError, match="link out of the folder"):
        ShardSet(Manifest.read(folder)).sample(8)
    assert "link out of the folder" in str(verify(folder)[0])
    (folder / "manifest.jsonl").unlink()
    with pytest.raises(ManifestError, match=r"link that leads out .*--follow-links"):
        index_folder(folder)
    shutil.copy(tmp_path / "elsewhere.tar", other / "elsewhere.tar")
    shard.unlink()
    shard.symlink_to(tmp_path / "elsewhere.tar")
    assert len(index_folder(folder, follow_links=True)) == 14


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["fifo", "directory", "device"])
@pytest.mark.parametrize("what", ["shard", "manifest"])
def test_a_shard_or_manifest_that_is_no_regular_file_is_an_error_at_once(
    kind: str, what: str, new_set: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = new_set(n=7)
    path = folder / ("train-000000.tar" if what == "shard" else "manifest.jsonl")
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    for words in (
        ["verify"],
        ["stats"],
        ["scan"],
        ["dedup", "--by", "text"],
        *([["index"]] if what == "shard" else []),
    ):
        code = main([*words[:1], str(folder), *words[1:]])
        said = "".join(capsys.readouterr()).lower()
        assert code in (1, 2) and (kind in said or "link" in said), said


CLAIMS: list[dict[str, Any]] = [
    {"samples": -1},
    {"samples": 2**62},
    {"samples": 1.0},
    {"samples": True},
    {"samples": "7"},
    {"samples": None},
    {"bytes": -1},
    {"bytes": 2**70},
    {"bytes": float("inf")},
    {"sha256": ""},
    {"sha256": "x" * 64},
    {"sha256": 5},
    {"split": 5},
    {"split": ["train"]},
    {"split": "\x1b[2J"},
    {"source": {"a": 1}},
    {"version": "x" * 5000},
    {"shard": "train-000000.tar", "split": "\ud800"},
]


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_what_a_header_claims_is_checked(claim: dict[str, Any], new_set: Callable[..., Path]) -> None:
    folder = rewrite(new_set(n=7), lambda line: line.update(claim))
    with pytest.raises(ManifestError, match=r"manifest\.jsonl:1") as caught:
        Manifest.read(folder)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


COLUMNS: list[tuple[str, object]] = [
    ("keys", 5),
    ("keys", ["a"] * 6),
    ("keys", ["a"] * 8),
    ("keys", [1] * 7),
    ("keys", ["\x1b[2Ja"] * 7),
    ("keys", ["a" * 3000] * 7),
    ("chars", [-1] * 7),
    ("chars", [2**40] * 7),
    ("chars", ["1"] * 7),
    ("crc32", [2**32] * 7),
    ("crc32", [1.5] * 7),
    ("members", []),
    ("members", {"png": [0, 0]}),
    ("members", {"png": [[0] * 7]}),
    ("members", {"png": [[0] * 7, [-1] * 7]}),
    ("members", {"png": [[0] * 7, [2**33] * 7]}),
    ("members", {"png": [[-2] * 7, [1] * 7]}),
    ("members", {"png": [[2**62] * 7, [1] * 7]}),
    ("members", {"png": [[0] * 7, [10**6] * 7]}),
    ("members", {"png": [[0.0] * 7, [1] * 7]}),
    ("members", {"png": [["0"] * 7, [1] * 7]}),
    ("members", {f"{number}.png": [0, 0] for number in range(100_000)}),
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("name", "value"), COLUMNS, ids=lambda one: str(one)[:30])
def test_what_the_columns_claim_is_checked_before_anything_is_allocated(
    name: str, value: object, new_set: Callable[..., Path]
) -> None:
    folder = rewrite(new_set(n=7), lambda line: line.update({name: value}))
    with pytest.raises(ManifestError, match=r"train-000000\.tar"):
        ShardSet(Manifest.read(folder)).sample(0)


# --- hosts


class Elsewhere(Handler):
    """Send every request to another host, or the shards only."""

    target = ""
    shards_only = False

    def answer(self, body: bool) -> None:
        if self.shards_only and not self.path.endswith(".tar"):
            super().answer(body)
            return
        self.send_response(302)
        self.send_header("Location", self.target + self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def redirecting(toy: Path, server: Server) -> Iterator[Server]:
    """A server that sends to `server`, which counts what it is asked for."""
    one = Server(toy)
    one.RequestHandlerClass = type("To", (Elsewhere,), {"target": server.url, "shards_only": True})
    yield one
    one.shutdown()
    one.server_close()


def test_a_redirection_to_another_host_is_not_followed_unless_it_was_named(
    redirecting: Server, server: Server, cache: Cache, toy: Path
) -> None:
    shards = ShardSet(Manifest.read(redirecting.url, cache), cache)
    with pytest.raises(OSError, match="on another host than the one that you named"):
        shards.sample(0)
    assert server.requests == []
    allowed = Cache(cache.folder, pause=0.01, hosts=[server.url])
    assert ShardSet(Manifest.read(redirecting.url, allowed), allowed).sample(0) == ShardSet(Manifest.read(toy)).sample(
        0
    )


@pytest.mark.parametrize("target", ["file:///etc", "ftp://127.0.0.1", "//127.0.0.2", "http://127.0.0.1:1"])
def test_a_redirection_to_a_file_or_another_protocol_is_not_followed(toy: Path, cache: Cache, target: str) -> None:
    one = Server(toy)
    one.RequestHandlerClass = type("To", (Elsewhere,), {"target": target})
    try:
        with pytest.raises(ManifestError, match=r"cannot fetch http.*(refused|not allowed)"):
            Manifest.read(one.url, cache)
    finally:
        one.shutdown()
        one.server_close()


def test_a_manifest_may_name_urls_of_its_own_host_and_of_those_that_the_user_names(
    server: Server, toy: Path, tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    shutil.copytree(toy, folder)
    rewrite(folder, lambda line: line.update(shard=f"{server.url}/train-000000.tar"))
    with pytest.raises(ManifestError, match=r"on another host.*VLP_HOSTS"):
        Manifest.read(folder)
    assert server.requests == []
    monkeypatch.setenv("VLP_HOSTS", f"https://example.org, {server.url}")
    mine = Cache(cache.folder, pause=0.01)
    assert ShardSet(Manifest.read(folder, mine), mine).sample(3) == ShardSet(Manifest.read(toy)).sample(3)
    monkeypatch.delenv("VLP_HOSTS")
    server.root = folder
    there = ShardSet(Manifest.read(server.url, cache), cache)  # the same host
    assert there.sample(3) == ShardSet(Manifest.read(toy)).sample(3)


class Endless(Handler):
    """Send a manifest that never ends, or a packed one."""

    packed = False

    def answer(self, body: bool) -> None:
        self.send_response(200)
        if self.packed:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for _ in range(100):
                self.wfile.write(b"x" * 100_000)
        except OSError:
            pass


@pytest.mark.parametrize("packed", [False, True])
def test_no_more_is_taken_from_a_server_than_is_allowed(
    packed: bool, toy: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlp.data.shards.remote.cache.MAX_MANIFEST", 1_000_000)
    one = Server(toy)
    one.RequestHandlerClass = type("Much", (Endless,), {"packed": packed})
    try:
        with pytest.raises(ManifestError, match="was not asked for" if packed else "more than the 1000000 bytes"):
            Manifest.read(one.url, cache)
    finally:
        one.shutdown()
        one.server_close()
    assert not list(cache.folder.glob("*.partial"))


# --- the cache


def test_corrected_shards_of_equal_size_replace_the_cached_ones(
    server: Server, cache: Cache, toy: Path, tmp_path: Path
) -> None:
    assert ShardSet(Manifest.read(server.url, cache), cache).sample(3).report is not None
    fixed = tmp_path / "fixed"
    shutil.copytree(toy, fixed)
    shard = fixed / "train-000000.tar"
    before = shard.stat().st_size
    shard.write_bytes(shard.read_bytes().replace(b"There is", b"There Is"))
    (fixed / "manifest.jsonl").unlink()
    index_folder(fixed, source="toy", version="1")
    assert shard.stat().st_size == before
    server.root = fixed
    sample = ShardSet(Manifest.read(server.url, cache), cache).sample(3)
    assert sample.report is not None and sample.report.text.startswith("There Is")


def test_a_cached_shard_that_was_changed_in_place_is_fetched_again(server: Server, cache: Cache, toy: Path) -> None:
    manifest = Manifest.read(server.url, cache)
    ShardSet(manifest, cache).sample(3)
    path = cache.path(f"{server.url}/train-000000.tar")
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    assert ShardSet(manifest, cache).sample(3) == ShardSet(Manifest.read(toy)).sample(3)
    asked = len(server.requests)
    for stamp in cache.folder.glob("*.sha256"):
        stamp.unlink()  # a cache of an older version: hashed, not fetched
    assert ShardSet(manifest, cache).sample(3).key == "s000003" and len(server.requests) == asked
    assert list(cache.folder.glob("*.sha256"))


def test_a_shard_that_claims_to_be_larger_than_the_cache_empties_nothing(
    server: Server, cache: Cache, toy: Path
) -> None:
    ShardSet(Manifest.read(server.url, cache), cache).sample(0)
    cache.limit = 10**9
    with pytest.raises(OSError, match="more than the 1000000000 of the cache"):
        cache.fetch(f"{server.url}/train-000001.tar", 10**12, "0" * 64)
    assert list(cache.folder.glob("*.tar"))


def test_a_cache_deletes_nothing_but_its_own(server: Server, cache: Cache) -> None:
    cache.folder.mkdir()
    (cache.folder / "thesis.tar").write_bytes(b"x" * 100_000)
    shards = ShardSet(Manifest.read(server.url, cache), cache)
    cache.limit = shards.manifest.shards[0].bytes + 10
    for index in (0, 8, 20):
        shards.sample(index)
    assert (cache.folder / "thesis.tar").exists()
    assert len([one for one in cache.folder.glob("*.tar") if one.name != "thesis.tar"]) == 1


def test_links_planted_where_we_write_are_not_followed(
    server: Server, cache: Cache, toy: Path, tmp_path: Path, new_set: Callable[..., Path]
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    cache.folder.mkdir()
    shard = cache.path(f"{server.url}/train-000000.tar")
    for ending in (".partial", ".sha256"):
        shard.with_name(shard.name + ending).symlink_to(victim)
    assert ShardSet(Manifest.read(server.url, cache), cache).sample(3).key == "s000003"
    lock = cache.folder / "planted.lock"
    lock.symlink_to(victim)
    with pytest.raises(OSError), locked(lock):
        pass
    folder = new_set(n=7)
    (folder / "manifest.jsonl").unlink()
    for name in (".manifest.jsonl.partial", "manifest.jsonl"):
        (folder / name).symlink_to(victim)
    index_folder(folder)
    assert victim.read_text() == "precious" and len(Manifest.read(folder)) == 7


def test_links_planted_where_shards_are_written_are_not_followed(tmp_path: Path) -> None:
    from tests.data.toys import write_set

    victim = tmp_path / "victim"
    victim.write_text("precious")
    out = tmp_path / "out"
    out.mkdir()
    for name in (".train-000000.tar.partial", "train-000000.tar", ".manifest.jsonl.partial"):
        (out / name).symlink_to(victim)
    write_set(out, n=7)
    assert victim.read_text() == "precious" and verify(out) == []
