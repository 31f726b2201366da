"""Pushing against a local stub of the Hub's HTTP interface: all files arrive, and faults on the way leave nothing half."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.export.hub_stub import Hub, serve
from vlp.core.config import ConfigError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    with serve() as made:
        for name, value in (("ENDPOINT", made.url), ("HF_HUB_DISABLE_XET", True), ("HF_HUB_OFFLINE", False)):
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", "hf_stub")
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # its pauses grow to 8 s
        yield made


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
    from vlp.export.push import push as real

    return real(folder, "lab/model", private=True, instead=instead, pause=0.0)


def test_all_files_arrive_in_one_commit(hub: Hub, folder: Path) -> None:
    assert "pushed 4 files to lab/model" in push(folder)
    assert hub.files == contents(folder) and hub.visibility == "private"
    assert hub.calls.count("POST commit") == 1
    assert {"POST create", "POST preupload", "POST batch", "PUT blobs", "POST commit"} <= set(hub.calls)


def test_files_that_name_their_place_are_replaced(hub: Hub, folder: Path) -> None:
    push(folder, {"config.json": b'{"at": "lab/model"}'})
    assert hub.files["config.json"] == b'{"at": "lab/model"}' and (folder / "config.json").read_text() == "{}"


@pytest.mark.parametrize("call", ["create", "preupload", "batch", "blobs", "commit"])
@pytest.mark.parametrize("fault", ["500", "drop"])
def test_a_fault_on_the_way_is_tried_again(call: str, fault: str, hub: Hub, folder: Path) -> None:
    hub.faults[call] = [fault]
    push(folder)
    assert hub.files == contents(folder) and hub.calls.count("POST commit") <= 2


@pytest.mark.parametrize(
    ("call", "fault"),
    [("preupload", "500"), ("batch", "drop"), ("blobs", "500"), ("blobs", "drop"), ("commit", "drop")],
)
def test_a_hub_that_stays_down_leaves_what_was_there(call: str, fault: str, hub: Hub, folder: Path) -> None:
    push(folder)
    before = dict(hub.files)
    (folder / "model.safetensors").write_bytes(b"newer weights" * 1000)
    (folder / "config.json").write_text('{"newer": true}')
    hub.faults[call] = [fault] * 60
    with pytest.raises(ConfigError, match="lab/model"):
        push(folder)
    assert hub.files == before and hub.commits == 1, "a push that failed must not mix two models"
    hub.faults.clear()
    push(folder)
    assert hub.files == contents(folder)


def test_a_first_push_that_fails_leaves_no_file(hub: Hub, folder: Path) -> None:
    hub.faults["commit"] = ["500"] * 60
    with pytest.raises(ConfigError, match="the Hub refused to take lab/model"):
        push(folder)
    assert hub.files == {}, "a push that failed must not look like a model"


def test_a_refusal_is_not_tried_again(hub: Hub, folder: Path) -> None:
    hub.faults["preupload"] = ["403"] * 9
    with pytest.raises(ConfigError, match="refused to take lab/model"):
        push(folder)
    assert hub.calls.count("POST preupload") == 1 and hub.files == {}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_got_lost_or_spoilt_is_named(name: str, hub: Hub, folder: Path) -> None:
    hub.spoil = name
    with pytest.raises(ConfigError, match=rf"other bytes in {name}: do not use it"):
        push(folder)
    hub.spoil, hub.lose = "", name
    with pytest.raises(ConfigError, match=rf"lacks {name}: do not use it"):
        push(folder)
