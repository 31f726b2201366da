"""The tests mirror the tree: `tests/data` tests `vlp/data`, `tests/eval/tasks` tests `eval/tasks`."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
"""Small real data beside the project; tests that read it skip where it is absent."""
