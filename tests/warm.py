"""Processes of tests that start in milliseconds: forks of one server that has imported torch and transformers already.

`Popen` and `run` are those of `subprocess`, for commands `python -m MODULE ...` and `python -c CODE ...`. A process is as
real as any: it has its own pid, session, environment, streams and exit, and may be killed; only its imports were done
before. All processes of one session of tests share the server. It shares the seed of its hashes with them, so a test of
what differs between interpreters starts its own; and it never sees a GPU: where there is one, nothing here is forked.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path
from typing import Any

from tests import ROOT

PLACE = "VLP_TESTS_WARM"
"""The environment variable that names the server's folder; set once by the process that the user started."""
IMPORTS = (
    "deepspeed",
    "open_clip",
    "timm",
    "torch._dynamo",
    "transformers.models.bert.modeling_bert",
    "vlp.data.loader",
    "vlp.hub",
    "vlp.train.dry_run",
    "vlp.train.trainer",
    "vlp_eval.runner",
    "vlp_prep.cli",
)
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "DS_ACCELERATOR": "cpu",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
READ_AT_IMPORT = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "PYTHON")
"""Beginnings of the variables whose value matters while libraries are imported."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""What processes that check an export have: for them there is a second server."""


def open_place() -> None:
    """Name a folder for the servers that processes below this one will share, with the environments they will start in."""
    place = Path(tempfile.mkdtemp(prefix="vlp-warm-"))
    for name, more in (("plain", {}), ("offline", OFFLINE)):
        (place / name).mkdir()
        (place / name / "environment.json").write_text(json.dumps({**os.environ, "PYTHONPATH": "", **more}))
        (place / name / "owner").write_text(str(os.getpid()))
    os.environ[PLACE] = str(place)


def close_place() -> None:
    """End the servers that were needed, and remove their folder."""
    place = Path(os.environ.pop(PLACE))
    for path in place.glob("*/pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGKILL)
    shutil.rmtree(place)


# ---------------------------------------------------------------------- the tests' side


class Popen(subprocess.Popen[Any]):
    """A `subprocess.Popen` that the server starts for it, where it can."""

    _line: socket.socket | None = None

    def _execute_child(self, args: Any, *rest: Any) -> None:
        (_, preexec, _, pass_fds, cwd, env, _, _, shell, *pipes) = rest
        inward, _, _, outward, _, errors = pipes[:6]
        env = {**os.environ} if env is None else {str(key): str(value) for key, value in env.items()}
        words = [args] if isinstance(args, str) else [str(word) for word in args]
        server = None if preexec or pass_fds or shell else _server_of(words, env)
        if server is None:
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        session = bool(pipes[11])
        request = json.dumps([words[1:], str(cwd or os.getcwd()), env, session]).encode()
        self._line = _connect(server)
        standard = [own if own != -1 else inherited for own, inherited in ((inward, 0), (outward, 1), (errors, 2))]
        socket.send_fds(self._line, [len(request).to_bytes(8, "big")], standard)
        self._line.sendall(request)
        self.pid = int.from_bytes(_receive(self._line, 8), "big")
        self._child_created = True
        self._close_pipe_fds(*pipes[:6])  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._line is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc, no-any-return]
        self._line.setblocking(not wait_flags & os.WNOHANG)
        try:
            return self.pid, int.from_bytes(_receive(self._line, 8), "big")
        except BlockingIOError:
            return 0, 0

    def _internal_poll(self, *rest: Any, **more: Any) -> int | None:
        if self._line is None:
            return super()._internal_poll(*rest, **more)  # type: ignore[misc, no-any-return]
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)  # type: ignore[attr-defined]
        return self.returncode


def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run` of a process of the server."""
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    check, timeout, given = options.pop("check", False), options.pop("timeout", None), options.pop("input", None)
    with Popen(*arguments, **options) as process:
        try:
            out, errors = process.communicate(given, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, errors)
    if check:
        done.check_returncode()
    return done


def _server_of(words: list[str], environment: dict[str, str]) -> Path | None:
    """Return the folder of the server that started as this command would have."""
    if PLACE not in os.environ or Path("/dev/nvidiactl").exists() or not hasattr(os, "pidfd_open"):
        return None
    if words[0] != sys.executable or words[1] not in ("-m", "-c"):
        return None
    for path in Path(os.environ[PLACE]).glob("*/environment.json"):
        started = json.loads(path.read_text())
        names = [name for name in {*started, *environment} if name.startswith(READ_AT_IMPORT) and name != "PYTHONPATH"]
        if all(started.get(name) == environment.get(name) for name in names):
            return path.parent
    return None


def _connect(folder: Path) -> socket.socket:
    """Return a connection to the server, which the first to ask starts."""
    from filelock import FileLock

    with FileLock(folder / "lock"):
        if not (folder / "socket").exists():
            environment = json.loads((folder / "environment.json").read_text())
            with open(folder / "said", "w") as said:
                server = subprocess.Popen(
                    [sys.executable, "-c", f"from tests import warm; warm.work({str(folder)!r})"],
                    cwd=ROOT, env={**environment, **ONE_THREAD}, start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                )  # fmt: skip
            while not (folder / "socket").exists():
                assert server.poll() is None, (folder / "said").read_text()
                time.sleep(0.05)
            server.returncode = 0  # it outlives this process, which is not to warn of it
    line = socket.socket(socket.AF_UNIX)
    line.connect(str(folder / "socket"))
    return line


def _receive(line: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = line.recv(size - len(found))
        if not part:
            raise EOFError("the server of processes is gone")
        found += part
    return found


# ---------------------------------------------------------------------- the server's side


def work(place: str) -> None:
    """Serve until the owner of the folder ends; a fork returns from serving and becomes the command asked for."""
    request = _serve(Path(place))
    if request is not None:
        _become(*request)


def _serve(folder: Path) -> tuple[list[str], str, dict[str, str]] | None:
    for name in IMPORTS:
        __import__(name)
    gc.freeze()  # a fork that collects garbage would copy all of it
    (folder / "pid").write_text(str(os.getpid()))
    owner = os.pidfd_open(int((folder / "owner").read_text()))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "bound"))
    listener.listen(64)
    (folder / "bound").rename(folder / "socket")  # who sees it can connect
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    waiting.register(owner, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj == owner:
                return None
            if key.fileobj is listener:
                line, _ = listener.accept()
                head, standard, _, _ = socket.recv_fds(line, 8, 3)
                words, cwd, environment, session = json.loads(_receive(line, int.from_bytes(head, "big")))
                pid = os.fork()
                if not pid:
                    if session:
                        os.setsid()
                    for number, given in enumerate(standard):
                        os.dup2(given, number)
                        os.close(given)
                    for other in list(waiting.get_map().values()):  # closed here: it is not to close another's later
                        os.close(other.fd) if isinstance(other.fileobj, int) else None
                        if other.data:
                            other.data[1].close()
                    for thing in (line, listener, waiting):
                        thing.close()
                    return words, cwd, environment
                for given in standard:
                    os.close(given)
                line.sendall(pid.to_bytes(8, "big"))
                waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, line))
            else:
                pid, line = key.data
                waiting.unregister(key.fileobj)
                os.close(int(key.fd))
                _, status = os.waitpid(pid, 0)
                with contextlib.suppress(BrokenPipeError):  # no process waits for it any more
                    line.sendall(status.to_bytes(8, "big"))
                line.close()


def _become(words: list[str], cwd: str, environment: dict[str, str]) -> None:
    import numpy as np

    np.random.seed()  # noqa: NPY002 (what an interpreter starts with)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    kind, what, *arguments = words
    sys.path[:1] = [cwd if kind == "-m" else "", *paths]
    sys.argv = [kind, *arguments]
    code = 0
    try:
        if kind == "-m":
            if not hasattr(sys.modules.get(what), "__path__"):  # a module is read anew, as `__main__`
                sys.modules.pop(what, None)
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), sys.modules["__main__"].__dict__)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            sys.stderr.write(f"{stop.code}\n")
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
        if isinstance(error, KeyboardInterrupt):
            code = 128 + signal.SIGINT
    # As an interpreter ends, but for taking every module apart, which costs half a second.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == 128 + signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)
