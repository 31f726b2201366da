"""Images made ready for a model by threads, while the model works on those before."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.dataset import Data, png_of
from ..failures import stable_message
from ..models.base import Embedder

Transform = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
Prepared = tuple[str, tuple[float, ...], NDArray[Any]]
"""An image's key, its extent (see `Embedder.prepare`), and the model's input."""


def prepared(
    embedder: Embedder, data: Data, indices: Sequence[int], transform: Transform | None, workers: int, ahead: int
) -> Iterator[Prepared | tuple[str, str]]:
    """Yield images in order, (key, reason) for one that does not decode; `ahead` of them are decoded in advance."""
    import cv2
    import torch

    from vlp.modalities.image.decode import decode

    threads = torch.get_num_threads()

    def prepare(index: int) -> Prepared | tuple[str, str]:
        key = data.records[index].key
        try:
            image = data.image(index)
            inputs, extent = embedder.prepare(png_of(transform(decode(image, 3))) if transform else image)
            return key, extent, inputs
        except (ValueError, OSError, cv2.error) as error:
            return key, stable_message(error)

    with ThreadPoolExecutor(workers, initializer=lower_thread_priority) as pool:
        waiting = (pool.submit(prepare, index) for index in indices)
        queue = deque(islice(waiting, ahead))
        while queue:
            result = queue.popleft().result()
            queue.extend(islice(waiting, 1))  # decoding goes on while the model works
            yield result
    torch.set_num_threads(threads)  # what later threads of the process will take


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
