"""URLs of shards: which are understood, and which hosts may be asked. A leaf; no network."""

from __future__ import annotations

import os
from collections.abc import Collection
from urllib.parse import urlsplit

from vlp.core.untrusted import RefusedError, shown

PROTOCOLS = ("https", "http", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf")
"""What a set of shards may be read through. Chains (`a::b`), `file://`, `reference://` and all else are refused."""
HOSTS = "VLP_HOSTS"
"""The environment variable that names further hosts which may be asked: `https://cdn.example.org,s3://bucket`."""

_PORTS = {"http": 80, "https": 443}
_REPOSITORIES = ("datasets", "spaces", "buckets")


def is_remote(path: str) -> bool:
    """Return whether a path is a URL (`https://`, `s3://`, `hf://`, ...)."""
    return "://" in path


def join(base: str, name: str) -> str:
    """Return where a shard lies: `name` below the folder or URL `base`, or `name` itself where it is a URL."""
    return name if is_remote(name) else f"{base.rstrip('/')}/{name}"


def host_of(url: str) -> str:
    """Return what answers for a URL: protocol, host and port; of an object store the bucket, of the Hub the repository.

    Raises RefusedError for what is no URL of the listed protocols.
    """
    if not is_remote(url) or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise RefusedError(f"{shown(url)} is refused: expected a URL without blanks and special characters")
    protocol = url.partition("://")[0]
    if "::" in url or url.count("://") > 1 or protocol not in PROTOCOLS:
        raise RefusedError(f"{shown(url)} is refused: expected one URL of {', '.join(PROTOCOLS)}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host:
        raise RefusedError(f"{shown(url)} is refused: it names no host")
    if ".." in parts.path.split("/"):
        raise RefusedError(f"{shown(url)} is refused: expected a path without '..'")
    if protocol in _PORTS:
        return f"{protocol}://{host}:{port or _PORTS[protocol]}"
    if protocol == "hf":
        words = [host, *parts.path.strip("/").split("/")]
        return "hf://" + "/".join(words[: 3 if host in _REPOSITORIES else 2]).partition("@")[0]
    return f"{protocol}://{parts.netloc.lower()}"


def check_host(url: str, hosts: Collection[str]) -> None:
    """Raise RefusedError unless `url` is at one of `hosts` (of `host_of`), or at the same one by https instead of http."""
    host = host_of(url)
    secure = f"http://{host.removeprefix('https://').removesuffix(':443')}:80" if host.endswith(":443") else host
    if not {host, secure} & set(hosts):
        raise RefusedError(
            f"{shown(url)} is refused: it is on another host than the one that you named "
            f"({', '.join(sorted(hosts)) or 'none'}); set {HOSTS}={host} to allow it"
        )


def allowed_hosts() -> frozenset[str]:
    """Return the hosts that the user names in $VLP_HOSTS."""
    words = os.environ.get(HOSTS, "").split(",")
    return frozenset(host_of(word if is_remote(word) else f"https://{word}") for word in map(str.strip, words) if word)
