"""A local stub of the Hub's HTTP interface: repositories are created, files uploaded, committed, listed and downloaded."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote

NAME = "lab/model"
API = f"/api/models/{NAME}"


class Hub:
    """What the stub holds: blobs that were uploaded, the files of the last commit, and faults to make.

    `faults`: by call, what goes wrong the next times: a status, or "drop" for a connection that ends in silence.
    `lose`, `spoil`: a file that a commit takes and then does not have, or has with other bytes.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.commits = 0
        self.calls: list[str] = []
        self.visibility = ""
        self.faults: dict[str, list[str]] = {}
        self.lose = self.spoil = ""
        self.url = ""

    @property
    def sha(self) -> str:
        return f"{self.commits:040x}"

    def commit(self, lines: list[dict[str, Any]]) -> None:
        files = dict(self.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
        self.files = {name: content for name, content in files.items() if name != self.lose}
        if self.spoil:
            self.files[self.spoil] = self.files[self.spoil][::-1]
        self.commits += 1

    def tree(self) -> list[dict[str, Any]]:
        return [entry(name, content) for name, content in self.files.items()]


def is_large(name: str) -> bool:
    return name.endswith(("safetensors", "onnx"))


def entry(name: str, content: bytes) -> dict[str, Any]:
    """Describe a file as the Hub does: git's hash, and for large ones the content's."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    found: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": blob}
    if is_large(name):
        found["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return found


class Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]

    def log_message(self, *arguments: Any) -> None:
        pass

    def answer(self, tree: Any, status: int = 200) -> None:
        self.send(json.dumps(tree).encode(), {"Content-Type": "application/json"}, status)

    def send(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_call(self) -> None:
        hub, path = self.hub, unquote(self.path.split("?")[0])
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = path.strip("/").split("/")
        name = next((one for one in ("blobs", "preupload", "commit") if one in parts), parts[-1])
        hub.calls.append(f"{self.command} {name}")
        faults = hub.faults.get(name)
        if faults:
            fault = faults.pop(0)
            if fault == "drop":
                self.connection.close()
            else:
                self.answer({"error": "stub"}, int(fault))
        elif path == "/api/repos/create":
            hub.visibility = json.loads(body).get("visibility", "")
            self.answer({"url": f"{hub.url}/{NAME}", "name": NAME, "id": NAME})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path.startswith(f"{API}/preupload/"):
            files = [one["path"] for one in json.loads(body)["files"]]
            modes = [
                {"path": one, "uploadMode": "lfs" if is_large(one) else "regular", "shouldIgnore": False}
                for one in files
            ]
            self.answer({"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    **{key: one[key] for key in ("oid", "size")},
                    "actions": {
                        "upload": {"href": f"{hub.url}/blobs/{one['oid']}"},
                        "verify": {"href": f"{hub.url}/verify"},
                    },
                }
                for one in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif path.startswith("/blobs/"):
            assert hashlib.sha256(body).hexdigest() == parts[-1]
            hub.blobs[parts[-1]] = body
            self.answer({})
        elif path == "/verify":
            self.answer({})
        elif path.startswith(f"{API}/commit/"):
            hub.commit([json.loads(line) for line in body.splitlines()])
            url = f"{hub.url}/{NAME}/commit/{hub.sha}"
            self.answer({"success": True, "commitOid": hub.sha, "commitUrl": url})
        elif path.startswith(f"{API}/tree/"):
            self.answer(hub.tree())
        elif path.startswith(f"/{NAME}/resolve/"):
            self.resolve("/".join(parts[4:]))
        elif path.startswith(API):
            self.answer({"id": NAME, "sha": hub.sha, "siblings": [{"rfilename": one} for one in hub.files]})
        else:
            self.answer({"error": f"no such call {path}"}, 404)

    def resolve(self, name: str) -> None:
        if name not in self.hub.files:
            self.send(b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.hub.sha}, 404)
            return
        found = entry(name, self.hub.files[name])
        tag = found["lfs"]["oid"] if "lfs" in found else found["oid"]
        self.send(self.hub.files[name], {"ETag": f'"{tag}"', "X-Repo-Commit": self.hub.sha})

    do_GET = do_HEAD = do_POST = do_PUT = handle_call


@contextmanager
def serve() -> Iterator[Hub]:
    """Serve a fresh stub on a free port for as long as the block lasts."""
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": made}))
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
