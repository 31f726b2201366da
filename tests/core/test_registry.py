"""Names find their component, wrong names find the right one."""

import sys
from pathlib import Path

import pytest

from vlp.core.registry import Registry, UnknownNameError


def test_register_get_and_the_escape_hatch() -> None:
    shapes: Registry[type] = Registry("shape")
    shapes.register("whole")(int)
    assert shapes.get("whole") is int
    assert shapes.get("fractions:Fraction").__name__ == "Fraction"
    assert list(shapes) == ["whole"]
    with pytest.raises(ValueError, match="registered twice"):
        shapes.register("whole")(float)


def test_a_near_miss_is_named_and_a_far_one_lists_what_there_is() -> None:
    shapes: Registry[type] = Registry("shape")
    shapes.register("circle")(int)
    shapes.register("square")(float)
    with pytest.raises(UnknownNameError, match="unknown shape 'circel': did you mean 'circle'"):
        shapes.get("circel")
    with pytest.raises(UnknownNameError, match=r"known: circle, square"):
        shapes.get("zzz")
    with pytest.raises(UnknownNameError, match="cannot import shape 'no_such_module:X'"):
        shapes.get("no_such_module:X")


def test_a_package_that_fails_once_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "forgetful"
    folder.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "kinds", Registry[type]("kind", package="forgetful"), raising=False)
    (folder / "__init__.py").write_text("from . import first, second\n")
    member = "from tests.core import test_registry\n\n\n@test_registry.kinds.register('{0}')\nclass Kind: ...\n"
    (folder / "first.py").write_text(member.format("first"))
    (folder / "second.py").write_text(member.format("second") + "\n\nimport no_such_library\n")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_library"):
            kinds.get("first")  # type: ignore[name-defined]  # noqa: F821
    (folder / "second.py").write_text(member.format("second"))
    assert list(kinds) == ["first", "second"]  # type: ignore[name-defined]  # noqa: F821
