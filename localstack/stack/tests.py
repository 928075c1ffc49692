"""The tests and the benches, and what they run in."""

import json
import os
import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import artifacts
import exports
import functions
import image
import machine
import npm
import opensearch
import packages
import postgres
import sluice
from choices import TARGETS, made
from commands import clean, down, existing, start_servers, up
from console import Failure, run, say, say_times, tail, timed, together
from layout import CACHE, REPOSITORY, TARGET

WATCH = [str(packages.PYTHON), "-B", "localstack/tests/test_watch.py"]
SAID = CACHE / "tests"  # what each program of the last run said
LONG_FAULTS = {"OUTAGE_SECONDS": "120", "FREEZE_SECONDS": "60", "KILL_CHANGES": "20000"}
# What runs on OpenSearch, too, since it is about the index; of a program all, or the modules that are named.
ON_OPENSEARCH = {
    "search main": [], "indexer main": ["refusals::"], "migrate main": ["indexes::"], "localstack main": ["changes::", "refused::"],
}  # fmt: skip
# What wants the server of a target, or MongoDB, beside the end-to-end tests.
NEAR_TARGETS = ("clickhouse main", "kafka main", "kafka faults", "migrate main", "ingest main")
# For the browser's tests: a date that PostgreSQL knows and Elasticsearch does not makes a hackathon a dead letter.
POISON = "UPDATE demo.hackathons SET ends_at = 'infinity'"
MEND = "UPDATE demo.hackathons SET ends_at = starts_at + interval '2 days'"
# And a profile that was not stored, as none may have been by then.
REJECT = """INSERT INTO sluice.ingest_rejects (source, reason, message, payload, digest)
    VALUES ('profiles', 'status', 'status must be one of active, pending', '{"status": "deleted"}', sha256('rejected')) ON CONFLICT DO NOTHING"""


@dataclass(frozen=True)
class Program:
    """Some tests: what runs them, where, and what it is told beside the stack."""

    name: str
    command: list
    folder: Path = REPOSITORY
    env: dict[str, str] = field(default_factory=dict)


def test(arguments: dict[str, str]) -> None:
    """The tests, in stacks of their own, whatever the shell says about others: in one those that stop servers, and those that
    destroy the deploy; in one the end-to-end tests once more, without a queue, and in one those that are about the index, on
    OpenSearch; beside them the others. All of them run, whatever fails."""
    oldest, chromium = machine.oldest_postgres(), npm.find_chromium()
    env = tests_environment(arguments)
    packages.install_for_tests()
    rust = rust_tests(env, without(arguments))
    watch = Program("the alarms", WATCH)
    processes = Program("the stack's processes", [packages.PYTHON, "-B", "localstack/tests/test_process.py"])
    targets = Program("the targets", [packages.PYTHON, "-B", "localstack/tests/test_targets.py"])
    env_local = Program("what .env.local says", [packages.PYTHON, "-B", "localstack/tests/test_env_local.py"])
    studio = Program("what the demo compares", [packages.PYTHON, "-B", "examples/demo/test_studio.py"])
    npm.build_board()
    client = Program("the client of live sync", ["node", "--test", *sorted((npm.BOARD / "dist" / "test").glob("*.test.js"))], npm.BOARD, npm.env())
    infra = Program("infra", [packages.PYTHON, "-B", "-m", "unittest", "discover", "-s", "infra"])
    pages = Program("the pages", [packages.PYTHON, "-B", "docs/check-commands", "run"])  # in a PostgreSQL of its own
    # What the README has a newcomer type first, with all that it can show. The stack is there already.
    demo = Program("the demo", [sys.executable, "-B", "examples/demo/demo.py", "STACK=test", "TARGETS=all"])
    faults, simulation, log = (rust.pop(name) for name in ("localstack faults", "localstack simulation", "database log"))
    end_to_end = rust["localstack main"]
    on_opensearch = [replace(rust[name], command=[*rust[name].command, *chosen]) for name, chosen in ON_OPENSEARCH.items()]
    # What is deployed, and what wants such a server: the first stack alone has one.
    deployed = [rust.pop(name) for name in list(rust) if name.startswith("localstack ") or name in NEAR_TARGETS]
    failed: list[str] = []

    with made({"STACK": "test-oldest", "POSTGRES_BIN": str(oldest)}) as stack:
        start_servers(stack, [postgres])
    on_oldest = replace(log, name=f"{log.name} on {oldest.parent.name}", env={"DATABASE_URL": stack.database_url})
    # They want servers alone, so whichever stack has time takes the next. The long ones are first.
    rest = deque([on_oldest, log, simulation, *rust.values(), pages, processes, targets, env_local, studio, client])

    def in_first() -> None:
        attempt(chain(deployed, dashboard_tests(env, chromium), [demo], taken(rest)), env, failed)

    def in_second() -> None:
        chosen = [f"{name}={value}" for name, value in (arguments | {"STACK": "test-faults"}).items()]
        if attempt([Program("second stack", ["localstack/stack/run", "up", *chosen])], dict(os.environ), failed):
            attempt(chain([faults, watch, infra], taken(rest)), stack_environment("test-faults"), failed)

    def in_others() -> None:
        in_one_process("test-direct", [end_to_end], arguments | {"RUN": sluice.DIRECT, "TARGETS": "all"}, failed)
        live_sync("test-direct", chromium, arguments | {"RUN": sluice.DIRECT, "TARGETS": "all", "LIVE": "1"}, failed)
        down({"STACK": "test-direct"})
        chosen = {"RUN": sluice.DIRECT, "TARGETS": "", "SEARCH": opensearch.NAME}
        in_one_process("test-opensearch", on_opensearch, arguments | chosen, failed)

    try:
        together(in_first, in_second, in_others)
    finally:
        for name in ("test-faults", "test-oldest", "test-direct", "test-opensearch"):
            down({"STACK": name})
    say_times()
    if failed:
        raise Failure("\n".join([f"tests failed. All that they said is above, and in {SAID}:", *failed]))


def without(arguments: dict[str, str]) -> list[str]:
    """What leaves tests out, by the name of their module, that are about something which a stack of these arguments has not."""
    missing = {"queue": arguments.get("RUN") == sluice.DIRECT, "security": arguments.get("SEARCH") == opensearch.NAME}
    return [part for module, is_missing in missing.items() if is_missing for part in ("--skip", f"{module}::")]


def rust_tests(env: dict[str, str], left_out: Iterable[str] = ()) -> dict[str, Program]:
    """Each program that `cargo test --workspace` would run, by its package and its name; there are no tests in the docs."""
    log, found = CACHE / "build-tests.log", {}
    command = ["cargo", "test", "--locked", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]
    with timed("building the tests"):
        run("test", "building the tests", command, log, lines=60, cwd=REPOSITORY, env=env)
    for line in log.read_text().splitlines():
        made = json.loads(line) if line.startswith('{"reason":"compiler-artifact"') else {}
        if made.get("executable") and made["profile"]["test"]:
            folder, target = Path(made["manifest_path"]).parent, made["target"]
            kind = target["kind"][0]
            name = f"{folder.name} {dict(lib='lib', bin='bin ' + target['name']).get(kind, target['name'])}"
            found[name] = Program(name, [made["executable"], *left_out], folder)
    return found


def dashboard_tests(env: dict[str, str], chromium: str) -> list[Program]:
    """Its own logic, then the deployed page in a browser."""
    psql = f"{shlex.quote(postgres.find_psql(existing({'STACK': 'test'})))} -Xq {shlex.quote(env['DATABASE_URL'])} -c"
    statements = {"POISON": POISON, "MEND": MEND, "REJECT": REJECT}
    own = npm.env() | {"CHROMIUM": chromium} | {name: f"{psql} {shlex.quote(sql)}" for name, sql in statements.items()}
    return [Program(f"dashboard {script}", ["npm", "run", script], npm.DASHBOARD, own) for script in ("test", "e2e")]


def taken(programs: deque[Program]) -> Iterator[Program]:
    """Takes one after the other, until none is left."""
    while programs:
        with suppress(IndexError):  # another took the last
            yield programs.popleft()


def attempt(programs: Iterable[Program], env: dict[str, str], failed: list[str]) -> bool:
    """Runs them one after the other, and prints what each said when it has ended. True if none failed."""
    SAID.mkdir(exist_ok=True)
    passed = True
    for one in programs:
        log = SAID / f"{one.name.replace(' ', '-')}.log"
        try:
            with timed(one.name):
                run(one.name, "begins", one.command, log, lines=1, every_s=60, cwd=one.folder, env=env | one.env)
            outcome = "passed"
        except Failure as failure:
            outcome = f"FAILED: {failure}"
            failed.append(f"{one.name}{tail(log)}")
            passed = False
        say(one.name, f"{outcome}\n\n{log.read_text(errors='replace')}")
    return passed


def in_one_process(stack: str, programs: Iterable[Program], arguments: dict[str, str], failed: list[str]) -> None:
    """Tests in a stack of their own, in which the process `sluice` is all functions."""
    chosen = [f"{name}={value}" for name, value in (arguments | {"STACK": stack}).items()]
    told = [replace(one, name=f"{one.name} in {stack}", command=[*one.command, *without(arguments)]) for one in programs]
    if attempt([Program(f"stack {stack}", ["localstack/stack/run", "up", *chosen])], dict(os.environ), failed):
        attempt(told, stack_environment(stack), failed)


def live_sync(stack: str, chromium: str, arguments: dict[str, str], failed: list[str]) -> None:
    """Its demo, which defines the board, then the board in a browser, in a stack of one process."""
    chosen = [f"{name}={value}" for name, value in (arguments | {"STACK": stack}).items()]
    demo = Program("the demo of live sync", [sys.executable, "-B", "examples/demo/demo.py", *chosen])
    page = Program("the board", ["node", "--test", "e2e/board.test.mjs"], npm.BOARD, npm.env() | {"CHROMIUM": chromium})
    if attempt([demo], dict(os.environ), failed):
        attempt([page], stack_environment(stack), failed)


def soak(arguments: dict[str, str]) -> None:
    """The image, whose compiling takes minutes; the alarms and the faults at their full length; the end-to-end tests and the faults
    in one process; then SECONDS for the simulation and for each property test."""
    seconds = int(arguments.get("SECONDS", "600"))
    env = tests_environment(arguments)
    # About a hundred seeds a second, on a busy machine; of those that have a database one.
    long = {"PROPERTY_SECONDS": str(seconds), "SEEDS": str(100 * seconds), "SYNC_SEEDS": str(seconds), "MESSAGES": "10000", "OPERATIONS": "20000"}
    image.make(artifacts.own_architecture(), image.name())
    run_tests([str(packages.PYTHON), "-B", "infra/container/test_image.py"], env)
    run_tests(WATCH, env | {"HEALTHY_SECONDS": "1200"})  # three periods of five minutes lie in it, wherever it begins
    run_tests(["cargo", "test", "--workspace", "--test", "faults", "--test", "outages", "--", "--nocapture"], env | LONG_FAULTS)
    rust, failed = rust_tests(env), []
    in_process = [replace(rust[f"localstack {name}"], env=LONG_FAULTS) for name in ("main", "faults", "outages")]
    ways = {
        "test-direct": {"RUN": sluice.DIRECT},
        "test-queue": {"RUN": sluice.QUEUE},
        "test-opensearch": {"RUN": sluice.DIRECT, "SEARCH": opensearch.NAME},
    }
    for stack, chosen in ways.items():
        in_one_process(stack, in_process, chosen | {"TARGETS": "all"}, failed)
        down({"STACK": stack})
    if failed:
        raise Failure("\n".join(["tests failed:", *failed]))
    run_tests(["cargo", "test", "--workspace", "--test", "simulation", "--", "--nocapture"], env | long)
    run_tests(["cargo", "test", "--workspace", "--", "--nocapture", "property"], env | long)


def bench(arguments: dict[str, str]) -> None:
    """The benches, of what `make build` builds; with QUICK=1 of what the local stack runs, in seconds."""
    if arguments.get("QUICK"):
        functions.build()
        binaries, one, driver = functions.PLACE, sluice.BINARY, TARGET / "debug" / "bench"
        command = ["cargo", "build", "--locked", "--workspace", "--bin", "bench"]
    else:
        arch = artifacts.own_architecture()
        binaries, one = artifacts.binaries(artifacts.build(functions.NAMES, arch)), image.build(arch) / image.BINARY
        driver = TARGET / "release" / "bench"
        command = ["cargo", "build", "--locked", "--profile", "bench", "--package", "benches"]
    env = os.environ | {"CARGO_TARGET_DIR": str(TARGET)}
    run("bench", "building what drives them", command, CACHE / "build-bench.log", cwd=REPOSITORY, env=env)
    chosen = [f"{name}={arguments[name]}" for name in ("STACK", "NAME", "QUICK") if arguments.get(name)]
    run_tests([sys.executable, "-B", "benches/bench.py", f"BINARIES={binaries}", f"SLUICE={one}", f"BENCH={driver}", *chosen], dict(os.environ))


def tests_environment(arguments: dict[str, str]) -> dict[str, str]:
    """Brings the stack `test` up. What an earlier run left, perhaps of another branch, must not decide over this one."""
    for name in ("test", "test-faults", "test-oldest", "test-direct", "test-queue", "test-opensearch"):
        clean({"STACK": name})
    up(arguments | {"STACK": "test", "TARGETS": ",".join(TARGETS)})
    return stack_environment("test")


def stack_environment(name: str) -> dict[str, str]:
    """The addresses of a stack, and nobody else's."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PG")) and name not in exports.DEPLOYED}
    return env | exports.of(existing({"STACK": name})) | {"CARGO_TARGET_DIR": str(TARGET)}


def run_tests(command: list[str], env: dict[str, str]) -> None:
    """Ends with the command's status where it fails."""
    say("test", " ".join(command))
    status = subprocess.run(command, cwd=REPOSITORY, env=env, stdin=subprocess.DEVNULL).returncode
    if status:
        sys.exit(status)


COMMANDS = {command.__name__: command for command in (test, soak, bench)}
