"""Copying a URL into an open file, piece by piece: https by Python's own client, object stores and the Hub by fsspec.

No request leaves the hosts that were allowed, a server's redirections included, and no more bytes are taken than the
caller allows, whatever a server says or sends.
"""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from collections.abc import Collection
from http.client import HTTPMessage, HTTPResponse
from typing import IO, Any, BinaryIO

from .urls import check_host

TIMEOUT = 30.0


def copy(url: str, file: BinaryIO, size: int | None, piece: int, hosts: Collection[str], limit: int) -> None:
    """Append to `file` what it still lacks of `url`, so that a lost connection costs one piece.

    `size` is what `url` should have, where that is known. Raises RefusedError for another host, OSError for a failure.
    """
    check_host(url, hosts)
    if url.startswith(("http://", "https://")):
        _copy_http(url, file, size, piece, hosts, limit)
    else:
        _copy_store(url, file, size, piece, limit)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirections that stay at allowed hosts."""

    def __init__(self, hosts: Collection[str]) -> None:
        self.hosts = hosts

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        check_host(newurl, self.hosts)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _copy_http(url: str, file: BinaryIO, size: int | None, piece: int, hosts: Collection[str], limit: int) -> None:
    opener = urllib.request.build_opener(_Redirects(hosts))
    if size is None:
        file.truncate(0)
        file.seek(0)
        with _get(opener, url, {}) as response:
            _append(response, file, limit, piece)
        return
    while (start := file.seek(0, os.SEEK_END)) < size:
        end = min(start + piece, size)
        with _get(opener, url, {"Range": f"bytes={start}-{end - 1}"}) as response:
            if response.status == 206:
                found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
                if found is None or int(found[1]) != start:
                    raise OSError(f"asked for bytes {start} to {end}, got another part")
                _append(response, file, end - start, piece)
            else:  # a server without ranges sends everything
                file.truncate(0)
                file.seek(0)
                _append(response, file, size, piece)


def _get(opener: urllib.request.OpenerDirector, url: str, headers: dict[str, str]) -> HTTPResponse:
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", **headers})
    try:
        response: HTTPResponse = opener.open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            said = f"{url}: {error.code} {error.reason}"
            if error.code in (404, 410):
                raise FileNotFoundError(said) from None
            if error.code < 500 and error.code not in (408, 425, 429):  # it will not be another answer next time
                raise PermissionError(said) from None
            raise OSError(said) from None
    if response.headers.get("Content-Encoding") not in (None, "identity"):
        response.close()
        raise OSError(f"{url} is sent as {response.headers['Content-Encoding']}, which was not asked for")
    return response


def _append(response: HTTPResponse, file: BinaryIO, limit: int, piece: int) -> None:
    """Append a response's body. Raises OSError where it has more than `limit` bytes, or ends before it should."""
    declared = response.headers.get("Content-Length")
    count = 0
    while data := response.read(min(piece, limit - count + 1)):
        count += len(data)
        if count > limit:
            file.truncate(0)
            raise OSError(f"{response.url} sends more than the {limit} bytes that it should have")
        file.write(data)
    if declared is not None and declared.isdigit() and count != int(declared):
        raise OSError(f"{response.url} broke off after {count} of {declared} bytes")


def _copy_store(url: str, file: BinaryIO, size: int | None, piece: int, limit: int) -> None:
    import fsspec

    system: Any
    system, name = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    total = size if size is not None else system.size(name)
    if total is None or total > limit:
        raise OSError(f"{url} has {'an unknown number of' if total is None else total} bytes, {limit} are allowed")
    while (start := file.seek(0, os.SEEK_END)) < total:
        end = min(start + piece, total)
        data = system.cat_file(name, start=start, end=end)
        if len(data) != end - start:
            raise OSError(f"asked for bytes {start} to {end}, got {len(data)} bytes")
        file.write(data)
