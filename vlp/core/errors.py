"""The error of what a user can put right, and what the four commands say and return when something goes wrong.

Exit codes: 0 done, 1 the machine or the program failed (a full disk, a bug), 2 the command, recipe or data is wrong,
130 interrupted by ctrl-C, 141 the reader of the output has left (`| head -1`); `vlp-eval` has 3 beside these: some tasks
could not be scored. A bug is told with its traceback, anything else in one line; VLP_TRACEBACK=1 shows every traceback.
"""

from __future__ import annotations

import errno
import os
import re
import select
import sys
import traceback
from collections.abc import Callable

DONE, FAILED, WRONG, INTERRUPTED, UNREAD = 0, 1, 2, 130, 141

HANDLES = (errno.EMFILE, errno.ENFILE)
MACHINE = {
    errno.ENOSPC: "no space is left on the device: free some, or write elsewhere",
    errno.EDQUOT: "the disk quota is used up: free some space, or write elsewhere",
    errno.EFBIG: "the file would be larger than is allowed here (see `ulimit -f`)",
    errno.ENOMEM: "no memory is left: use fewer workers or smaller batches",
    errno.EROFS: "the file system is read-only: write elsewhere",
    errno.EIO: "the device reports an error in reading or writing",
    errno.ESTALE: "the network file system has lost the file",
}
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
USER = {
    errno.EACCES: "no permission",
    errno.EPERM: "not permitted",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "not a folder",
    errno.EISDIR: "is a folder, where a file is expected",
    errno.EEXIST: "exists already",
    errno.ELOOP: "is a symbolic link, which is not followed here",
    errno.ENAMETOOLONG: "the name is too long for this file system",
}
NO_HANDLES = 100 + errno.EMFILE
"""Exit code of a loader's worker that has no file handles left to send a batch by."""

UNSENT = ("received 0 items of ancdata", "Too many open files", f"exited unexpectedly with exit code {NO_HANDLES}")
TORCH = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]|(?:Too many open files|No space left on device) \((\d+)\)")


class ConfigError(ValueError):
    """Something in a recipe, on the command line or in the data is wrong; the message says where, what was expected, and
    the nearest right name."""


class UnsupportedByFormat(ConfigError):
    """An export format cannot express what the model does; the message says what, and which format can."""


def first_line(error: BaseException) -> str:
    """Return the first line of what another library says of an error, its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def in_words(error: BaseException) -> str | None:
    """Return what the operating system refused, with what to do about it, in one line; None for any other error."""
    found = _refusal(error)
    if found is None:
        return None
    number, cause = found
    name = cause.filename if isinstance(cause, OSError) else None
    if number in HANDLES:
        return (
            f"no file handles are left ({handle_limit()}): raise the limit with `ulimit -n 4096`, or use fewer workers"
        )
    words = _own_words(cause) or MACHINE.get(number) or USER.get(number) or os.strerror(number).lower()
    return f"{os.fsdecode(name)}: {words}" if isinstance(name, (str, bytes, os.PathLike)) else words


def is_machine(error: BaseException) -> bool:
    """Return whether the machine refused, which no other command line would change."""
    found = _refusal(error)
    return found is not None and (found[0] in HANDLES or (found[0] in MACHINE and not _own_words(found[1])))


def cannot_write(error: BaseException) -> bool:
    """Return whether a disk takes no more: it is full, read-only, or past a quota or limit."""
    found = _refusal(error)
    return found is not None and found[0] in DISK and not _own_words(found[1])


def _own_words(error: BaseException) -> str | None:
    """Return what our own code says of a file, by an OSError with a text that is not the system's."""
    if isinstance(error, OSError) and error.strerror and error.strerror != os.strerror(error.errno or 0):
        return str(error.strerror)
    return None


def run_command(command: str, action: Callable[[], int], resume: str = "") -> int:
    """Run a command's work, which returns its exit code, and tell what stops it; return the exit code.

    `resume` says how the command goes on after ctrl-C.
    """
    try:
        try:
            code = action()
        except SystemExit as stop:  # argparse has printed help, or refused the command line
            if isinstance(stop.__context__, BrokenPipeError):  # rich's answer to a reader that has left
                return UNREAD
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # here, where a reader that has left is no traceback
        return code
    except (Exception, KeyboardInterrupt) as error:
        return report(command, error, resume)


def report(command: str, error: BaseException, resume: str = "") -> int:
    """Print what went wrong in one line, a traceback before it where the program itself is wrong; return the exit code."""
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write(f"\n{command}: interrupted{resume and f'; {resume}'}\n")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError) and _is_unread():
        return UNREAD
    words, text = in_words(error), str(error)
    is_ours = type(error).__module__.partition(".")[0] in ("vlp", "vlp_eval", "vlp_prep", "vlp_recipes")
    is_foreseen = isinstance(error, OSError) or words is not None
    if not (is_ours or is_foreseen) or os.environ.get("VLP_TRACEBACK"):
        traceback.print_exception(error)
    if words is not None and not is_ours:
        text = words
    elif words is not None and is_machine(error) and words not in text:
        text = f"{text} ({words})"
    sys.stderr.write(printable(f"{command}: {' '.join(text.split()) or type(error).__name__}\n"))
    sys.stderr.flush()
    is_wrong = isinstance(error, (ValueError, LookupError)) if is_ours else is_foreseen
    return WRONG if is_wrong and not is_machine(error) else FAILED


def _is_unread() -> bool:
    """Return whether the reader of standard output has left; if so nothing more is written there."""
    try:
        poll, descriptor = select.poll(), sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    poll.register(descriptor, 0)
    if not poll.poll(0):  # it tells of errors only, as a pipe without a reader
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return True


def printable(text: str) -> str:
    """Return a text as a terminal may be shown it: control characters of keys and names are spelled, lines are kept."""
    return "".join(
        letter if letter in "\n\t" or letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def _refusal(error: BaseException) -> tuple[int, BaseException] | None:
    """Return the operating system's error number behind an error or one of its causes, and the cause that had it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            return cause.errno, cause
        if isinstance(cause, MemoryError):
            return errno.ENOMEM, cause
        if any(words in str(cause) for words in UNSENT):
            return errno.EMFILE, cause
        if match := TORCH.search(str(cause)):  # libraries in other languages give the number in their text only
            return int(next(group for group in match.groups() if group)), cause
        cause = cause.__cause__
    return None


def handle_limit() -> str:
    """Say how many files the process may hold open."""
    import resource

    return f"`ulimit -n` is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}"
