"""Kernels forked from one process that has already imported the slow modules, so each run imports them once.

As a program, this module reads one kernel per line (arguments, environment, folder) and prints its process id. When
its input ends, because the runner closed it or died, it kills all kernels and their children.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from threading import Lock
from typing import Any

from ..errors import import_extra

PRELOADED = ("ipykernel.kernelapp", "open_clip", "transformers", "seaborn", "sklearn.manifold", "sklearn.linear_model")
"""Slow imports of the notebooks. Only import before the fork, because running threads or a GPU would not survive it."""


@contextlib.contextmanager
def kernels(environment: dict[str, str]) -> Iterator[type]:
    """Yield a kernel manager class. Its kernels run this interpreter with `environment` added and end with the context.

    Kernels are forks of one process on Linux only; elsewhere forking is not safe.
    """
    psutil, jupyter = import_extra("psutil", "course"), import_extra("jupyter_client.manager", "course")
    runner, lock = psutil.Process(), Lock()
    before = runner.children(recursive=True)
    server = _start(environment) if sys.platform == "linux" else None

    class Forked(psutil.Process):  # the part of Popen that Jupyter needs
        stdin = stdout = stderr = None

        def poll(self) -> int | None:
            return None if self.is_running() and self.status() != psutil.STATUS_ZOMBIE else 0

        def wait(self, timeout: float | None = None) -> int:
            return 0

    class Manager(jupyter.AsyncKernelManager):
        async def _async_launch_kernel(self, kernel_cmd: list[str], env: dict[str, str], **options: Any) -> None:
            env = {name: value for name, value in env.items() if name != "JPY_SESSION_NAME"} | environment
            arguments = ["-f", self.connection_file, "--HistoryManager.hist_file=:memory:"]
            if not server:
                command = [sys.executable, "-m", "ipykernel_launcher", *arguments]
                return await super()._async_launch_kernel(command, env=env, stderr=subprocess.DEVNULL, **options)
            with lock:
                print(json.dumps([arguments, env, options["cwd"]]), file=server.stdin, flush=True)
                pid = int(server.stdout.readline())
            kernel = self.provisioner
            kernel.process, kernel.pid, kernel.pgid = Forked(pid), pid, pid
            self._reconcile_connection_info(kernel.connection_info)

    try:
        yield Manager
    finally:
        if server:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.communicate(timeout=5)
        for child in {*runner.children(recursive=True)} - {*before}:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def _start(environment: dict[str, str]) -> Any:
    backend = os.environ.get("MPLBACKEND") or "module://matplotlib_inline.backend_inline"  # ipykernel's default
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    command = [sys.executable, "-m", __name__, *PRELOADED]
    environment = os.environ | environment | {"MPLBACKEND": backend}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


def serve() -> None:
    """Fork a kernel for each line of standard input."""
    replies, pids = os.fdopen(os.dup(1), "w"), []
    os.dup2(2, 1)
    del sys.path[0]  # the folder of the runner; each kernel adds its own
    for module in sys.argv[1:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    for name in [name for name in sys.modules if name.partition(".")[0] == "clipnull"]:
        del sys.modules[name]  # a stamp covers only what the notebook itself loads
    for line in sys.stdin:
        if not (pid := os.fork()):
            replies.close()
            return _become_kernel(*json.loads(line))
        pids.append(pid)
        print(pid, file=replies, flush=True)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _become_kernel(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    parent = os.getppid()
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["ipykernel_launcher", *arguments, f"--IPKernelApp.parent_handle={parent}"]
    import_extra("ipykernel.kernelapp", "course").IPKernelApp.launch_instance()


if __name__ == "__main__":
    serve()
