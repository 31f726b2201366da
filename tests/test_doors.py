"""Whatever comes in at a door becomes a result or an error in words: manifests, recipes, tars, records, tables, prompts.

Each file is a sound one in which hypothesis changes values, cuts, doubles and flips bytes; the functions are those that
the commands call. Anything but ConfigError (and what a function says that it raises) fails, as does a second of waiting.
"""

from __future__ import annotations

import copy
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests import ROOT
from vlp.core.config import ConfigError, compose, validate
from vlp.core.untrusted import parse_json
from vlp.data.shards.manifest import Manifest
from vlp.data.shards.sample_io import SampleError, check_sample, decode_sample
from vlp.data.shards.shard_set import ShardSet
from vlp.data.shards.tar_index import FORMAT
from vlp.data.shards.verify import index_folder
from vlp.train.recipe import Recipe
from vlp_prep.cli import main

pytestmark = pytest.mark.slow

FUZZ = settings(max_examples=400, deadline=5000, suppress_health_check=list(HealthCheck), derandomize=True)
FEW = settings(FUZZ, max_examples=80)

ODD: list[Any] = [
    *(None, True, -1, 0, 1, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "\0",
        "\x1b[2J",
        "\ud800",
        "..",
        "../x",
        "/etc/passwd",
        "a::b",
        "file:///etc/passwd",
        "http://127.0.0.1:9/",
    ),
    *("nan", "None", "x" * 3000, [], {}, [[]], [{}], {"": None}, [None], ["a", 1], {"a": {"b": [1]}}),
]
values = st.one_of(
    st.sampled_from(ODD),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=8,
    ),
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of each value in a tree."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for name, child in children for place in places(child, (*path, name)))]


@st.composite
def changed(draw: Callable[..., Any], tree: Any) -> Any:
    """Return the tree with one to three of its values replaced, taken out, doubled or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from([one for one in places(tree) if one] or [("x",)]))
        owner = tree
        for name in path:
            owner = owner[name]
        how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename"]))
        if how == "remove" and last in (owner if isinstance(owner, dict) else range(len(owner))):
            del owner[last]
        elif how == "rename" and isinstance(owner, dict):
            owner[draw(st.sampled_from(["", "x", "kind", "inherits", "\ud800", "../x"]))] = owner.pop(last, None)
        else:
            owner[last] = copy.deepcopy(draw(values))
    return tree


@st.composite
def damaged(draw: Callable[..., Any], data: bytes) -> bytes:
    """Return bytes with some flipped, overwritten, cut out, doubled or put in."""
    content = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        size = draw(st.sampled_from([1, 1, 2, 8, 12, 512, 3000]))
        how = draw(st.sampled_from(["flip", "write", "cut", "double", "insert", "end"]))
        if how == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "write":
            content[at : at + size] = draw(st.sampled_from([b"\xff", b"\0", b"7", b"\x80", b"[", b'"', b"\n"])) * size
        elif how == "cut":
            del content[at : at + size]
        elif how == "double":
            content[at:at] = content[at : at + size]
        elif how == "insert":
            content[at:at] = draw(st.binary(max_size=20))
        else:
            del content[at:]
    return bytes(content)


def dumps(tree: Any) -> str:
    return json.dumps(tree, ensure_ascii=True)


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (6, 5)).save(buffer, "PNG")
    return buffer.getvalue()


def members(count: int) -> list[tuple[str, bytes]]:
    found = []
    for number in range(count):
        record = {"caption": f"Film {number}.", "labels": {"edema": 1}, "patient": f"p{number}"}
        found += [(f"d/k{number}.png", picture()), (f"d/k{number}.json", dumps(record).encode())]
        found += [(f"d/k{number}.txt", b"A text."), (f"d/k{number}.lung.mask.png", picture())]
    return found


def write_tar(path: Path, form: int = tarfile.PAX_FORMAT, long: str = "") -> bytes:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members(3):
            info = tarfile.TarInfo(long + name)
            info.size, info.pax_headers = len(data), {"comment": "x", "size": str(len(data))}
            tar.addfile(info, io.BytesIO(data))
    return path.read_bytes()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one sound shard and its manifest."""
    folder = tmp_path_factory.mktemp("doors")
    write_tar(folder / "train-0.tar")
    index_folder(folder)
    return folder


def said(error: Exception) -> str:
    """Return a message, which must be one and hold no line end."""
    text = str(error)
    assert text and "\n" not in text and len(text) < 20_000
    return text


def use(folder: Path) -> None:
    shards = ShardSet(Manifest.read(folder))
    for index in range(min(len(shards), 5)):
        try:
            check_sample(shards.sample(index))
        except (SampleError, OSError):
            continue


@FUZZ
@given(data=st.data())
def test_a_manifest_with_other_values(room: Path, data: Any) -> None:
    line = json.loads((room / "manifest.jsonl").read_bytes())
    folder = room / "fuzzed"
    folder.mkdir(exist_ok=True)
    if not (folder / "train-0.tar").exists():
        (folder / "train-0.tar").write_bytes((room / "train-0.tar").read_bytes())
    (folder / "manifest.jsonl").write_text(dumps(data.draw(changed(line))) + "\n")
    try:
        use(folder)
    except ConfigError as error:
        said(error)


@FUZZ
@given(data=st.data())
def test_a_manifest_with_damaged_bytes(room: Path, data: Any) -> None:
    folder = room / "damaged"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.jsonl").write_bytes(data.draw(damaged((room / "manifest.jsonl").read_bytes())))
    try:
        use(folder)
    except ConfigError as error:
        said(error)


@FUZZ
@given(data=st.data())
def test_a_tar_with_damaged_headers(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("tar")
    form = data.draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    content = write_tar(folder / "x.tar", form, "" if form == tarfile.USTAR_FORMAT else "ü" * 120 + "/")
    (folder / "x.tar").write_bytes(repaired(data.draw(damaged(content))) if data.draw(st.booleans()) else content[::-1])
    try:
        index_folder(folder)
        use(folder)
    except ConfigError as error:
        said(error)


def repaired(content: bytes) -> bytes:
    """Return a tar whose headers have right checksums, so that what they say is believed."""
    data = bytearray(content)
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


RECORD = {
    "key": "k",
    "format": FORMAT,
    "report": {"text": "No effusion.", "sentences": [[0, 12]], "sections": {"a": [0, 3]}},
    "captions": ["a"],
    "labels": {"edema": 1},
    "patient": "p",
    "study": "s",
    "view": "PA",
    "groups": {"sex": "F"},
    "concepts": [{"text": "effusion", "code": "effusion", "start": 3, "end": 11, "assertion": "absent"}],
    "boxes": [{"phrase": "a", "xyxy": [0, 0, 1, 1]}],
    "steps": ["cut"],
    "split": "train",
    "masks": ["a"],
}


@FUZZ
@given(data=st.data(), ours=st.booleans())
def test_a_record_with_other_values(data: Any, ours: bool) -> None:
    record = RECORD if ours else {name: value for name, value in RECORD.items() if name != "format"}
    text = data.draw(st.one_of(changed(record).map(dumps).map(str.encode), damaged(dumps(record).encode())))
    others = {"txt": data.draw(st.binary(max_size=20))} if data.draw(st.booleans()) else {}
    try:
        check_sample(decode_sample("k", {"png": picture(), "json": text, **others}, "x.tar"))
    except SampleError as error:
        said(error)


@FUZZ
@given(data=st.data())
def test_a_recipe_with_other_values(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    import yaml

    base = ROOT / "recipes"
    tree = compose(base / "clip.yaml", ["data.train=shards"])
    path = tmp_path_factory.mktemp("recipe") / "x.yaml"
    text = yaml.safe_dump(data.draw(changed(tree)), allow_unicode=False)
    path.write_bytes(data.draw(st.one_of(st.just(text.encode()), damaged(text.encode()))))
    try:
        validate(Recipe, compose(path))
    except ConfigError as error:
        said(error)


@FUZZ
@given(st.text(alphabet=st.sampled_from("ab&*:-[]{},#!|>'\"%@`?=<~ \n\t.0123456789eE+\0\ud7ff\x85")))
def test_yaml_of_any_characters(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        compose(path)
    except ConfigError as error:
        said(error)


@FUZZ
@given(
    st.one_of(damaged(dumps(RECORD).encode()), st.binary(), st.text().map(lambda text: text.encode("utf-8", "replace")))
)
def test_json_is_parsed_as_python_does_or_refused(data: bytes) -> None:
    try:
        found = parse_json(data)
    except ValueError:
        return
    assert dumps(found) == dumps(json.loads(data.decode("utf-8-sig")))


@FEW
@given(data=st.data(), form=st.sampled_from(["csv", "jsonl", "json"]))
def test_a_table_with_other_values(tmp_path_factory: pytest.TempPathFactory, data: Any, form: str) -> None:
    raw = tmp_path_factory.mktemp("table")
    (raw / "a.png").write_bytes(picture())
    rows = [
        {"key": f"k{number}", "image": "a.png", "report": "Clear lungs.", "patient": f"p{number}", "split": "train"}
        | {"labels": "edema", "boxes": '[{"phrase": "a", "xyxy": [0, 0, 1, 1]}]'}
        for number in range(3)
    ]
    if form == "csv":
        content = "\n".join([",".join(rows[0]), *(",".join(f'"{v}"' for v in row.values()) for row in rows)]).encode()
    elif form == "jsonl":
        content = "".join(dumps(data.draw(changed(row))) + "\n" for row in rows).encode()
    else:
        content = dumps(data.draw(changed(rows))).encode()
    (raw / f"pairs.{form}").write_bytes(data.draw(st.one_of(damaged(content), st.just(content))))
    out = raw.parent / f"{raw.name}-out"
    words = ["--raw", str(raw), "--out", str(out), "--workers", "0", "--max-rejected", "1", "--concepts", "none"]
    assert main(["build", "pairs", *words]) in (0, 2)
    if (out / "manifest.jsonl").exists() and (out / "manifest.jsonl").stat().st_size:  # else all rows were rejected
        use(out)


@FEW
@given(data=st.data())
def test_a_prompt_file_with_other_values(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    import yaml

    from vlp_eval.zero_shot import prompts

    path = tmp_path_factory.mktemp("prompts") / "mine.yaml"
    tree = yaml.safe_load((prompts.FOLDER / "chest-pair.yaml").read_text())
    text = yaml.safe_dump(data.draw(changed(tree)), allow_unicode=False).encode()
    path.write_bytes(data.draw(st.one_of(st.just(text), damaged(text))))
    try:
        prompts.read(str(path), list(tree.get("classes") or tree["names"])[:3], path.parent)
    except ConfigError as error:
        said(error)
