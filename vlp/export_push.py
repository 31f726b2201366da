"""Push an export to the Hub in one commit: all files arrive together, or the repository stays as it was.

Through `huggingface_hub` and its own login. Network faults and server errors are tried again; what was uploaded before is
not sent twice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config import ConfigError

TRIES = 5

TRANSPORTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")


def push(
    folder: Path, repository: str, private: bool, instead: Mapping[str, bytes] | None = None, pause: float = 2.0
) -> str:
    """Upload every file of `folder` to `repository`; `instead` replaces the content of some. Returns what was done.

    Raises ConfigError after `TRIES` failures, or at once for refusals (no login, no such owner).
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    instead = instead or {}
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def attempt() -> str:
        api.create_repo(repository, private=private, exist_ok=True)
        operations = [
            CommitOperationAdd(name, instead[name] if name in instead else str(folder / name)) for name in names
        ]
        done = api.create_commit(repository, operations, commit_message="Upload a model exported by vlp")
        return str(done.oid)

    commit = _patiently(attempt, repository, pause)
    arrived = set(_patiently(lambda: api.list_repo_files(repository, revision=commit), repository, pause))
    lost = sorted(set(names) - arrived)
    if lost:
        raise ConfigError(f"{repository} at {commit} lacks {', '.join(lost)}: do not use it; push again")
    return f"pushed {len(names)} files to {repository} (commit {commit})"


def _patiently(attempt: Any, repository: str, pause: float) -> Any:
    """Return `attempt()`, tried again on faults that may pass."""
    from huggingface_hub.errors import HfHubHTTPError

    for left in reversed(range(TRIES)):
        try:
            return attempt()
        except HfHubHTTPError as error:
            status = getattr(getattr(error, "response", None), "status_code", 0)
            if not (status in (408, 429) or status >= 500) or not left:
                raise ConfigError(f"the Hub refused to take {repository}: {str(error).splitlines()[0]}") from None
        except ValueError as error:
            raise ConfigError(f"cannot push to {repository}: {error}") from None
        except Exception as error:
            # a dropped connection has another type with each transport that the client has used over the years
            transport = type(error).__module__.partition(".")[0] in TRANSPORTS or isinstance(error, OSError)
            if not transport:
                raise
            if not left:
                raise ConfigError(f"cannot reach the Hub for {repository} ({type(error).__name__}: {error})") from None
        time.sleep(pause)
    raise AssertionError("unreachable")
