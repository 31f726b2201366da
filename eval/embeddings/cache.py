"""The embeddings of a run: each image and each text encoded once, kept on disk, read back without the model.

Entries are keyed by (model, preprocessing), (data, sample) and the text itself, and written in parts that appear whole or
not at all, so a killed run goes on where it was. The model always sees `ROWS` images at a time, the last ones padded:
results do not depend on order, batch size, workers, or on what else was asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlp.batch import Grid
from vlp.core.config import ConfigError
from vlp.core.output import write_whole
from vlp.data.shards.remote.cache import locked
from vlp.modalities.geometry import Geometry
from vlp.modalities.image.decode import VERSION

from ..data.dataset import Data, UnreadableError
from ..data.spec import DataError
from ..failures import stable_message
from ..models.base import Card, Embedder

if TYPE_CHECKING:
    from vlp.modalities.image.processor import ImageProcessor

Floats = NDArray[np.float32]
Transform = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
ROWS = 32
PART = 8 * ROWS
AHEAD = 4 * ROWS
"""The model works on `ROWS` images while the next `AHEAD` are decoded; `PART` of them are one file."""


class _Shelf:
    """Rows by key in a folder of parts: `00000.json` (keys and facts) beside `00000.{name}.npy`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where: dict[str, tuple[int, int]] = {}
        self.facts: dict[str, Any] = {}
        self._names: dict[int, set[str]] = {}
        for path in sorted(folder.glob("*.json")):
            try:
                self._enter(int(path.stem), json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, LookupError, TypeError):
                raise ConfigError(f"{path} holds no embeddings of vlp-eval: choose another folder") from None

    def _enter(self, part: int, content: dict[str, Any]) -> None:
        self._names[part] = set(content["arrays"])
        for row, (key, fact) in enumerate(zip(content["keys"], content["facts"], strict=True)):
            old = self.where.get(key)
            if old is None or self._names[old[0]] <= self._names[part]:
                self.where[key] = (part, row)
                self.facts[key] = fact

    def has(self, key: str, name: str) -> bool:
        return key in self.where and name in self._names[self.where[key][0]]

    def add(self, keys: Sequence[str], facts: Sequence[Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Write a part; the .json comes last, so a part without it does not exist. Others may write here too."""
        with locked(self.folder / ".lock"):
            part = max((int(file.stem) for file in self.folder.glob("*.json")), default=-1) + 1
            for name, rows in arrays.items():
                content = io.BytesIO()
                np.save(content, rows)  # numpy's own writing to a file does not say why it could not
                write_whole(self.folder / f"{part:05d}.{name}.npy", content.getvalue())
            entry = {"arrays": sorted(arrays), "keys": list(keys), "facts": list(facts)}
            write_whole(self.folder / f"{part:05d}.json", json.dumps(entry))
        self._enter(part, entry)

    def rows(self, keys: Sequence[str], name: str) -> NDArray[Any]:
        """Return the rows [n, ...] of keys that are all there; of the parts' files one is open at a time."""
        members: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            members.setdefault(self.where[key][0], []).append(place)
        result: NDArray[Any] | None = None
        for part, places in members.items():
            content = np.load(self.folder / f"{part:05d}.{name}.npy", mmap_mode="r")
            if result is None:
                result = np.empty((len(keys), *content.shape[1:]), content.dtype)
            result[places] = content[[self.where[keys[place]][1] for place in places]]
        assert result is not None  # at least one key is asked for
        return result


class Store:
    """Embeddings in `folder`, made by `embedder` when missing; without one (`vlp-eval score`) a missing entry is an error."""

    def __init__(self, folder: Path, embedder: Embedder | None, workers: int = 2, progress: Any = None) -> None:
        self.folder, self.embedder, self.workers, self.progress = folder, embedder, max(1, workers), progress
        path = folder / "card.json"
        if embedder is not None:
            self.card = embedder.card
            with locked(folder / ".lock"):
                if path.is_file() and read_card(path).fingerprint != self.card.fingerprint:
                    raise ConfigError(
                        f"{folder} holds the embeddings of another model or preprocessing; choose another folder"
                    )
                write_whole(path, json.dumps(asdict(self.card), indent=1) + "\n")
        else:
            if not path.is_file():
                raise ConfigError(f"no embeddings in {folder}: make them with `vlp-eval embed`")
            self.card = read_card(path)
        self._shelves: dict[str, _Shelf] = {}
        self._unreadable: dict[str, dict[str, str]] = {}
        self._preprocess: ImageProcessor | None = None

    def _shelf(self, name: str) -> _Shelf:
        if name not in self._shelves:
            self._shelves[name] = _Shelf(self.folder / name)
        return self._shelves[name]

    def _reasons(self, shelf: str) -> dict[str, str]:
        """Return the images of a shelf that did not decode, by key: those of this process, of any where there is no model.

        A model tries once more, for the file may have been put right.
        """
        if shelf not in self._unreadable:
            self._unreadable[shelf] = read_reasons(self._reasons_file(shelf)) if self.embedder is None else {}
        return self._unreadable[shelf]

    def _remember(self, shelf: str, reasons: dict[str, str]) -> None:
        self._reasons(shelf).update(reasons)
        path = self._reasons_file(shelf)
        with locked(self.folder / ".lock"):
            write_whole(path, json.dumps(read_reasons(path) | reasons, indent=1, sort_keys=True) + "\n")

    def _reasons_file(self, shelf: str) -> Path:
        return self.folder / f"{shelf}.unreadable.json"

    @property
    def grid(self) -> Grid | None:
        """Where the cells of patch features lie on the input; None for a model without them."""
        if self.card.grid is None:
            return None
        *shape, stride, offset = self.card.grid
        return Grid(tuple(shape), tuple(stride), tuple(offset))

    def geometry(self, data: Data, index: int) -> Geometry:
        """Return how an encoded image lies on the model's input."""
        from vlp.core.config import validate
        from vlp.modalities.image.processor import ImageProcessor
        from vlp.modalities.image.spec import ImageSpec

        if self._preprocess is None:
            self._preprocess = ImageProcessor(validate(ImageSpec, self.card.image_spec, "image"))
        height, width = self._shelf(_shelf_name(data, "")).facts[data.records[index].key]
        return self._preprocess.geometry(height, width)

    def ensure(
        self,
        data: Data,
        indices: Sequence[int],
        patches: bool = False,
        view: str = "",
        transform: Transform | None = None,
    ) -> None:
        """Encode those of the images that are not there yet. `view` names a `transform` of the pixels (corruptions).

        Raises UnreadableError for images that do not decode, after the others are done.
        """
        place, name = _shelf_name(data, view), "patches" if patches else "images"
        shelf, known = self._shelf(place), self._reasons(place)
        asked = [index for index in sorted(set(indices)) if not shelf.has(data.records[index].key, name)]
        bad = {key: known[key] for key in (data.records[index].key for index in asked) if key in known}
        todo = [index for index in asked if data.records[index].key not in bad]
        if not todo:
            if bad:
                raise UnreadableError(bad, data)
            return
        if self.embedder is None:
            what = "patch features" if patches else "embedding"
            raise DataError(
                f"{self.folder} has no {what} of image {data.records[todo[0]].key!r} ({len(todo)} are missing)"
            )
        title = f"encode {len(todo)} images" + (f" ({view})" if view else "")
        task = self.progress.add_task(title, total=len(todo)) if self.progress else None
        queue = self._prepared(data, todo, transform, bad)
        done: list[tuple[Sequence[str], Sequence[Any], dict[str, NDArray[Any]]]] = []
        while True:
            batch = list(islice(queue, ROWS))
            if batch:
                keys, sizes, inputs = zip(*batch, strict=True)
                done.append((keys, sizes, self._forward(inputs, patches)))
            if done and (len(batch) < ROWS or len(done) * ROWS == PART):
                arrays = {name: np.concatenate([part[2][name] for part in done]) for name in done[0][2]}
                shelf.add(
                    [key for part in done for key in part[0]], [fact for part in done for fact in part[1]], arrays
                )
                done = []
            if self.progress:
                self.progress.advance(task, len(batch))
            if len(batch) < ROWS:
                break
        if self.progress:
            self.progress.remove_task(task)
        if bad:
            self._remember(place, bad)
            raise UnreadableError(
                {key: bad[key] for key in (data.records[index].key for index in asked) if key in bad}, data
            )

    def _prepared(
        self, data: Data, todo: Sequence[int], transform: Transform | None, bad: dict[str, str]
    ) -> Iterator[tuple[str, tuple[int, int], NDArray[Any]]]:
        import cv2
        import torch

        embedder, threads = self.embedder, torch.get_num_threads()
        assert embedder is not None

        def prepare(index: int) -> tuple[str, tuple[int, int], NDArray[Any]] | str:
            try:
                content = data.image(index)
                content = apply(content, transform) if transform else content
                inputs, size = embedder.prepare(content)
                return data.records[index].key, size, inputs
            except (ValueError, OSError, cv2.error) as error:
                return stable_message(error)

        with ThreadPoolExecutor(self.workers, initializer=lower_thread_priority) as pool:
            waiting = iter(todo)
            ahead = deque((item, pool.submit(prepare, item)) for item in islice(waiting, AHEAD))
            while ahead:
                index, future = ahead.popleft()
                result = future.result()
                for item in islice(waiting, 1):  # decoding goes on while the model works
                    ahead.append((item, pool.submit(prepare, item)))
                if isinstance(result, str):
                    bad[data.records[index].key] = result
                else:
                    yield result
        torch.set_num_threads(threads)  # what later threads of the process will take

    def _forward(self, inputs: Sequence[NDArray[Any]], patches: bool) -> dict[str, NDArray[Any]]:
        assert self.embedder is not None
        count = len(inputs)
        rows, cells = self.embedder.images(np.stack([*inputs, *[inputs[0]] * (ROWS - count)]), patches)
        arrays: dict[str, NDArray[Any]] = {"images": rows[:count]}
        if patches:
            if cells is None:
                raise ConfigError(f"{self.card.name} has no patch features")
            arrays["patches"] = cells[:count]
        return arrays

    def images(self, data: Data, indices: Sequence[int], view: str = "", transform: Transform | None = None) -> Floats:
        """Return raw embeddings [n, D] of images."""
        if not len(indices):
            return np.zeros((0, self.card.dim), np.float32)
        self.ensure(data, indices, view=view, transform=transform)
        rows: Floats = self._shelf(_shelf_name(data, view)).rows(
            [data.records[index].key for index in indices], "images"
        )
        return rows

    def patches(self, data: Data, indices: Sequence[int]) -> Floats:
        """Return patch features [n, P, D] of images."""
        self.ensure(data, indices, patches=True)
        rows: Floats = self._shelf(_shelf_name(data, "")).rows(
            [data.records[index].key for index in indices], "patches"
        )
        return rows

    def texts(self, texts: Sequence[str]) -> Floats:
        """Return raw embeddings [n, D] of texts; equal texts are encoded once."""
        return self._written("texts", texts, self.embedder.texts if self.embedder else None)

    def parts(self, parts: Sequence[tuple[str, tuple[int, int]]]) -> Floats:
        """Return raw word features [n, D] of texts' characters `[start, end)`. Raises DataError for a model without any."""

        embedder: Any = self.embedder
        if embedder is not None and not hasattr(embedder, "parts"):
            raise DataError(f"{self.card.name} gives no word features (`parts`)")

        def encode(todo: Sequence[tuple[str, tuple[int, int]]]) -> Floats:
            rows: Floats = embedder.parts([text for text, _ in todo], [span for _, span in todo])
            return rows

        return self._written("parts", parts, encode if embedder else None)

    def _written(self, name: str, wanted: Sequence[Any], encode: Callable[[list[Any]], Floats] | None) -> Floats:
        """Return the rows [n, D] of what is written, from the shelf `name`; those that are not there yet are encoded."""
        if not len(wanted):
            return np.zeros((0, self.card.dim), np.float32)
        shelf = self._shelf(name)
        written = (item if isinstance(item, str) else json.dumps(item) for item in wanted)
        codes = [hashlib.sha256(text.encode()).hexdigest()[:32] for text in written]
        todo = {code: one for code, one in sorted(zip(codes, wanted, strict=True)) if not shelf.has(code, name)}
        if todo:
            if encode is None:
                raise DataError(
                    f"{self.folder} has no embedding of a text that this task needs ({len(todo)} are missing)"
                )
            task = self.progress.add_task(f"encode {len(todo)} texts", total=None) if self.progress else None
            shelf.add(list(todo), [None] * len(todo), {name: encode(list(todo.values()))})
            if self.progress:
                self.progress.remove_task(task)
        found: Floats = shelf.rows(codes, name)
        return found


def lower_thread_priority() -> None:
    """Make a decoding thread give way to the forward pass: one core at a time, and only what the model leaves idle.

    The passes of a model wait for their slowest thread, so a core that decodes holds up all of them.
    """
    import cv2
    import torch

    cv2.setNumThreads(0)
    torch.set_num_threads(1)  # of this thread: the model's keeps its own number
    with contextlib.suppress(OSError, AttributeError):  # Linux counts niceness by thread; elsewhere it stays as it is
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _shelf_name(data: Data, view: str) -> str:
    return f"{data.digest[:16]}-{VERSION}{f'-{view}' if view else ''}"


def read_reasons(path: Path) -> dict[str, str]:
    """Return why images did not decode, by key; empty where none is remembered."""
    if not path.is_file():
        return {}
    reasons: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return reasons


def read_card(path: Path) -> Card:
    """Return the card of the model that made a folder of embeddings."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["grid"]:
            height, width, stride, offset = tree["grid"]
            tree["grid"] = (height, width, tuple(stride), tuple(offset))
        return Card(**tree)
    except (ValueError, LookupError, TypeError):
        raise ConfigError(f"{path} is no card of embeddings that vlp-eval wrote: choose another folder") from None


def apply(image: bytes, transform: Transform) -> bytes:
    """Return an encoded image with its pixels transformed, losslessly encoded."""
    import cv2

    from vlp.modalities.image.decode import decode

    changed = transform(decode(image, 3))
    return bytes(cv2.imencode(".png", changed[..., ::-1])[1].tobytes())
