"""The page: it stands alone, holds what it should, hides real text, and looks right in a real browser at two widths."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.eval.conftest import Run
from vlp_eval.drawing.cards import Row

BROWSER = next((one for one in ("chromium", "chromium-browser", "google-chrome") if shutil.which(one)), None)


@pytest.fixture(scope="module")
def page(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from vlp_eval.cli import main

    out = tmp_path_factory.mktemp("report") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLP_TEST_SHARDS", str(shards))
        words = [
            "run",
            "--model",
            "tests.eval.factories:noisy",
            "--suite",
            "smoke",
            "--data",
            shards,
            "--out",
            out,
            "--resamples",
            "100",
        ]
        assert main([str(one) for one in words]) == 0
    return out / "report.html"


def test_the_page_stands_alone(page: Path) -> None:
    text = page.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "<script" not in text and "@import" not in text and "url(" not in text
    assert text.count("data:image/") > 20
    assert page.stat().st_size < 5_000_000


def test_the_page_shows_scores_with_intervals_and_every_section(page: Path) -> None:
    text = page.read_text()
    for words in (
        "Example queries with their top 5 results",
        "ROC curves",
        "Example maps",
        "Subgroups",
        "Provenance",
    ):
        assert words in text
    assert "Pointing game, difference from the shuffled image" in text
    assert "text alone (mean of other patients, no image)" in text and "FINDINGS" in text.upper()


def test_the_headline_shows_controls_and_explains_its_marks(page: Path) -> None:
    """A pointing score beside what the text alone scores; which images they are is not said to be held out."""
    text = html.unescape(page.read_text())
    metrics = json.loads((page.parent / "results.json").read_text())["tasks"][2]["metrics"]
    head = text[text.index('class="grid heads"') : text.index("Sample images")]
    assert f"location prior {metrics['pointing_prior']['value']:.3f}" in head
    assert (" ?" in head) == ("An interval followed by ? is unreliable" in head)
    assert "Held-out images" not in text


@pytest.mark.usefixtures("planted")
def test_the_page_says_which_intervals_are_of_fewer_resamples(shards: Path, tmp_path: Path, run: Run) -> None:
    task = {"id": "kinds", "family": "classification", "kind": "multiclass", "prompts": ["synthetic"]}
    task |= {"classes": ["consolidation", "nodule"], "scoring": {"rule": "softmax"}}
    (tmp_path / "suite.yaml").write_text(json.dumps({"version": "1", "about": "x", "tasks": [task]}))
    words = ["--model", "tests.eval.factories:noisy", "--suite", tmp_path / "suite.yaml", "--data", shards]
    assert run("run", *words, "--out", tmp_path / "out", "--resamples", 320) == 0
    fewer = "300 for Balanced accuracy; Macro F1; Cohen's kappa; Matthews correlation"
    text = html.unescape((tmp_path / "out" / "report.html").read_text())
    assert f"320 resamples of patients, {fewer}, seed 0" in text


def test_curves_run_inside_of_their_bands(page: Path) -> None:
    """ROC and PR of each class: the band is one, and holds the curve nearly everywhere (it is of resamples, not around it)."""
    import json

    figures = json.loads((page.parent / "figures" / "smoke.classification.json").read_text())
    assert len(figures["curves"]) == 8
    for one in figures["curves"]:
        low, high, curve = (np.array(one[name]) for name in ("low", "high", "tpr"))
        assert (low <= high).all() and ((low - 1e-9 <= curve) & (curve <= high + 1e-9)).mean() > 0.85
        low, high = np.array(one["pr_low"]), np.array(one["pr_high"])
        assert (low <= high).all() and low.min() >= 0 and high.max() <= 1
        recall, precision = np.array(one["recall"]), np.array(one["precision"])
        at = np.rint(recall * 50).astype(int)
        assert ((low[at] - 0.1 <= precision) & (precision <= high[at] + 0.1)).mean() > 0.85
    assert page.read_text().count('class="band"') == 16


def test_the_text_of_real_data_is_not_shown(page: Path, shards: Path, tmp_path: Path, run: Run) -> None:
    import json

    from vlp.data.shards.manifest import Manifest
    from vlp.data.shards.shard_set import ShardSet

    source = ShardSet(Manifest.read(shards).select("test"))
    lines = ["file,who,text"]
    for index in range(12):
        sample = source.sample(index)
        assert isinstance(sample.image, bytes)
        (tmp_path / f"{index}.png").write_bytes(sample.image)
        lines.append(f"{index}.png,patient-{index},secret sentence {index}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    columns = {"image": "file", "patient": "who", "report": "text"}
    task = {"id": "mine", "family": "retrieval", "data": {"table": "table.csv", "columns": columns}}
    (tmp_path / "suite.yaml").write_text(json.dumps({"version": "1", "about": "x", "tasks": [task]}))
    from tests.eval.planted import Planted, direction

    class Free(Planted):
        def _text(self, text: str) -> np.ndarray:
            return direction(text, 72)

    from tests.eval import factories

    factories.free = lambda: Free(shards)  # type: ignore[attr-defined]
    words = ["--model", "tests.eval.factories:free", "--suite", tmp_path / "suite.yaml", "--data", tmp_path]
    assert run("run", *words, "--out", tmp_path / "hidden", "--resamples", 50) == 0
    assert run("run", *words, "--out", tmp_path / "shown", "--resamples", 50, "--show-text") == 0
    for name, there in (("hidden", False), ("shown", True)):
        everything = "".join(one.read_text() for one in (tmp_path / name).rglob("*") if one.is_file())
        assert ("secret sentence" in everything) is there
        assert "patient-3" not in everything


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome here")
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_desktop_and_a_phone(page: Path, tmp_path: Path, dark: bool) -> None:
    import cv2

    text = page.read_text()
    if dark:
        text = text.replace("@media (prefers-color-scheme: dark)", "@media all")
    (tmp_path / "page.html").write_text(text)
    frame = '<body style="margin:0"><iframe src="page.html" style="width:390px;height:2400px;border:0"></iframe>'
    (tmp_path / "phone.html").write_text(frame)
    shots = {}
    for name, width in (("page", 1280), ("phone", 500)):
        shot = tmp_path / f"{name}.png"
        words = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--allow-file-access-from-files",
        ]
        subprocess.run(
            [
                str(BROWSER),
                *words,
                f"--window-size={width},2400",
                f"--screenshot={shot}",
                (tmp_path / f"{name}.html").as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
        shots[name] = cv2.imread(str(shot))
    desktop, phone = shots["page"], shots["phone"][:, :390]
    for picture in (desktop, phone):
        paper = picture[5, 5].astype(int)
        assert (paper.mean() < 60) == dark  # the background follows the theme
        assert (np.abs(picture.astype(int) - paper).sum(2) > 60).mean() > 0.05  # something is drawn
    edge = phone[:, -6:].astype(int)
    assert (
        np.abs(edge - phone[5, 5].astype(int)).sum(2) > 60
    ).mean() < 0.02  # and nothing runs off a phone's right edge


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome here")
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_on_the_page_is_cut_off(page: Path, tmp_path: Path, width: int) -> None:
    """With all that folds opened: no box has to be scrolled sideways, but for the answers of a query on a phone."""
    probe = """<script>
    const wide = one => one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).overflowX != "visible";
    const cut = [...document.querySelectorAll("main *")].filter(wide).map(one => one.className);
    parent.postMessage([document.documentElement.scrollWidth, ...cut].join(" "), "*");
    </script>"""
    opened = re.sub(
        r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(), count=1
    )  # lets no script run
    opened = opened.replace("<details>", "<details open>")
    (tmp_path / "page.html").write_text(opened.replace("</body>", f"{probe}</body>"))
    (tmp_path / "frame.html").write_text(
        "<body><script>onmessage = told => document.body.append('told: ' + told.data + '.')</script>"
        f'<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>'
    )
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    done = subprocess.run(
        [str(BROWSER), *words, "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "frame.html").as_uri()],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    told = re.search(r"told: (\d+) ?([^.]*)\.", done.stdout)
    assert told is not None and int(told[1]) <= width
    assert set(told[2].split()) <= ({"answers", "report", "words"} if width == 390 else {"report", "words"})


def test_a_fill_lies_between_nothing_and_the_value() -> None:
    for value, expected in ((0.5, (20.0, 40.0)), (-0.25, (0.0, 20.0)), (0.0, (20.0, 0.0))):
        found = Row({"value": value}, "a score", (-0.25, 1.0))
        assert found is not None and found.fill == pytest.approx(expected)
