"""The arrows that must never be drawn, the circles, and the size of the rooms.

Imports are read as text, so an import inside a function and one for type checkers only count too.
"""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT

FOLDERS = {"vlp": "vlp", "eval": "vlp_eval", "data_prep": "vlp_prep", "recipes": "vlp_recipes"}
PLUGINS = {"vlp/objectives", "vlp/needs", "vlp/models/towers", "data_prep/sources"}
"""Folders with a file for each objective, need, tower library or source: they grow with what is supported."""
MOST_MODULES, MOST_LINES, LARGEST_FAMILY = 14, 450, 3


def read_modules() -> dict[str, Path]:
    found = {}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = read_modules()


@cache
def imported_names(module: str, *, at_import_time: bool = False) -> set[str]:
    """Return the absolute names that a module imports, `package.module` and `package.module.name`.

    `at_import_time`: leave out what is imported within functions or for type checkers.
    """
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        is_lazy = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
            isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        )
        if at_import_time and is_lazy:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
        nodes.extend(ast.iter_child_nodes(node))
    return found


def imported_modules(module: str) -> set[str]:
    """Return the modules of ours that a module imports; a package counts only where a name of its own is taken."""
    names = imported_names(module)
    found = names & MODULES.keys()
    within = {name.rpartition(".")[0] for name in names & MODULES.keys()}
    packages = {name for name in found if MODULES[name].name == "__init__.py"}
    own_names = {name.rpartition(".")[0] for name in names - MODULES.keys()}
    return {name for name in found if name not in packages or name in own_names or name not in within} - {module}


def reaches(names: set[str], target: str) -> bool:
    return any(name == target or name.startswith(target + ".") for name in names)


def is_within(module: str, places: list[str]) -> bool:
    return any(module == place or module.startswith(place + ".") for place in places)


NEVER = [
    ("vlp.sample", ["vlp.batch", "vlp.data", "vlp.models", "vlp.modalities", "torch"]),
    ("vlp.batch", ["vlp.data", "vlp.models", "vlp.objectives", "vlp.train", "vlp.modalities"]),
    ("vlp.core", ["vlp.sample", "vlp.batch", "vlp.data", "vlp.modalities", "vlp.models", "vlp.objectives"]),
    ("vlp.data", ["vlp.models", "vlp.objectives", "vlp.train", "vlp.export", "vlp.hub"]),
    ("vlp.models", ["vlp.data", "vlp.objectives", "vlp.train", "vlp.export", "vlp.hub"]),
    ("vlp.modalities", ["vlp.data", "vlp.models", "vlp.objectives", "vlp.train", "vlp.export", "vlp.hub"]),
    ("vlp.objectives", ["vlp.data", "vlp.models", "vlp.train", "vlp.modalities", "vlp.export", "vlp.hub"]),
    ("vlp", ["vlp_eval", "vlp_prep", "vlp_recipes"]),
    ("vlp_eval", ["vlp.train", "vlp.objectives", "vlp_prep"]),
    ("vlp_prep", ["vlp.models", "vlp.objectives", "vlp.train", "vlp_eval"]),
]


@pytest.mark.parametrize(("source", "targets"), NEVER, ids=[source for source, _ in NEVER])
def test_never_arrows(source: str, targets: list[str]) -> None:
    for module in MODULES:
        if is_within(module, [source]):
            names = imported_names(module)
            for target in targets:
                assert not reaches(names, target), f"{module} imports {target}"


HUB_LIBRARIES = ["vlp.models", "vlp.modalities.text", "vlp.hub", "vlp.export", "vlp_eval.models"]
ONLY_IN = {
    "deepspeed": ["vlp.train.engines"],
    "wandb": ["vlp.train.logging"],
    "faiss": ["vlp_prep.splits"],
    "webdataset": ["vlp.data", "vlp_prep.pipeline"],
    "open_clip": HUB_LIBRARIES,
    "transformers": [*HUB_LIBRARIES, "vlp.core.trust", "vlp_eval.maps.masks"],  # it switches remote code off; SAM
    "timm": HUB_LIBRARIES,
    "monai": [*HUB_LIBRARIES, "vlp_eval.metrics"],
}


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_stays_where_it_belongs(library: str) -> None:
    for module in MODULES:
        if not is_within(module, ONLY_IN[library]):
            assert not reaches(imported_names(module), library), f"{module} imports {library}"


def test_data_preparation_never_imports_torch_at_import_time() -> None:
    for module in MODULES:
        if module.startswith("vlp_prep"):
            assert not reaches(imported_names(module, at_import_time=True), "torch"), module


def test_no_import_runs_in_a_circle() -> None:
    arrows = {module: imported_modules(module) for module in MODULES}
    while True:
        ends = {module for module, targets in arrows.items() if not targets & arrows.keys()}
        if not ends:
            break
        arrows = {module: targets for module, targets in arrows.items() if module not in ends}
    starts = set(arrows) - set().union(*arrows.values()) if arrows else set()
    assert not arrows, f"import circles among {sorted(set(arrows) - starts)}"


def test_a_folder_is_seen_at_a_glance() -> None:
    sizes = Counter(
        str(path.parent.relative_to(ROOT)) for path in MODULES.values() if path.stem not in ("__init__", "__main__")
    )
    large = {folder: size for folder, size in sizes.items() if size > MOST_MODULES and folder not in PLUGINS}
    assert not large, f"more than {MOST_MODULES} modules: {large}"


def test_a_family_is_a_folder_and_no_prefix() -> None:
    families: dict[tuple[str, str], list[str]] = {}
    for path in MODULES.values():
        folder = str(path.parent.relative_to(ROOT))
        words = path.stem.split("_")
        if folder not in PLUGINS and len(words) > 1 and path.stem != "__init__":
            for word in {words[0], words[-1]}:
                families.setdefault((folder, word), []).append(path.stem)
    large = {place: names for place, names in families.items() if len(names) > LARGEST_FAMILY}
    assert not large, f"families that want a folder: {large}"


def test_no_file_is_named_for_nothing_or_too_long_to_hold_in_the_head() -> None:
    for module, path in MODULES.items():
        assert path.stem not in {"utils", "util", "helpers", "helper", "misc", "common"}, module
        assert len(path.read_text().splitlines()) <= MOST_LINES, f"{module} is longer than {MOST_LINES} lines"


def test_every_package_is_installed() -> None:
    """`setup.py` finds packages by their `__init__.py`: without one a folder is missing from an ordinary install."""
    for module, path in MODULES.items():
        assert (path.parent / "__init__.py").is_file(), f"{module}: its folder has no __init__.py"


def test_tests_mirror_the_tree() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):
        folder = path.parent.relative_to(ROOT / "tests")
        assert (ROOT / folder).is_dir() or (ROOT / "vlp" / folder).is_dir(), f"{path} tests no folder of this name"


def test_words_that_do_not_come_back() -> None:
    """Private words and pronouns where the field has a noun: see the glossary in README.md."""
    banned = re.compile(r"\bfor one in\b|\b(some|no|any)body\b|\bwhoever\b|\bStrangers\b|\bsurvey\b")
    for module, path in MODULES.items():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not banned.search(line), f"{module}, line {number}: {line.strip()}"
