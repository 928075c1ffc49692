"""One `bootstrap` process, with a Runtime API, a log and a temporary folder of its own."""

import os
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

from .runtime_api import Event, RuntimeApi


class Sandbox:
    """Starts the process at once; raises OSError where that is impossible."""

    def __init__(self, code: Path, env: dict[str, str]):
        self.bootstrap = code / "bootstrap"
        self.built_ns = self.bootstrap.stat().st_mtime_ns
        self.api = RuntimeApi()
        self.scratch = tempfile.TemporaryDirectory(prefix="function-")
        # A file and no pipe: what the function wrote before it answered is there when the answer is.
        self.log, self.log_end = tempfile.TemporaryFile(), 0
        env = {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "TMPDIR": self.scratch.name,
            **env,
            "AWS_LAMBDA_RUNTIME_API": self.api.address,
            "LAMBDA_TASK_ROOT": str(code),
        }
        if mark := os.environ.get("SLUICE_PROCESS"):  # so that the stack finds functions that outlived LocalStack
            env["SLUICE_PROCESS"] = mark + "/function"
        try:
            self.process = subprocess.Popen(
                [self.bootstrap], cwd=code, env=env, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        except OSError:
            self.api.close()
            self.scratch.cleanup()
            raise
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        status = self.process.wait()
        words = f"signal: {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        self.api.events.put(Event("exit", body=words.encode()))

    def is_usable(self) -> bool:
        """False once the process has ended, or its binary has been replaced (hot reload)."""
        if self.process.poll() is not None:
            return False
        try:
            return self.bootstrap.stat().st_mtime_ns == self.built_ns
        except FileNotFoundError:  # in the middle of being replaced: what runs is good enough
            return True

    def take_logs(self) -> str:
        """What the function has written since the last call."""
        chunk = os.pread(self.log.fileno(), 64 << 20, self.log_end)
        self.log_end += len(chunk)
        text = chunk.decode(errors="replace")
        return text if not text or text.endswith("\n") else text + "\n"

    def max_memory_mb(self) -> int:
        """The most memory that the process ever held; 0 if it has ended."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            return int(status.partition("VmHWM:")[2].split()[0]) // 1024
        except (OSError, IndexError):
            return 0

    def stop(self) -> None:
        """Ends the process and its children. May be called twice."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.api.close()
        self.scratch.cleanup()
