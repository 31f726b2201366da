"""Patient data stays with the hospital: ids become keyed hashes, and texts are searched for what identifies a person.

The key comes from an environment variable or a file and is never written. The same key gives the same hashes, so that
two builds of one hospital's data can be joined; without the key ids cannot be listed and compared.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import replace
from pathlib import Path

from vlp.core.config import ConfigError
from vlp.core.untrusted import open_regular
from vlp.sample import Sample

VARIABLE = "VLP_PREP_KEY"
SHORTEST = 16


def read_key(file: Path | None) -> bytes | None:
    """Return the key from `file`, else from the environment variable VLP_PREP_KEY, else None; raises ConfigError."""
    key = _read_key_file(file) if file is not None else os.environ.get(VARIABLE, "").encode().strip()
    if file is None and not key:
        return None
    if len(key) < SHORTEST:
        raise ConfigError(f"the key in {file or VARIABLE} has {len(key)} characters; at least {SHORTEST} are needed")
    return key


def _read_key_file(file: Path) -> bytes:
    """Return what is in a key file; raises ConfigError for one that others may read: the ids would be theirs, too."""
    try:
        with open_regular(file) as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if os.name == "posix" and mode & 0o077:
                raise ConfigError(f"the key file {file} may be read by others (mode {mode & 0o777:04o}): chmod 600 it")
            return opened.read(1 << 16).strip()
    except FileNotFoundError:
        raise ConfigError(
            f"no key file {file}: give the one of earlier builds, or make one with `vlp-prep key {file}`"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read the key file {file}: {error.strerror}") from None


def make_key_file(file: Path) -> None:
    """Write a new random key into a new file that only its owner may read; raises ConfigError where there is one."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        handle = os.open(file, flags, 0o600)
        try:
            with open(handle, "w", encoding="ascii") as opened:
                opened.write(secrets.token_hex(32) + "\n")
        except OSError:
            file.unlink()  # ours, and without a key in it
            raise
    except OSError as error:
        raise ConfigError(f"cannot make the key file {file}: {error.strerror}") from error


class IdHasher:
    """Replace ids by the first 16 hexadecimal digits of HMAC-SHA256(key, kind and id)."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __call__(self, kind: str, identity: str) -> str:
        return hmac.new(self._key, f"{kind}\0{identity}".encode(), hashlib.sha256).hexdigest()[:16]

    def sample(self, sample: Sample) -> Sample:
        """Return the sample with its key, study and patient replaced."""
        return replace(
            sample,
            key=self("key", sample.key),
            study=self("study", sample.study) if sample.study else None,
            patient=self("patient", sample.patient) if sample.patient else None,
        )
