"""The page on volumes: its commands are understood, the reasons that it names exist, and so do the sources."""

import re
import shlex
from pathlib import Path

import pytest

from tests import ROOT
from vlp_prep.cli import main
from vlp_prep.sources import sources

PAGE = (ROOT / "docs" / "volumes.md").read_text(encoding="utf-8")
BUILDS = re.findall(r"^vlp-prep (build .*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("line", BUILDS)
def test_a_command_is_understood(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)) == 2
    assert "needs --raw, the folder as published" in capsys.readouterr().err  # the only thing that is wrong with it


def test_the_reasons_and_sources_of_the_page_exist() -> None:
    code = "".join(path.read_text() for room in ("data_prep", "vlp/modalities") for path in (ROOT / room).rglob("*.py"))
    table = PAGE.partition("| what is wrong |")[2].partition("\n\n")[0]
    reasons = {reason for row in table.splitlines()[2:] for reason in re.findall(r"`(\w+)`", row.split("|")[2])}
    assert len(reasons) >= 14 and not [reason for reason in reasons if f'"{reason}"' not in code]
    listed = re.findall(r"^\| `(\w+)", PAGE.partition("| source |")[2].partition("\n\n")[0], re.MULTILINE)
    assert len(listed) == 9 and all(name in sources for name in listed)
