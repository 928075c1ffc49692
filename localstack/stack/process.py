"""Finds, starts and stops the stack's processes.

There are no pid files. Each process carries its stack's and service's name in its environment, so the process table
itself says what runs: nothing can be stale, and nobody else's process is ever taken for one of ours.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from console import Failure, tail
from layout import SERVER_USER, Stack

MARK = "SLUICE_PROCESS"


@dataclass(frozen=True)
class Process:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    start_ticks: int
    parent: int = field(compare=False)  # another one when its parent ends before it

    @property
    def since(self) -> float:
        """When it started, in seconds since the epoch."""
        booted = next(int(line.split()[1]) for line in Path("/proc/stat").open() if line.startswith("btime"))
        return booted + self.start_ticks / os.sysconf("SC_CLK_TCK")

    def is_running(self) -> bool:
        """False when it has ended, is a zombie, or its pid belongs to somebody else by now."""
        return _read(self.pid) == self

    def signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.is_running():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass


def _read(pid: int) -> Process | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else Process(pid, start_ticks=int(fields[19]), parent=int(fields[1]))


def mark(stack: Stack, service: str) -> str:
    """The value of MARK in the environment of a service's processes."""
    return f"{stack.folder}/{service}"


def find_all(stack: Stack, service: str, **variables: str) -> list[Process]:
    """Every process of a service, its children included; of them those that have `variables` in their environment."""
    wanted = {f"{name}={value}".encode() for name, value in {MARK: mark(stack, service), **variables}.items()}
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                    found.append(_read(int(folder.name)))
            except OSError:  # it has ended, or is another user's
                pass
    return [process for process in found if process]


def find(stack: Stack, service: str) -> Process | None:
    """The service's first process: the one that is nobody else's child."""
    all_of_it = find_all(stack, service)
    pids = {process.pid for process in all_of_it}
    return next((process for process in sorted(all_of_it, key=lambda p: p.start_ticks) if process.parent not in pids), None)


def as_server_user() -> dict:
    """Arguments for `subprocess` that give up root."""
    return {"user": SERVER_USER, "group": SERVER_USER, "extra_groups": []} if os.geteuid() == 0 else {}


def own_folder(folder: Path) -> Path:
    """Makes a folder that the servers' user owns."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder, SERVER_USER, SERVER_USER)
    return folder


def start(stack: Stack, service: str, command: list, env: dict, folder: Path, log: Path, **popen) -> subprocess.Popen:
    """Starts a service in a session of its own, so that it outlives this command and its terminal."""
    base = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", MARK: mark(stack, service)}
    with log.open("a") as out:
        return subprocess.Popen(
            [str(part) for part in command], cwd=folder, env={**base, **env}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, **popen,
        )  # fmt: skip


def stop(stack: Stack, service: str, number: int = signal.SIGTERM, patience_s: float = 60) -> bool:
    """Ends a service: politely, and after `patience_s` not. True if there was something to end."""
    first = find(stack, service)
    if not first:
        return False
    first.signal(number)
    wait_for_end([first], patience_s)
    kill_all(stack, service)
    return True


def wait_for_end(processes: list[Process], patience_s: float) -> bool:
    """True when all of them have ended."""
    deadline = time.monotonic() + patience_s
    while is_running := any(process.is_running() for process in processes):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return not is_running


def kill_all(stack: Stack, service: str) -> None:
    """Ends at once what a service left behind: children of a server that was killed, half-started launchers."""
    deadline = time.monotonic() + 20
    while left := find_all(stack, service):
        if time.monotonic() > deadline:
            raise Failure(f"{service}: process {left[0].pid} does not end, not even by SIGKILL")
        for process in left:
            process.signal(signal.SIGKILL)
        time.sleep(0.05)


def kill_inside(folder: Path) -> None:
    """Ends at once every process that works in `folder`: for servers whose children overwrite their environment."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder:
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            pass


def wait_until(ready: Callable[[], bool], service: str, launcher: subprocess.Popen | None, log: Path, seconds: float) -> None:
    """Waits for health, never for a time; a server that ends meanwhile is an error with its own last words."""
    deadline = time.monotonic() + seconds
    while not ready():
        if launcher and launcher.poll() not in (None, 0):
            raise Failure(f"{service} ended with status {launcher.returncode} while starting; see {log}{tail(log)}")
        if time.monotonic() > deadline:
            raise Failure(f"{service} was not healthy within {seconds:.0f} s; see {log}{tail(log)}")
        time.sleep(0.05)


def require_port(stack: Stack, service: str, port: int) -> None:
    """Fails where somebody else listens already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Failure(
                f"port {port}, which {service} of the stack `{stack.name}` needs, is taken by another program.\n"
                f"    Who it is:      ss -ltnp 'sport = :{port}'\n"
                f"    Stop it, or use other ports by another name:  make up STACK=other"
            ) from error
