"""The arrows that must never be drawn: imports are read as text, so a lazy import inside a function counts too."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"vlp": "vlp", "eval": "vlp_eval", "data_prep": "vlp_prep", "recipes": "vlp_recipes"}


def modules() -> dict[str, Path]:
    found = {}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(module: str, path: Path, *, top_level_only: bool = False) -> set[str]:
    """Return the absolute names that a module imports at run time."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if is_type_checking(node) or (top_level_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
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
        todo.extend(ast.iter_child_nodes(node))
    return found


def reaches(names: set[str], target: str) -> bool:
    return any(name == target or name.startswith(target + ".") for name in names)


NEVER = [
    ("vlp.batch", ["vlp", "torch"]),
    ("vlp.core.registry", ["vlp"]),
    ("vlp.core.distributed", ["vlp"]),
    ("vlp.data", ["vlp.models", "vlp.objectives", "vlp.train", "vlp_eval", "vlp_prep"]),
    ("vlp.models", ["vlp.data", "vlp.objectives", "vlp.train", "vlp_eval", "vlp_prep"]),
    ("vlp.objectives", ["vlp.data", "vlp.models", "vlp.train", "vlp_eval", "vlp_prep"]),
    ("vlp.train", ["vlp_eval", "vlp_prep"]),
    ("vlp", ["vlp_eval", "vlp_prep"]),
    ("vlp_eval", ["vlp.train", "vlp.objectives", "vlp_prep"]),
    ("vlp_prep", ["vlp.models", "vlp.train", "vlp_eval"]),
]


@pytest.mark.parametrize(("source", "targets"), NEVER, ids=[source for source, _ in NEVER])
def test_never_arrows(source: str, targets: list[str]) -> None:
    for module, path in modules().items():
        if module == source or module.startswith(source + "."):
            names = imports(module, path)
            for target in targets:
                assert not reaches(names, target), f"{module} imports {target}"


ONLY_IN = {
    "deepspeed": ["vlp.train.engines.torch", "vlp.train.deepspeed_engine"],
    "wandb": ["vlp.train.logging"],
    "faiss": ["vlp_eval.embeddings.search", "vlp_prep.splits.near_duplicates"],
    "webdataset": ["vlp.data", "vlp_prep.pipeline.shard_writer"],
    "open_clip": [
        "vlp.models",
        "vlp.modalities.text.tokenizers.load",
        "vlp.hub",
        "vlp.export.cli",
        "vlp_eval.models.vlp",
    ],
    "transformers": [
        "vlp.models",
        "vlp.modalities.text.tokenizers.load",
        "vlp.hub",
        "vlp.export.cli",
        "vlp_eval.models.vlp",
        "vlp_eval.maps.masks",
    ],
    "timm": ["vlp.models", "vlp.modalities.text.tokenizers.load", "vlp.hub", "vlp.export.cli", "vlp_eval.models.vlp"],
}


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_stays_where_it_belongs(library: str) -> None:
    for module, path in modules().items():
        if not any(module == home or module.startswith((home + ".", home + "_")) for home in ONLY_IN[library]):
            assert not reaches(imports(module, path), library), f"{module} imports {library}"


def test_data_preparation_never_imports_torch_at_import_time() -> None:
    for module, path in modules().items():
        if module.startswith("vlp_prep"):
            assert not reaches(imports(module, path, top_level_only=True), "torch"), module


def test_no_file_is_named_for_nothing_or_too_long_to_hold_in_the_head() -> None:
    for module, path in modules().items():
        assert path.stem not in {"utils", "util", "helpers", "helper", "misc", "common"}, module
        assert len(path.read_text().splitlines()) <= 450, f"{module} is longer than 450 lines"


def test_every_package_is_installed() -> None:
    """A package that `setup.cfg` does not list is missing from an ordinary install, which an editable one hides."""
    listed = {line.strip() for line in (ROOT / "setup.cfg").read_text().splitlines() if line.startswith("    ")}
    packages = {module for module, path in modules().items() if path.name == "__init__.py"}
    assert packages <= listed, packages - listed
