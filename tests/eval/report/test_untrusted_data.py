"""The page and the terminal of unchecked data: bounded at 1,000 classes, no HTML and no escapes of the data's own."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.eval.conftest import Run
from vlp.core.errors import printable
from vlp_eval import results
from vlp_eval.drawing.wording import SIDE, ends, hidden

EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "\x1b[31mred\x1b]0;owned\x07",
    "[bold]x[/nope]",
    "a|b\nc",
]


class Tags(HTMLParser):
    """Collects the tags of a page, their handlers, and where they lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.leads: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.leads += [str(value) for name, value in attrs if name in ("src", "href")]


def table(folder: Path, names: list[str], rows: int) -> Path:
    """Write images of noise, each of one of the classes, with hostile patients, sites, keys and reports; and its suite."""
    import cv2

    rng = np.random.default_rng(0)
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "who", "text", "site", "key", *[f"c{at}" for at in range(len(names))]])
        for row in range(rows):
            cv2.imwrite(str(folder / f"{row}.png"), rng.integers(0, 255, (16, 16), dtype=np.uint8))
            labels = [int(at == row % len(names)) for at in range(len(names))]
            hostile = EVIL[row % len(EVIL)]
            site = "".join(letter for letter in hostile if letter.isprintable())  # a column of words holds no others
            text, key = f"report {row} {hostile}", f"{row}{hostile}"
            writer.writerow([f"{row}.png", f"p{row}", text, f"{site}{row % 50}", key, *labels])
    prompts = {
        "version": "1",
        "about": "x",
        "classes": {name: {"pos": [f"a {name}"], "neg": [f"no {name}"]} for name in names},
    }
    (folder / "p.yaml").write_text(json.dumps(prompts))
    columns = {"image": "file", "patient": "who", "report": "text", "key": "key", "groups": ["site"]}
    columns["labels"] = {name: f"c{at}" for at, name in enumerate(names)}
    common = {"data": {"table": "t.csv", "columns": columns}, "about": f"about {EVIL[0]}"}
    single = {
        "family": "classification",
        "classes": names,
        "prompts": ["p.yaml"],
        "subgroups": ["site"],
        "min_group": 2,
    }
    tasks = [
        common | single | {"id": "many", "kind": "multiclass", "scoring": {"rule": "softmax"}},
        common | single | {"id": "labels", "classes": names[:60]},
        common | {"id": "found", "family": "retrieval"},
    ]
    path = folder / "suite.yaml"
    path.write_text(json.dumps({"version": "1", "about": "x", "tasks": tasks}))
    return path


def run_it(run: Run, tiny: Path, folder: Path, suite: Path) -> str:
    words = ["--model", tiny, "--suite", suite, "--data", folder, "--out", folder / "out", "--resamples", 5]
    assert run("run", *words, "--show-text") == 0
    return (folder / "out" / "report.html").read_text()


def test_a_page_of_a_thousand_classes_is_small_and_says_what_it_leaves_out(
    run: Run, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = table(tmp_path, [f"class number {at}" for at in range(1000)], 500)
    text = run_it(run, tiny, tmp_path, suite)
    said = capsys.readouterr().out
    assert len(text) < 3_000_000
    assert text.count(hidden(1000)) == text.count(hidden(60)) == 1 and "results.json" in hidden(1000)
    assert (tmp_path / "out" / "figures" / "many.json").stat().st_size < 1_000_000
    assert len(said.splitlines()) < 300 and "and 980 more classes in results.json" in said
    assert run("report", tmp_path / "out", "--csv") == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert len({row[1] for row in rows if row[0] == "many" and row[2] == "auroc"}) == 1000
    tree = {one["id"]: one for one in results.read(tmp_path / "out")["tasks"]}
    known = {name: one["auroc"]["value"] for name, one in tree["many"]["per_class"].items()}
    known = {name: value for name, value in known.items() if value is not None}
    assert len(known) == 500 and min(known, key=known.__getitem__) in text and max(known, key=known.__getitem__) in text
    assert any("and 490 more: no positive; left out" in words for words in tree["many"]["warnings"])


def test_nothing_of_the_data_is_markup_or_a_command(
    run: Run, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = table(tmp_path, EVIL, 40)
    text = run_it(run, tiny, tmp_path, suite)
    page = Tags(text)
    assert "script" not in page.tags and not page.handlers
    assert all(one.startswith(("data:image/", "#")) for one in page.leads)
    assert "&lt;script&gt;" in text and "Content-Security-Policy" in text
    for verb in (
        ["run", "--suite", suite],
        ["compare"],
        ["report", "--md"],
        ["report", "--csv"],
        ["show"],
        ["check"],
        ["ls"],
    ):
        if verb[0] == "compare":
            assert run("compare", tmp_path / "out", tmp_path / "out", "--resamples", 20) == 0
        elif verb[0] == "report":
            assert run("report", tmp_path / "out", verb[1]) == 0
        elif verb[0] == "show":
            assert run("show", "labels", "--suite", suite, "--data", tmp_path) == 0
        elif verb[0] == "check":
            assert run("check", "labels", "--suite", suite, "--data", tmp_path) == 0
        elif verb[0] == "ls":
            assert run("ls", "--suite", suite) == 0
        said = capsys.readouterr()
        assert "\x1b" not in said.out + said.err and "\x07" not in said.out + said.err, verb
        if verb[-1] == "--md":
            assert "<script" not in said.out and "\\|" not in said.out.replace("a\\|b", "")
    assert run("show", EVIL[2], "--suite", suite) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_control_characters_are_written_out() -> None:
    assert printable("a\x1b[31mb\x9bc\u202ed\ud800\n\te") == "a\\x1b[31mb\\x9bc\\u202ed\\ud800\n\te"
    printable("\ud800").encode()  # a lone surrogate would end the command


def test_of_a_long_list_both_ends_are_shown() -> None:
    values = list(np.random.default_rng(0).permutation(100).tolist())
    assert ends(values, float) == sorted(values, reverse=True)[:SIDE] + sorted(values, reverse=True)[-SIDE:]
    assert ends(values[:40], float) == values[:40] and hidden(40) == ""
