"""Kernels forked from one process, which has imported what notebooks need: each import is paid for once a run.

As a program, it reads one kernel a line (arguments, environment, folder) and answers with its process number. When
its input ends, because the runner closed it or died, it kills every kernel and all that the kernels started.
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
"""What notebooks import. Nothing is called before the fork: threads and a GPU in use would not survive it."""


@contextlib.contextmanager
def kernels(environment: dict[str, str]) -> Iterator[type]:
    """A kernel manager whose kernels run this interpreter with `environment` on top, and end with the context.

    On Linux they are forks of one process; elsewhere that is not safe.
    """
    psutil, jupyter = import_extra("psutil", "course"), import_extra("jupyter_client.manager", "course")
    this, lock = psutil.Process(), Lock()
    before = this.children(recursive=True)
    server = _start(environment) if sys.platform == "linux" else None

    class Forked(psutil.Process):  # as much of a Popen as Jupyter needs
        stdin = stdout = stderr = None

        def poll(self) -> int | None:
            return None if self.is_running() and self.status() != psutil.STATUS_ZOMBIE else 0

        def wait(self, timeout: float | None = None) -> int:
            return 0

    class Manager(jupyter.AsyncKernelManager):
        async def _async_launch_kernel(self, kernel_cmd: list[str], env: dict[str, str], **options: Any) -> None:
            env = {name: value for name, value in env.items() if name != "JPY_SESSION_NAME"} | environment  # no reader
            arguments = ["-f", self.connection_file, "--HistoryManager.hist_file=:memory:"]
            if not server:
                command = [sys.executable, "-m", "ipykernel_launcher", *arguments]
                return await super()._async_launch_kernel(command, env=env, stderr=subprocess.DEVNULL, **options)
            with lock:
                print(json.dumps([arguments, env, options["cwd"]]), file=server.stdin, flush=True)
                number = int(server.stdout.readline())
            kernel = self.provisioner
            kernel.process, kernel.pid, kernel.pgid = Forked(number), number, number
            self._reconcile_connection_info(kernel.connection_info)

    try:
        yield Manager
    finally:
        if server:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.communicate(timeout=5)
        for child in {*this.children(recursive=True)} - {*before}:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def _start(environment: dict[str, str]) -> Any:
    backend = os.environ.get("MPLBACKEND") or "module://matplotlib_inline.backend_inline"  # as ipykernel chooses
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    command = [sys.executable, "-m", __name__, *PRELOADED]
    environment = os.environ | environment | {"MPLBACKEND": backend}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


def serve() -> None:
    """Fork a kernel for each line of the input."""
    answers, started = os.fdopen(os.dup(1), "w"), []
    os.dup2(2, 1)
    del sys.path[0]  # the folder of the runner; a kernel has its own
    for module in sys.argv[1:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    for name in [name for name in sys.modules if name.partition(".")[0] == "clipnull"]:
        del sys.modules[name]  # a stamp covers what the notebook itself loads
    for line in sys.stdin:
        if not (number := os.fork()):
            answers.close()
            return _become_kernel(*json.loads(line))
        started.append(number)
        print(number, file=answers, flush=True)
    for number in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(number, signal.SIGKILL)
        os.waitpid(number, 0)


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
