"""What the README says is true: its files exist, its commands parse, its Python runs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
        re.findall(r"`((?:recipes|tests|docs|launch)/[\w./]+)`", README)
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


def test_its_python_compiles_and_its_model_example_runs(tmp_path: Path) -> None:
    blocks = [body for language, body in BLOCKS if language == "python"]
    for body in blocks:
        ast.parse(body)
    export = ROOT / "runs" / "demo" / "export"
    if not export.is_dir():
        pytest.skip("the example loads the demo's export: run `make demo` first")
    import cv2

    from vlp.data.synthetic import generate

    cv2.imwrite(str(tmp_path / "chest.png"), generate(0, 1).image)
    example = next(body for body in blocks if "from_pretrained" in body).replace("runs/demo/export", str(export))
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the finding is near" in done.stdout
