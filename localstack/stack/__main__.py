"""The whole system on one machine. `make` is its front: every target here is one there.

    python3 localstack/stack up STACK=name ELASTICSEARCH_VERSION=9
"""

import shlex
import sys

import elasticsearch
import postgres
from console import Failure, say
from layout import Stack, lock


def servers(stack: Stack, arguments: dict[str, str]) -> None:
    """Starts PostgreSQL and Elasticsearch alone."""
    launched = {server: server.start(stack) for server in (elasticsearch, postgres)}
    for server in (postgres, elasticsearch):
        server.wait(stack, launched[server])
        say(server.NAME, "healthy")


def env(stack: Stack, arguments: dict[str, str]) -> None:
    for name, value in {"DATABASE_URL": stack.database_url, "ELASTICSEARCH_URL": stack.elasticsearch_url,
                        "DATABASE_CA_FILE": str(stack.tls / "ca.pem"), "POSTGRES_BIN": str(postgres.install(stack))}.items():
        print(f"export {name}={shlex.quote(value)}")


def main() -> None:
    command, *pairs = sys.argv[1:]
    arguments = dict(pair.split("=", 1) for pair in pairs)
    stack = Stack(arguments.get("STACK", "default"))
    if command == "servers":
        with lock(stack.folder, "this stack"):
            stack.create()
            servers(stack, arguments)
    elif stack.exists:
        env(stack, arguments)
    else:
        raise Failure("no stack")


try:
    main()
except Failure as failure:
    sys.exit(f"stack: {failure}")
