"""What all volumes of a study share, its report and its labels: several reconstructions of one scan are no several scans."""

from __future__ import annotations

import hashlib
from typing import Any

from vlp.core.config import ConfigError

SHOWN = 3


class Shared:
    """Something that is one for a study, checked over all volumes; 16 bytes a study are kept."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._first: dict[str, tuple[bytes, str]] = {}
        self._unequal: dict[str, str] = {}

    def add(self, study: str | None, value: Any, key: str) -> None:
        """Note what a volume's row says; nothing (an empty text, no labels) is no other answer."""
        if not study or not value:
            return
        found = hashlib.blake2b(repr(value).encode("utf-8", "backslashreplace"), digest_size=16).digest()
        first, other = self._first.setdefault(study, (found, key))
        if found != first and study not in self._unequal:
            self._unequal[study] = f"{other} and {key}"

    def check(self, source: str) -> None:
        """Raise ConfigError where volumes of one study differ, with their number and some keys."""
        if self._unequal:
            shown = "; ".join(list(self._unequal.values())[:SHOWN])
            raise ConfigError(
                f"{source}: {len(self._unequal)} of {len(self._first)} studies have volumes with unequal {self._what} "
                f"({shown}): the volumes of a study share them; mend the table, or give these volumes studies of their own"
            )
