"""The whole system on one machine. `make` is the front: every command here is a target there.

    localstack/stack/run up STACK=name ELASTICSEARCH_VERSION=9
"""

import os
import signal
import sys

import commands
import tests
from console import Failure

COMMANDS = commands.COMMANDS | tests.COMMANDS


def main() -> None:
    """Arguments are NAME=value, as make passes them on."""
    command, *pairs = sys.argv[1:] or ["?"]
    if command not in COMMANDS:
        sys.exit(f"usage: {' | '.join(COMMANDS)} [NAME=value …]")
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C does: what the command has started ends with it
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    os.umask(0o022)  # the servers may be another user, who has to reach the folders made here
    try:
        COMMANDS[command](dict(pair.split("=", 1) for pair in pairs))
    except Failure as failure:
        sys.exit(f"\nstack: {failure}")
    except KeyboardInterrupt:
        sys.exit("\nstack: interrupted; the same command goes on from here")


main()
