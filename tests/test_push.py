"""Pushing against a local stub of the Hub's HTTP interface: all files arrive, and faults on the way leave nothing half."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from vlp.config import ConfigError


class Hub:
    """What the stub holds: blobs that were uploaded, the files of the last commit, and faults to make."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.faults: dict[str, list[str]] = {}
        self.lose: str | None = None
        self.url = ""

    def commit(self, lines: list[dict[str, Any]]) -> None:
        import base64

        files = dict(self.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
        self.files = {name: content for name, content in files.items() if name != self.lose}


class Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]

    def log_message(self, *arguments: Any) -> None:
        pass

    def answer(self, tree: Any, status: int = 200) -> None:
        body = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_call(self) -> None:
        hub, path = self.hub, self.path.split("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        name = (
            path.rsplit("/", 2)[-2] if "/preupload/" in path or "/commit/" in path else path.strip("/").split("/")[-1]
        )
        name = "blob" if path.startswith("/blobs/") else name
        hub.calls.append(f"{self.command} {name}")
        fault = (hub.faults.get(name) or [None]).pop(0) if hub.faults.get(name) else None
        if fault == "drop":
            self.connection.close()
            return
        if fault is not None:
            self.answer({"error": "stub"}, int(fault))
        elif path == "/api/repos/create":
            self.answer({"url": f"{hub.url}/lab/model", "name": "lab/model", "id": "lab/model"})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path.startswith("/api/models/lab/model/preupload/"):
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith("safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for one in files
            ]
            self.answer({"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    "oid": one["oid"],
                    "size": one["size"],
                    "actions": {
                        "upload": {"href": f"{hub.url}/blobs/{one['oid']}"},
                        "verify": {"href": f"{hub.url}/verify"},
                    },
                }
                for one in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif path.startswith("/blobs/"):
            assert hashlib.sha256(body).hexdigest() == path.split("/")[-1]
            hub.blobs[path.split("/")[-1]] = body
            self.answer({})
        elif path == "/verify":
            self.answer({})
        elif path.startswith("/api/models/lab/model/commit/"):
            hub.commit([json.loads(line) for line in body.splitlines()])
            self.answer({"success": True, "commitOid": "a" * 40, "commitUrl": f"{hub.url}/lab/model/commit/{'a' * 40}"})
        elif path.startswith("/api/models/lab/model/tree/"):
            entry = {"type": "file", "size": 1, "oid": "b" * 40}
            self.answer([{**entry, "path": one} for one in hub.files])
        elif path.startswith("/api/models/lab/model"):
            self.answer({"id": "lab/model", "sha": "a" * 40, "siblings": [{"rfilename": one} for one in hub.files]})
        else:
            self.answer({"error": f"no such call {path}"}, 404)

    do_GET = do_POST = do_PUT = handle_call


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": made}))
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in (("ENDPOINT", made.url), ("HF_HUB_DISABLE_XET", True), ("HF_HUB_OFFLINE", False)):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_stub")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", made.url)
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "tokenizer").mkdir(parents=True)
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n# x\n")
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights" * 1000)
    (tmp_path / "model" / "tokenizer" / "tokenizer.json").write_text("[]")
    return tmp_path / "model"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def push(folder: Path, instead: dict[str, bytes] | None = None) -> str:
    from vlp.export_push import push as real

    return real(folder, "lab/model", private=True, instead=instead, pause=0.0)


def test_all_files_arrive_in_one_commit(hub: Hub, folder: Path) -> None:
    assert "pushed 4 files to lab/model" in push(folder)
    assert hub.files == contents(folder)
    assert hub.calls.count("POST commit") == 1
    assert {"POST create", "POST preupload", "POST batch", "PUT blob", "POST commit"} <= set(hub.calls)


def test_files_that_name_their_place_are_replaced(hub: Hub, folder: Path) -> None:
    push(folder, {"config.json": b'{"at": "lab/model"}'})
    assert hub.files["config.json"] == b'{"at": "lab/model"}' and (folder / "config.json").read_text() == "{}"


@pytest.mark.parametrize("call", ["create", "preupload", "batch", "blob", "commit"])
@pytest.mark.parametrize("fault", ["500", "drop"])
def test_a_fault_on_the_way_is_tried_again(call: str, fault: str, hub: Hub, folder: Path) -> None:
    hub.faults[call] = [fault]
    push(folder)
    assert hub.files == contents(folder) and hub.calls.count("POST commit") <= 2


def test_a_hub_that_stays_down_leaves_nothing_behind(hub: Hub, folder: Path) -> None:
    hub.faults["commit"] = ["500"] * 50
    with pytest.raises(ConfigError, match="lab/model"):
        push(folder)
    assert hub.files == {}, "a push that failed must not look like a model"


def test_a_refusal_is_not_tried_again(hub: Hub, folder: Path) -> None:
    hub.faults["preupload"] = ["403"] * 9
    with pytest.raises(ConfigError, match="refused to take lab/model"):
        push(folder)
    assert hub.calls.count("POST preupload") == 1 and hub.files == {}


def test_a_file_that_got_lost_is_named(hub: Hub, folder: Path) -> None:
    hub.lose = "config.json"
    with pytest.raises(ConfigError, match=r"lacks config\.json: do not use it"):
        push(folder)
