"""Running a test's function as several processes that form a gloo group, as a launcher would start them."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import ROOT, warm


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


def enter(given: str, timeout_minutes: float) -> None:
    """Be one of the processes."""
    from vlp.core import distributed

    out = Path(given).parent
    try:
        distributed.init(timeout_minutes)
        function, arguments = pickle.loads(Path(given).read_bytes())
        function(*arguments)
        distributed.barrier()
        distributed.shutdown()
    except BaseException:
        (out / f"failure-{os.environ['RANK']}.txt").write_text(traceback.format_exc())
        os._exit(1)


def run_ranks(
    function: Callable[..., None],
    world: int,
    out: Path,
    *arguments: Any,
    timeout_minutes: float = 2.0,
    cold: bool = False,
) -> None:
    """Call `function(*arguments)` in `world` processes; raises AssertionError with their tracebacks when one fails.

    `cold` ones import everything for themselves, and differ in the seed of their hashes.
    """
    out.mkdir(parents=True, exist_ok=True)
    given, port = out / "given.pickle", free_port()
    given.write_bytes(pickle.dumps((function, arguments)))
    code = f"from tests.train.ranks import enter; enter({str(given)!r}, {timeout_minutes})"
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    start = subprocess.Popen if cold else warm.Popen
    processes = [
        start([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths, **environment(rank, world, port)})
        for rank in range(world)
    ]
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(240)
    for process in processes:
        process.kill()
    given.unlink()
    failures = "\n".join(path.read_text() for path in sorted(out.glob("failure-*.txt")))
    assert not failures and all(process.wait() == 0 for process in processes), failures or "a rank died"
