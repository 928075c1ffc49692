"""How the stack's processes are found and ended, with real ones."""

import os
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from signal import SIGKILL

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stack"))

import process  # noqa: E402
from commands import clean  # noqa: E402
from layout import Stack  # noqa: E402

# A server as Elasticsearch is one: a launcher, and what it launches.
SERVER = ["sh", "-c", "sleep 600 & wait"]


class Processes(unittest.TestCase):
    def test_a_process_that_outlives_its_parent_is_still_the_same(self) -> None:
        """Else a signal to both would leave out the child where the parent ends first, and nobody would wait for it."""
        with tempfile.TemporaryDirectory() as folder:
            stack = Stack(f"process-{os.getpid()}")
            launched = process.start(stack, "server", SERVER, {}, Path(folder), Path(folder) / "log")
            try:
                found = self.wait_for_both(stack)
                parent = next(one for one in found if one.pid == launched.pid)
                (child,) = [one for one in found if one.pid != launched.pid]
                parent.signal(SIGKILL)
                launched.wait(60)
                self.assertTrue(child.is_running())
                child.signal(SIGKILL)
                self.assertTrue(process.wait_for_end(found, 60))
            finally:
                process.kill_all(stack, "server")

    def test_what_is_left_of_a_stack_is_removed_though_nothing_says_what_it_was(self) -> None:
        """A machine that stops while a stack is made, or removed, leaves files without `stack.json`: a cluster of which half is
        there would keep the next stack of that name from starting."""
        stack = Stack(f"process-{os.getpid()}")
        half = stack.folder / "postgres" / "data"
        half.mkdir(parents=True)
        clean({"STACK": stack.name})
        self.assertFalse(stack.folder.exists())

    def wait_for_both(self, stack: Stack) -> list[process.Process]:
        deadline = time.monotonic() + 60
        while len(found := process.find_all(stack, "server")) < 2:
            self.assertLess(time.monotonic(), deadline, found)
            time.sleep(0.01)
        return found


if __name__ == "__main__":
    unittest.main()
