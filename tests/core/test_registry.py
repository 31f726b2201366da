"""Names find their component, wrong names find the right one."""

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
