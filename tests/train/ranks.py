"""Running a test's function as several processes that form a gloo group, as a launcher would start them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }


def _entry(
    function: Callable[..., None],
    rank: int,
    world: int,
    port: int,
    out: Path,
    timeout_minutes: float,
    arguments: tuple[Any, ...],
) -> None:
    os.environ.update(environment(rank, world, port))
    from vlp.core import distributed

    try:
        distributed.init(timeout_minutes)
        function(*arguments)
        distributed.barrier()
        distributed.shutdown()
    except BaseException:
        (out / f"failure-{rank}.txt").write_text(traceback.format_exc())
        os._exit(1)


def run_ranks(
    function: Callable[..., None], world: int, out: Path, *arguments: Any, timeout_minutes: float = 2.0
) -> None:
    """Call `function(*arguments)` in `world` processes; raises AssertionError with their tracebacks when one fails."""
    out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    port = free_port()
    processes = [
        context.Process(target=_entry, args=(function, rank, world, port, out, timeout_minutes, arguments))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    for process in processes:
        if process.is_alive():
            process.kill()
    failures = "\n".join(path.read_text() for path in sorted(out.glob("failure-*.txt")))
    assert not failures and all(process.exitcode == 0 for process in processes), failures or "a rank died"
