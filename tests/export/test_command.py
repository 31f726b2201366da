"""`vlp-export` as its users run it: each format in fresh processes, moved, pushed to a stub of the Hub, downloaded by name."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import ROOT, warm
from tests.export.hub_stub import serve
from tests.export.test_formats import RESNET, SIGLIP, VIT, native
from vlp import hub
from vlp.core.output import LOCK
from vlp.export import exporters, verify
from vlp.export.cli import main
from vlp.hub import Pretrained


def saved(folder: Path, **options: Any) -> Pretrained:
    loaded = native(**options)
    hub.save_pretrained(folder, loaded.model, loaded.preprocess, loaded.tokenizer)
    return loaded


def equal(loaded: Pretrained, found: dict[str, np.ndarray], kind: str) -> None:
    limit = exporters.get(kind)(kind).tolerance
    for part, ours in verify.expected(loaded, exporters.get(kind)(kind)).items():
        assert found[part].shape == ours.shape and np.abs(found[part] - ours)[:3].max() <= limit, part


@pytest.mark.usefixtures("warm_checks")  # the next but two starts a process of its own
@pytest.mark.parametrize(
    "kind", ["open_clip", "transformers", "image", "text", pytest.param("onnx", marks=pytest.mark.slow)]
)
def test_a_format_leaves_after_a_fresh_process_has_compared_it(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "run", image=RESNET, spec={"resize": "pad"})
    assert main([str(tmp_path / "run"), "--to", str(tmp_path / "out"), "--format", kind]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    part = "texts" if kind == "text" else "images"
    assert "loading it in a fresh process" in said and f"{part}: equal to the native model's within" in said
    assert f"{part}: equal to the native model's within" in (tmp_path / "out" / "README.md").read_text()
    assert {one.name for one in tmp_path.iterdir()} == {"run", "out"}, "nothing else is left"


@pytest.mark.usefixtures("warm_checks")
def test_what_differs_is_neither_left_nor_pushed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(
        tmp_path / "run", **{**SIGLIP, "spec": {"resize": "crop"}}
    )  # 32 pixels, and a margin of odd width: one is much
    with serve() as stub:
        command = [
            str(tmp_path / "run"),
            "--to",
            str(tmp_path / "out"),
            "--format",
            "transformers",
            "--push",
            "lab/model",
        ]
        assert main(command) == 2
        assert "resizes images otherwise than this model" in capsys.readouterr().err
        assert not stub.calls and {one.name for one in tmp_path.iterdir()} == {"run"}


def test_a_name_that_is_no_repository_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "run"), "--to", str(tmp_path / "out"), "--push", "model"]) == 2
    assert "--push takes a repository as owner/name, found 'model'" in capsys.readouterr().err


def test_an_open_clip_folder_works_elsewhere_after_its_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = saved(tmp_path / "run", image=RESNET, spec={"resize": "pad"})
    with monkeypatch.context() as patch:
        patch.setattr("vlp.export.verify.subprocess", warm)
        assert main([str(tmp_path / "run"), "--to", str(tmp_path / "first"), "--format", "open_clip"]) == 0
    shutil.move(tmp_path / "first", tmp_path / "second")
    done = subprocess.run([sys.executable, tmp_path / "second" / "set_paths.py"], cwd=tmp_path, check=False)
    assert done.returncode == 0
    equal(loaded, verify.embed(loaded, str(tmp_path / "second"), exporters.get("open_clip")("open_clip")), "open_clip")
    text = json.loads((tmp_path / "second" / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    assert text["hf_model_name"] == str(tmp_path / "second")
    assert "run set_paths.py after moving it" in (tmp_path / "second" / "README.md").read_text()


MODELS: dict[str, dict[str, Any]] = {
    "vlp": {"image": VIT},
    "open_clip": {"image": RESNET, "spec": {"resize": "pad"}},
    "transformers": {"image": RESNET, "spec": {"resize": "pad"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_a_pushed_model_loads_by_its_name_from_the_hub_and_then_offline(kind: str, tmp_path: Path) -> None:
    loaded = saved(tmp_path / "run", **MODELS[kind])
    with serve() as stub:
        online = {
            "HF_ENDPOINT": stub.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
        }
        command = ["--to", str(tmp_path / "out"), "--format", kind, "--push", "lab/model", "--private"]
        done = subprocess.run(
            [sys.executable, "-m", "vlp.export.cli", str(tmp_path / "run"), *command],
            env={**os.environ, **online, "HF_TOKEN": "hf_stub"}, cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        names = [
            next(at for at, line in enumerate(lines) if one in line) for one in ("as lab/model in a fresh", "pushed ")
        ]
        assert names == sorted(names) and stub.visibility == "private" and stub.commits == 1
        assert set(stub.files) == {
            one.relative_to(tmp_path / "out").as_posix() for one in (tmp_path / "out").rglob("*") if one.is_file()
        } - {LOCK}
        assert str(tmp_path) not in b"".join(stub.files.values()).decode("latin-1"), "no path of this machine"
        found = verify.embed(loaded, "lab/model", exporters.get(kind)(kind), HF_HOME=str(tmp_path / "home"), **online)
        equal(loaded, found, kind)
    offline = verify.embed(loaded, "lab/model", exporters.get(kind)(kind), HF_HOME=str(tmp_path / "home"))
    equal(loaded, offline, kind)
