"""Push an export to the Hub in one commit: all files arrive together, or the repository stays as it was.

Through `huggingface_hub` and its own login. Network faults and server errors are tried again; what was uploaded before is
not sent twice.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlp.core.config import ConfigError
from vlp.core.errors import first_line
from vlp.core.output import LOCK

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

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
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = sorted(name for name in found if name != LOCK)

    def attempt() -> str:
        api.create_repo(repository, private=private or None, exist_ok=True)  # None: as the owner's settings have it
        operations = [
            CommitOperationAdd(name, instead[name] if name in instead else str(folder / name)) for name in names
        ]
        done = api.create_commit(repository, operations, commit_message="Upload a model exported by vlp")
        return str(done.oid)

    commit = _with_retries(attempt, repository, pause)
    arrived = {file.path: file for file in _with_retries(lambda: _files(api, repository, commit), repository, pause)}
    for name in names:
        where = f"{repository} at {commit}"
        if name not in arrived:
            raise ConfigError(f"{where} lacks {name}: do not use it; push again")
        if not is_same(arrived[name], instead[name] if name in instead else folder / name):
            raise ConfigError(f"{where} has other bytes in {name}: do not use it; push again")
    return f"pushed {len(names)} files to {repository} (commit {commit})"


def _files(api: HfApi, repository: str, commit: str) -> list[RepoFile]:
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(repository, recursive=True, revision=commit)
    return [entry for entry in entries if isinstance(entry, RepoFile)]


def is_same(there: RepoFile, content: bytes | Path) -> bool:
    """Return whether a file of the Hub has this content: by its SHA-256 where it is large, else by git's own hash."""
    from huggingface_hub.utils.sha import git_hash, sha_fileobj

    with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
        if there.lfs is not None:
            return bool(there.lfs.sha256 == sha_fileobj(file).hex())
        return bool(there.blob_id == git_hash(file.read()))


def _with_retries(attempt: Any, repository: str, pause: float) -> Any:
    """Return `attempt()`, tried again on faults that may pass."""
    from huggingface_hub.errors import HfHubHTTPError

    for left in reversed(range(TRIES)):
        try:
            return attempt()
        except Exception as error:
            fault = _fault(error)
            if isinstance(fault, HfHubHTTPError):
                status = fault.response.status_code
                if not (status in (408, 429) or status >= 500) or not left:
                    raise ConfigError(f"the Hub refused to take {repository}: {first_line(fault)}") from None
            elif isinstance(error, ValueError):
                raise ConfigError(f"cannot push to {repository}: {error}") from None
            elif fault is None:
                raise
            elif not left:
                raise ConfigError(f"cannot reach the Hub for {repository} ({type(fault).__name__}: {fault})") from None
        time.sleep(pause)
    raise AssertionError("unreachable")


def _fault(error: BaseException | None) -> BaseException | None:
    """Return what the network or the Hub has to do with an error: uploads wrap it. None where it has nothing to do with it."""
    from huggingface_hub.errors import HfHubHTTPError

    while error is not None:
        # a dropped connection has another type with each transport that the client has used over the years
        transport = type(error).__module__.partition(".")[0] in TRANSPORTS
        if transport or isinstance(error, (HfHubHTTPError, ConnectionError, TimeoutError)):
            return error
        error = error.__cause__
    return None
