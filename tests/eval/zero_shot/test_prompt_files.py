"""Prompt files and suites of one's own: whatever is in them, an error in words, or prompts that can be scored."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlp.core.config import ConfigError
from vlp_eval import suite
from vlp_eval.zero_shot import prompts

PLAIN = "version: '1'\nabout: x\n"
BAD: dict[str, bytes] = {
    "latin-1": PLAIN.encode() + "classes: {a: {pos: [né]}}".encode("latin-1"),
    "a list as a key": b"? [a]\n: b",
    "nested without end": b"[" * 5000,
    "an anchor in itself": b"a: &a [*a]",
    "no mapping": b"- a\n- b",
    "nothing": b"",
    "a number": b"3",
    "tabs": b"a:\n\tb: c",
    "an unknown key": PLAIN.encode() + b"clases: {a: {pos: [b]}}",
    "a key twice": PLAIN.encode() + b"classes: {a: {pos: [b]}, a: {pos: [c]}}",
    "a class twice": PLAIN.encode() + b"classes: {a: {pos: [b]}}\nnames: {a: [b]}\ntemplates: {pos: ['{}']}",
    "a number for a text": PLAIN.encode() + b"classes: {a: {pos: [3]}}",
    "a text for a list": PLAIN.encode() + b"classes: {a: {pos: b}}",
    "a null": PLAIN.encode() + b"classes: {a: null}",
    "no prompt": PLAIN.encode() + b"classes: {a: {pos: []}}",
    "a blank prompt": PLAIN.encode() + b"classes: {a: {pos: ['  ']}}",
    "another class": PLAIN.encode() + b"classes: {b: {pos: [b]}}",
    "a template without a place": PLAIN.encode() + b"names: {a: [b]}\ntemplates: {pos: ['x']}",
    "a template that reaches in": PLAIN.encode() + b"names: {a: [b]}\ntemplates: {pos: ['{0.__class__}']}",
    "a tag": b"!!python/object/apply:os.system ['true']",
}
QUIET = settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(datetime.date(1900, 1, 1)),
    st.sampled_from(["{}", "{0}", "{", "a {} b", "synthetic", "../../x", "retrieval", "classification"]),
)
TREES = st.recursive(
    SCALARS, lambda one: st.lists(one, max_size=3) | st.dictionaries(SCALARS, one, max_size=3), max_leaves=8
)


def keyed(*names: str, **known: Any) -> st.SearchStrategy[dict[Any, Any]]:
    """Return mappings with some of the keys, whose values are `known` ones or anything."""
    return st.fixed_dictionaries({}, optional={name: st.one_of(known.get(name, TREES), TREES) for name in names})


TEXTS = keyed("pos", "neg", pos=st.lists(st.text(max_size=5), max_size=3))
CLASSES = st.dictionaries(st.sampled_from(["a", "b"]), TEXTS, max_size=2)
USUAL = {"version": st.just("1"), "about": st.just("x")}
PROMPTS = keyed("version", "about", "templates", "names", "classes", templates=TEXTS, classes=CLASSES, **USUAL)
TASKS = keyed(
    *("id", "family", "data", "references", "classes", "prompts", "scoring", "k", "limit", "masks", "biology", "size"),
    id=st.sampled_from(["t", "u", "../../x", "a/b"]),
    family=st.sampled_from(
        ["classification", "retrieval", "grounding", "segmentation", "probe", "ood", "mismatch", "no:Such"]
    ),
    classes=st.just(["a"]),
    prompts=st.sampled_from(["synthetic", ["synthetic"], ["../x.yaml"]]),
)
SUITES = keyed("version", "about", "defaults", "tasks", tasks=st.lists(TASKS, max_size=3), **USUAL)


def read_prompts(path: Path, content: bytes, pairs: bool = False) -> None:
    """Read a prompt file; what is no error must be prompts that can be scored."""
    path.write_bytes(content)
    try:
        found = prompts.read(path.name, ["a"], path.parent, pairs)
    except ConfigError as error:
        if str(path) not in str(error):
            raise
        return
    assert found.texts["a"].pos and all(isinstance(one, str) and one.strip() for one in found.all())
    assert not pairs or len(found.texts["a"].pos) == len(found.texts["a"].neg)


def read_suite(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        found = suite.read(str(path))
    except ConfigError:
        return
    assert all("/" not in one for one in found.order)
    assert all(one.reason for one in found.unbuilt)


@pytest.mark.parametrize("name", BAD)
def test_a_broken_prompt_file_is_refused_in_words(name: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(BAD[name])
    with pytest.raises(ConfigError) as refused:
        prompts.read("p.yaml", ["a"], tmp_path)
    assert str(path) in str(refused.value)
    with pytest.raises(ConfigError):
        suite.read(str(path))


@pytest.mark.parametrize(
    ("family", "setting"),
    [
        ("retrieval", {"k": [0]}),
        ("retrieval", {"size": -3}),
        ("mismatch", {"size": 0}),
        ("grounding", {"limit": -1}),
        ("segmentation", {"masks": {"a": "b"}, "parts": 0}),
        ("probe", {"classes": ["a"], "shares": [2.0]}),
        ("robustness", {"biology": ["a", "b"], "k": [0]}),
        ("classification", {"min_group": 0}),
        ("classification", {"specificity": 9}),
        ("classification", {"subgroups": ["sex", "sex"]}),
        ("classification", {"per_class": 4}),
        ("classification", {"kind": "multiclass", "calibrate": "val"}),
        ("corruption", {"subgroups": ["sex"]}),
        ("corruption", {"calibrate": "val"}),
        ("ood", {"subgroups": ["sex"]}),
        ("probe", {"classes": ["a"], "subgroups": ["sex"]}),
        ("retrieval", {"subgroups": ["sex"]}),
        ("grounding", {"subgroups": ["sex"]}),
    ],
)
def test_a_setting_that_means_nothing_is_refused(family: str, setting: dict[str, Any], tmp_path: Path) -> None:
    """Subgroups among them: what a family does not answer it refuses."""
    common = {"classes": ["nodule"], "prompts": ["synthetic"]} if family in ("classification", "corruption") else {}
    path = tmp_path / "s.yaml"
    path.write_text(
        yaml.safe_dump({"version": "1", "about": "x", "tasks": [{"id": "t", "family": family, **common, **setting}]})
    )
    with pytest.raises(ConfigError) as refused:
        suite.read(str(path))
    assert list(setting)[-1] in str(refused.value)


@pytest.mark.slow
@QUIET
@given(tree=PROMPTS | TREES, pairs=st.booleans())
def test_any_tree_as_a_prompt_file(tree: Any, pairs: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    text = yaml.safe_dump(tree, allow_unicode=True)
    read_prompts(tmp_path_factory.getbasetemp() / "p.yaml", text.encode(errors="surrogatepass"), pairs)


@pytest.mark.slow
@QUIET
@given(content=st.binary(max_size=60) | st.text("ab:{}[]?-&*!|> \n\t\"'#,%@", max_size=60).map(str.encode))
def test_any_bytes_as_a_prompt_file(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    read_prompts(tmp_path_factory.getbasetemp() / "p.yaml", content)


@pytest.mark.slow
@QUIET
@given(tree=SUITES | TREES)
def test_any_tree_as_a_suite(tree: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    text = yaml.safe_dump(tree, allow_unicode=True)
    read_suite(tmp_path_factory.getbasetemp() / "s.yaml", text.encode(errors="surrogatepass"))
