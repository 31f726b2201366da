"""Shards on the Hub and in a bucket: their real clients against servers of this machine that speak their interface."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from fsspec.registry import _registry

from tests.data.shards.test_remote import Handler, Server, cache
from vlp.data.loader import DataConfig, Loader
from vlp.data.shards.manifest import Manifest, ManifestError
from vlp.data.shards.remote.cache import Cache
from vlp.data.shards.shard_set import ShardSet
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.text.tokenizers.base import Tokenizer

__all__ = ["cache"]

REPOSITORY, REVISION = "lab/reports", "0" * 40


class HubHandler(Handler):
    """What the Hub answers for one data set: that it is there, what is in it, and its files."""

    def answer(self, body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        api, files = f"/api/datasets/{REPOSITORY}", f"/datasets/{REPOSITORY}/resolve/"
        if path.startswith(f"{api}/tree/"):
            listed = [
                {"type": "file", "path": one.name, "size": one.stat().st_size, "oid": "0" * 40}
                for one in sorted(self.server.root.iterdir())
                if one.is_file()
            ]
            self.say(listed)
        elif path.startswith(api):
            self.say({"id": REPOSITORY, "sha": REVISION, "siblings": []})
        elif path.startswith(files):
            self.path = "/" + path.removeprefix(files).partition("/")[2]
            super().answer(body)
        else:
            self.send_error(404)

    def say(self, tree: object) -> None:
        body = json.dumps(tree).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class BucketHandler(Handler):
    """What S3 answers for objects of a bucket that is addressed by path."""

    def answer(self, body: bool) -> None:
        self.path = unquote(self.path.partition("?")[0]).removeprefix("/bucket/shards")
        super().answer(body)


def serve(root: Path, handler: type[Handler]) -> Iterator[Server]:
    one = Server(root)
    one.RequestHandlerClass = handler
    yield one
    one.shutdown()
    one.server_close()


@pytest.fixture
def hub(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for one in serve(toy, HubHandler):
        constants = "huggingface_hub.constants"  # what HF_ENDPOINT sets, read when the library is imported
        monkeypatch.setattr(f"{constants}.ENDPOINT", one.url)
        files = f"{one.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", files)
        yield one


@pytest.fixture
def bucket(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for one in serve(toy, BucketHandler):
        for name, value in {
            "AWS_ENDPOINT_URL": one.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        yield one


def check(url: str, server: Server, cache: Cache, toy: Path, preprocess: ImageProcessor, tokenizer: Tokenizer) -> None:
    """Samples and the whole stream equal the local ones, through dropped connections, and each shard is copied once."""
    here = ShardSet(Manifest.read(toy))
    server.drops = 2
    there = ShardSet(Manifest.read(url, cache), cache)
    assert there.manifest.digest == here.manifest.digest
    assert [there.sample(index) for index in (0, 33, 59)] == [here.sample(index) for index in (0, 33, 59)]
    assert server.drops == 0

    def keys(path: str) -> list[str]:
        config = DataConfig(train=path, batch_size=8, workers=0, window=2, cache=str(cache.folder))
        loader = iter(Loader(config, preprocess, tokenizer))
        return [key for _ in range(12) for key in next(loader).keys]

    assert keys(url) == keys(str(toy))
    before = len(server.requests)
    assert keys(url) == keys(str(toy))
    assert not [path for path, _, _ in server.requests[before:] if path.endswith(".tar")], "they are all here now"


def test_shards_on_the_hub(
    hub: Server, cache: Cache, toy: Path, preprocess: ImageProcessor, tokenizer: Tokenizer
) -> None:
    check(f"hf://datasets/{REPOSITORY}", hub, cache, toy, preprocess, tokenizer)


def test_a_data_set_that_the_hub_does_not_have(hub: Server, cache: Cache) -> None:
    with pytest.raises(ManifestError, match=r"cannot fetch hf://datasets/lab/other/manifest\.jsonl"):
        Manifest.read("hf://datasets/lab/other", cache)


def test_shards_in_a_bucket(
    bucket: Server, cache: Cache, toy: Path, preprocess: ImageProcessor, tokenizer: Tokenizer
) -> None:
    check("s3://bucket/shards", bucket, cache, toy, preprocess, tokenizer)


def test_a_bucket_without_its_client_names_the_package(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(ManifestError, match=r"cannot fetch s3://bucket/shards/manifest\.jsonl: Install s3fs"):
        Manifest.read("s3://bucket/shards", cache)


def test_a_scheme_that_nobody_knows(cache: Cache) -> None:
    with pytest.raises(ManifestError, match=r"cannot fetch nowhere://x/manifest\.jsonl.*nowhere"):
        Manifest.read("nowhere://x", cache)
