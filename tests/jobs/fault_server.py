"""Lives of a training run, each forked from one process that has imported everything, and killed where an order says.

Reads orders as JSON lines {options, config, log, kill} and answers each with its exit status. `kill`, or null:
  [target, call, how]   target `module:Class.function`, killed at its call-th call; how: before it, after it, or torn:
                        in the middle of the atomic write that the call is, with half of the file on disk; or asked to
                        stop before it, by a signal of that name
  ["SIGTERM", seconds]  asked to stop by that signal, so long after the run enters its first epoch
  ["clock", seconds]    after that much processor time from the moment the run enters its first epoch
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

TORN = "lavis_mafa.common.artifacts:sync"  # what atomic_write calls last


def serve() -> None:
    import torch

    import lavis_mafa

    torch.set_num_threads(1)
    lavis_mafa.register()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            live(**order)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def live(config: str, options: list[str], log: str, kill: list[Any] | None) -> None:
    """One life, in a child; never returns."""
    from lavis_mafa.train import main

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1), os.dup2(file, 2)
    sys.argv = ["train", "--cfg-path", config, "--options", *options]
    if kill is not None:
        arm(*kill)
    status = 0
    try:
        main()
    except SystemExit as end:
        print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 2
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)


def arm(target: str, at: float, how: str = "before") -> None:
    if target.startswith("SIG"):
        patch("lavis_mafa.runners.grit:GritRunner._run_epoch", lambda original: signalled(original, target, at))
    elif target == "clock":
        patch("lavis_mafa.runners.grit:GritRunner._run_epoch", lambda original: started(original, at))
    else:
        patch(target, lambda original: deadly(original, int(at), how))


def patch(target: str, change: Callable[[Any], Any]) -> None:
    module, path = target.split(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    setattr(owner, name, change(getattr(owner, name)))


def deadly(original: Any, call: int, how: str) -> Any:
    calls = itertools.count(1)

    @functools.wraps(original)
    def wrapped(*args: Any, **options: Any) -> Any:
        last = next(calls) == call
        if last and how == "before":
            die()
        if last and how.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, how))
        if last and how == "torn":
            patch(TORN, lambda _: halve)
        returned = original(*args, **options)
        if last and not how.startswith("SIG"):
            die()
        return returned

    return wrapped


def halve(file: Any) -> None:
    file.flush()
    file.truncate(os.fstat(file.fileno()).st_size // 2)
    die()


def started(original: Any, seconds: float) -> Any:
    @functools.wraps(original)
    def wrapped(*args: Any) -> Any:
        if not signal.getitimer(signal.ITIMER_PROF)[0]:
            signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends a process as SIGKILL does: nothing is run
        return original(*args)

    return wrapped


def signalled(original: Any, name: str, seconds: float) -> Any:
    """A thread sends it, as a scheduler does, from outside."""
    sender = threading.Timer(seconds, os.kill, (os.getpid(), getattr(signal, name)))
    sender.daemon = True

    @functools.wraps(original)
    def wrapped(*args: Any) -> Any:
        if not sender.ident:
            sender.start()
        return original(*args)

    return wrapped


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    serve()
