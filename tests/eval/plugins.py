"""Task families of one's own that fail in ways that no family of the harness should."""

from __future__ import annotations

from typing import Any

from vlp.core.config import config
from vlp_eval.tasks.base import Context, Outcome, Plan, Task


@config
class Settings:
    """`error`: what is raised; `at`: plan, run, or build."""

    error: str = "MemoryError"
    at: str = "run"


class Failing(Task[Plan]):
    """Raises the error that its settings name."""

    Config = Settings

    def __init__(self, spec: Any, settings: Settings, folder: Any = None) -> None:
        super().__init__(spec, settings, folder)
        self._fail("build")

    def _fail(self, at: str) -> None:
        if self.settings.at == at:
            raise getattr(__import__("builtins"), self.settings.error)("patient P-77")

    def plan(self, context: Context) -> Plan:
        self._fail("plan")
        return Plan(images=[0])

    def run(self, context: Context, plan: Plan) -> Outcome:
        self._fail("run")
        return Outcome([0], {"odd": {"value": float("nan"), "higher_is_better": True}}, rows=[context.row(0)])
