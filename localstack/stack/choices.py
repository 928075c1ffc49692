"""What `up` is told about a stack, checked before anything is made of it and kept for the commands that follow."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import board
import chdb
import clickhouse
import cloud
import docker
import elasticsearch
import kafka
import machine
import mongodb
import opensearch
import postgres
import process
import sluice
from console import Failure, say
from layout import Stack, lock

# Argument → the fact it becomes, and what that is if nothing is said.
CHOICES = {
    "USE_DATABASE": ("use_database", ""),
    "USE_ELASTICSEARCH": ("use_elasticsearch", ""),
    "USE_CLICKHOUSE": ("use_clickhouse", ""),
    "USE_KAFKA": ("use_kafka", ""),
    "SEARCH": ("search", elasticsearch.NAME),
    "ELASTICSEARCH_VERSION": ("elasticsearch", "8"),
    "POSTGRES_BIN": ("postgres_bin", ""),
    "DOCKER": ("docker", ""),
    "RUN": ("run", ""),
    "LIVE": ("live", ""),
}
# What SEARCH may name: each stack has one of them.
SEARCH = {server.NAME: server for server in (elasticsearch, opensearch)}
# What TARGETS may name: servers beside those that every stack has; MongoDB is no target, but what the ingest reads.
TARGETS = {server.NAME: server for server in (clickhouse, kafka, chdb, mongodb)}
ALL = (clickhouse.NAME, kafka.NAME)  # those that streams go to, each with a function of its own
# An existing server, by the fact that names it.
GIVEN = {"use_database": postgres, "use_elasticsearch": elasticsearch, "use_clickhouse": clickhouse, "use_kafka": kafka}


def targets(stack: Stack) -> list:
    """The targets that the stack has."""
    return [server for name, server in TARGETS.items() if name in stack.targets]


def search_server(stack: Stack):
    """The one that the stack has; a given one is asked as Elasticsearch is."""
    return SEARCH[stack.search]


def servers_of(stack: Stack) -> list:
    """All that the stack has, in an order in which each has what it needs from those before it."""
    queues = [] if stack.run == sluice.DIRECT else [cloud]
    return [postgres, search_server(stack), *targets(stack), *queues, *([sluice] if stack.run else []), *([board] if stack.facts.get("live") else [])]


def named_targets(arguments: dict[str, str]) -> list[str]:
    """What TARGETS names."""
    named = [name for name in arguments.get("TARGETS", "").split(",") if name]
    if wrong := [name for name in named if name not in (*TARGETS, "all")]:
        raise Failure(f"TARGETS={','.join(wrong)}: there are {', '.join(TARGETS)}, and all, which is {','.join(ALL)}")
    return [name for name in TARGETS if name in named or "all" in named and name in ALL]


def add_targets(stack: Stack, arguments: dict[str, str]) -> None:
    """What TARGETS names is added to the targets that the stack has, and what is given: it changes no data of the other servers."""
    named = named_targets(arguments) + [server.NAME for fact, server in GIVEN.items() if stack.facts.get(fact)]
    stack.facts["targets"] = ",".join(name for name in TARGETS if name in stack.targets + named)


def require_search(arguments: dict[str, str]) -> None:
    """Fails where the arguments name a search server, or a version of it, that there is not."""
    if arguments.get("SEARCH", elasticsearch.NAME) not in SEARCH:
        raise Failure(f"SEARCH is one of {', '.join(SEARCH)}")
    if arguments.get("ELASTICSEARCH_VERSION", "8") not in elasticsearch.RELEASES:
        raise Failure(f"ELASTICSEARCH_VERSION is one of {', '.join(elasticsearch.RELEASES)}")


@contextmanager
def made(arguments: dict[str, str]) -> Iterator[Stack]:
    """The stack, locked, made with these choices. Wrong ones leave nothing behind."""
    stack = Stack(arguments.get("STACK", "default"))
    require_search(arguments)
    if arguments.get("RUN", "") not in ("", sluice.DIRECT, sluice.QUEUE):
        raise Failure("RUN is direct or queue: how the process `sluice` runs. Without it the functions are deployed into LocalStack")
    if arguments.get("LIVE", "") not in ("", "1"):
        raise Failure("LIVE=1 has live sync, and the board of examples/board; without it there is neither")
    with lock(stack.folder, f"the stack `{stack.name}`"):
        stack = Stack(stack.name)  # another command may have made it while this one waited
        is_new = not stack.exists
        if not is_new:
            _compare(stack, arguments)
        for argument, (fact, default) in CHOICES.items():
            stack.facts[fact] = stack.facts.get(fact) or arguments.get(argument, default)
        stack.facts["maven_repository"] = arguments.get("MAVEN_REPOSITORY", "")
        stack.plan()
        try:
            add_targets(stack, arguments)
            _check(stack)
        except Failure:
            if is_new:
                stack.remove()
            raise
        stack.remember()
        yield stack


def _compare(stack: Stack, arguments: dict[str, str]) -> None:
    for argument, (fact, default) in CHOICES.items():
        # The tests' stack is made anew for other choices, and saying nothing is a choice; another one is only asked
        # about what is said.
        wanted = arguments.get(argument, default if stack.is_for_tests else stack.facts.get(fact, default))
        server = GIVEN.get(fact)
        adds_target = server and server.NAME in TARGETS and server.NAME not in stack.targets
        adds_live = fact == "live" and wanted  # which changes no data, either
        if wanted == stack.facts.get(fact, default) or adds_target or adds_live:
            continue
        if not stack.is_for_tests:
            raise Failure(
                f"the stack `{stack.name}` was made with another {argument}.\n"
                f"    Make it anew:   make clean{stack.argument}\n    or another one:  make up STACK=other {argument}=…"
            )
        say("stack", f"making `{stack.name}` anew, for another {argument}")
        for server in reversed(servers_of(stack)):
            server.stop(stack)
        stack.remove()
        stack.folder.mkdir()
        return


def _check(stack: Stack) -> None:
    """What was given must answer, and what is to be started needs its ports: all of it before anything is started."""
    given = {argument: stack.facts[fact] for argument, (fact, _) in CHOICES.items() if fact in GIVEN and stack.facts.get(fact)}
    if stack.search == opensearch.NAME and (other := next((it for it in ("DOCKER", "USE_ELASTICSEARCH") if stack.facts[CHOICES[it][0]]), "")):
        raise Failure(f"SEARCH=opensearch is for stacks that start their own server, without Docker: leave it out, or {other}")
    if stack.facts.get("live") and not stack.run:
        raise Failure("LIVE=1 is for stacks in which one process does all: say RUN=direct, too")
    if stack.facts["docker"]:
        if given:
            raise Failure(f"DOCKER=1 has servers of its own, so leave out {', '.join(given)}, or DOCKER=1")
        if chdb in targets(stack):
            raise Failure("TARGETS=chdb is for stacks without Docker; with it, TARGETS=clickhouse is the ClickHouse of today")
        if mongodb in targets(stack):
            raise Failure("TARGETS=mongodb is for stacks without Docker")
        if stack.run:
            raise Failure(f"RUN={stack.run} is for stacks without Docker")
        return docker.check()
    machine.check(stack, search_server(stack).release(stack))
    if stack.facts["use_database"]:
        postgres.connection(stack.database_url)
        postgres.psql(stack, "SELECT 1")
    if stack.facts["use_elasticsearch"]:
        elasticsearch.wait(stack, None)
    for argument, server in {"USE_CLICKHOUSE": clickhouse, "USE_KAFKA": kafka}.items():
        if argument in given and not server.is_healthy(stack):
            raise Failure(f"{argument}: {address(given[argument])} does not answer, or not this user")
    if (given := stack.facts["postgres_bin"]) and not os.access(Path(given) / "initdb", os.X_OK):
        raise Failure(f"POSTGRES_BIN={given} holds no initdb; it should be like /usr/lib/postgresql/15/bin")
    for server in servers_of(stack):
        if uses_own(stack, server) and not process.find(stack, server.NAME):
            for words, first in server.PORTS.items():
                process.require_port(stack, words, stack.port(first))


def uses_own(stack: Stack, server) -> bool:
    """False where an existing server was given instead."""
    return not given_to(stack, server)


def given_to(stack: Stack, server) -> str:
    """The existing server that was given instead: its URL, or brokers."""
    return next((stack.facts.get(fact, "") for fact, given in GIVEN.items() if given is server), "")


def address(url: str) -> str:
    """A URL without credentials and scheme."""
    return url.rpartition("@")[2].rpartition("://")[2]
