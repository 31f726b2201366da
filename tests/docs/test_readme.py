"""What the README says is true: its files exist, its commands parse, its Python runs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line
    for language, body in BLOCKS
    if language == "bash"
    for line in body.replace("\\\n", " ").splitlines()
    if line.startswith("vlp-")
]


def test_every_file_it_names_exists() -> None:
    named = set(re.findall(r"\]\(([\w./-]+)\)", README)) | set(
        re.findall(r"`((?:recipes|tests|docs|launch|vlp|eval|data_prep)/[\w./]+)`", README)
    )
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("command", sorted({" ".join(line.split()[:2]) for line in COMMANDS}))
def test_every_command_it_shows_is_there(command: str) -> None:
    script, second = command.split()
    arguments = ["--help"] if second.endswith(".yaml") or script in ("vlp-export", "vlp-train") else [second, "--help"]
    shown = subprocess.run(
        [Path(sys.executable).parent / script, *arguments], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    flags = {flag for line in COMMANDS if line.startswith(command) for flag in re.findall(r"--[a-z-]+", line)}
    options = shown.stdout
    if script == "vlp-prep" and second == "build":
        for source in {line.split()[2] for line in COMMANDS if line.startswith(command)}:
            more = [Path(sys.executable).parent / script, "build", source, "--help"]
            options += subprocess.run(more, capture_output=True, text=True, check=True).stdout
    assert not [flag for flag in flags if flag not in options]


def test_its_python_compiles() -> None:
    for language, body in BLOCKS:
        if language == "python":
            ast.parse(body)


@pytest.mark.parametrize("which", ["small", "demo"])
def test_its_model_example_runs(which: str, tmp_path: Path) -> None:
    import cv2

    from vlp_prep.synthetic.generate import generate

    export = ROOT / "runs" / "demo" / "export"
    if which == "demo" and not export.is_dir():
        pytest.skip("run `make demo` first: the example loads its export")
    if which == "small":
        from tests.models.tiny import make
        from vlp.hub import save_pretrained
        from vlp.modalities.image.processor import ImageProcessor
        from vlp.modalities.image.spec import ImageSpec

        export = tmp_path / "export"
        model, tokenizer = make()
        save_pretrained(export, model, ImageProcessor(ImageSpec(size=32, channels=1)), tokenizer)
    cv2.imwrite(str(tmp_path / "chest.png"), generate(0, 1).image)
    example = next(body for language, body in BLOCKS if language == "python" and "from_pretrained" in body)
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    code = example.replace("runs/demo/export", str(export))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    label, place = done.stdout.splitlines()
    assert label in ("There is a pleural effusion.", "There is no pleural effusion.")
    assert re.fullmatch(r"the finding is near x=\d+, y=\d+", place)
