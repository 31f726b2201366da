"""Remote shards from a real HTTP server on this machine: one that drops connections, knows ranges or does not, or lies."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vlp.data.loader import DataConfig, Loader
from vlp.data.shards.manifest import Manifest, ManifestError
from vlp.data.shards.remote import cache as remote
from vlp.data.shards.remote.cache import Cache
from vlp.data.shards.shard_set import ShardSet
from vlp.data.shards.verify import verify
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.text.tokenizers.base import Tokenizer


class Server(ThreadingHTTPServer):
    """Serve a folder. `drops`: how many requests for shards are cut in the middle before one goes through."""

    daemon_threads = True
    root: Path
    ranges = True
    drops = 0
    flip = False

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.requests, self.lock = root, [], threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.server.root / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        if self.server.flip and path.suffix == ".tar":
            data = data[:1000] + b"?" + data[1001:]
        wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start, end = 0, len(data)
        if wanted and self.server.ranges:
            start, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1) + 1, len(data))
        part = data[start:end]
        self.send_response(206 if wanted and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(part)))
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        with self.server.lock:
            self.server.requests.append((self.path, start, end))
            drop = path.suffix == ".tar" and self.server.drops > 0
            self.server.drops -= drop
        self.wfile.write(part[: len(part) // 2] if drop else part)
        self.close_connection = self.close_connection or drop

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(toy: Path) -> Iterator[Server]:
    one = Server(toy)
    yield one
    one.shutdown()
    one.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setattr(remote, "PIECE", 6000)
    return Cache(tmp_path / "cache", pause=0.01)


def test_samples_over_http_equal_local_ones(server: Server, cache: Cache, toy: Path) -> None:
    there = ShardSet(Manifest.read(server.url, cache).select("train"), cache)
    here = ShardSet(Manifest.read(toy).select("train"))
    assert there.manifest.digest == here.manifest.digest
    assert [there.sample(index) for index in (0, 33, 59)] == [here.sample(index) for index in (0, 33, 59)]
    shards = [path for path, _, _ in server.requests if path.endswith(".tar")]
    assert len(set(shards)) == 3 and max(end - start for path, start, end in server.requests if path in shards) == 6000


def test_dropped_connections_are_taken_up_again(server: Server, cache: Cache, toy: Path) -> None:
    server.drops = 5
    there = ShardSet(Manifest.read(server.url, cache), cache)
    assert there.sample(3) == ShardSet(Manifest.read(toy)).sample(3)
    assert server.drops == 0
    whole = cache.path(f"{server.url}/train-000000.tar").read_bytes()
    assert whole == (toy / "train-000000.tar").read_bytes()


def test_a_server_without_ranges(server: Server, cache: Cache, toy: Path) -> None:
    server.ranges = False
    there = ShardSet(Manifest.read(server.url, cache), cache)
    assert there.sample(3) == ShardSet(Manifest.read(toy)).sample(3)


def test_what_never_works_ends_with_a_message(server: Server, cache: Cache) -> None:
    manifest = Manifest.read(server.url, cache)
    server.drops = 10_000
    with pytest.raises(OSError, match=r"cannot fetch http.*train-000000\.tar after 6 attempts"):
        ShardSet(manifest, cache).sample(0)
    server.drops, server.flip = 0, True
    with pytest.raises(OSError, match="sha256"):
        ShardSet(manifest, cache).sample(0)
    with pytest.raises(ManifestError, match="cannot fetch"):
        Manifest.read(f"{server.url}/nowhere", cache)
    assert not list(cache.folder.glob("*.tar"))


def test_a_shard_is_fetched_once_and_a_manifest_anew(server: Server, cache: Cache) -> None:
    for _ in range(2):
        ShardSet(Manifest.read(server.url, cache), cache).sample(0)
    firsts = [path for path, start, _ in server.requests if start == 0]
    assert firsts.count("/train-000000.tar") == 1 and firsts.count("/manifest.jsonl") == 2


def test_the_cache_is_bounded_and_drops_what_was_used_longest_ago(server: Server, cache: Cache, toy: Path) -> None:
    shards = ShardSet(Manifest.read(server.url, cache).select("train"), cache)
    size = shards.manifest.shards[0].bytes
    cache.limit = 3 * size + 4000
    for index in range(0, 60, 7):
        shards.sample(index)
        time.sleep(0.01)
    kept = sorted(path.name.partition("-")[2] for path in cache.folder.glob("*.tar"))
    assert len(kept) <= 3 and "train-000008.tar" in kept and "train-000000.tar" not in kept
    assert shards.sample(0).key == "s000000"  # its file is still open here


def test_verify_over_http(server: Server, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLP_CACHE", str(cache.folder))
    assert verify(server.url) == []


def test_training_over_http_equals_training_here(
    server: Server,
    cache: Cache,
    toy: Path,
    preprocess: ImageProcessor,
    tokenizer: Tokenizer,
    new_set: Callable[..., Path],
) -> None:
    def keys(path: str, workers: int) -> list[str]:
        config = DataConfig(train=path, batch_size=8, workers=workers, window=2, cache=str(cache.folder))
        loader = iter(Loader(config, preprocess, tokenizer))
        return [key for _ in range(12) for key in next(loader).keys]

    expected = keys(str(toy), 0)
    server.drops = 2
    assert keys(server.url, 2) == expected
    assert keys(f"{server.url}/manifest.jsonl", 0) == expected
    shards = [path for path, start, _ in server.requests if path.endswith(".tar") and start == 0]
    assert len(shards) - len(set(shards)) <= 2  # only what was dropped was asked for again
