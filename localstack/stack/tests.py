"""The tests and the benches, and what they run in."""

import os
import shlex
import subprocess
import sys

import artifacts
import functions
import machine
import npm
import packages
import postgres
from choices import made
from commands import DEPLOYED, clean, existing, exports, start_servers, stop_servers, up
from console import run, say
from layout import CACHE, REPOSITORY, TARGET

LONG_FAULTS = {"OUTAGE_SECONDS": "120", "FREEZE_SECONDS": "60", "KILL_CHANGES": "20000"}
# For the browser's tests: a date that PostgreSQL knows and Elasticsearch does not makes a hackathon a dead letter.
POISON = "UPDATE demo.hackathons SET ends_at = 'infinity'"
MEND = "UPDATE demo.hackathons SET ends_at = starts_at + interval '2 days'"
# And a profile that was not stored, as none may have been by then.
REJECT = """INSERT INTO sluice.ingest_rejects (reason, message, payload, digest)
    VALUES ('status', 'status must be active or pending', '{"status": "deleted"}', sha256('rejected')) ON CONFLICT DO NOTHING"""


def test(arguments: dict[str, str]) -> None:
    """The tests, in a stack of their own, whatever the shell says about others; those of the log on two PostgreSQLs."""
    oldest, chromium = machine.oldest_postgres(), npm.find_chromium()
    env = tests_environment(arguments)
    run_tests(["cargo", "test", "--workspace"], env)
    with made({"STACK": "test-oldest", "POSTGRES_BIN": str(oldest)}) as stack:
        start_servers(stack, [postgres])
        try:
            run_tests(["cargo", "test", "--workspace", "--test", "log"], env | {"DATABASE_URL": stack.database_url})
        finally:
            stop_servers(stack)
    # What the pages tell a reader to type, in a PostgreSQL of its own.
    run_tests([str(packages.PYTHON), "-B", "docs/check-commands", "run"], env)
    test_watch(env)
    test_dashboard(env, chromium)
    # What the README has a newcomer type first. The stack is there already.
    run_tests([sys.executable, "-B", "examples/demo/demo.py", "STACK=test"], env)
    # Last, since it destroys what the others use, and deploys anew.
    run_tests([str(packages.PYTHON), "-B", "-m", "unittest", "discover", "-s", "infra"], env)


def test_watch(env: dict[str, str]) -> None:
    """The alarms over what the deployed functions print."""
    run_tests([str(packages.PYTHON), "-B", "localstack/tests/test_watch.py"], env)


def test_dashboard(env: dict[str, str], chromium: str) -> None:
    """Its own logic, then the deployed page in a browser."""
    psql = f"{shlex.quote(postgres.find_psql(existing({'STACK': 'test'})))} -Xq {shlex.quote(env['DATABASE_URL'])} -c"
    statements = {"POISON": POISON, "MEND": MEND, "REJECT": REJECT}
    env |= npm.env() | {"CHROMIUM": chromium} | {name: f"{psql} {shlex.quote(sql)}" for name, sql in statements.items()}
    for script in ("test", "e2e"):
        run_tests(["npm", "--prefix", str(npm.DASHBOARD), "run", script], env)


def soak(arguments: dict[str, str]) -> None:
    """The alarms and the faults at their full length, then SECONDS for the simulation and for each property test."""
    seconds = int(arguments.get("SECONDS", "600"))
    env = tests_environment(arguments)
    # About a hundred seeds a second, on a busy machine.
    long = {"PROPERTY_SECONDS": str(seconds), "SEEDS": str(100 * seconds), "MESSAGES": "10000"}
    test_watch(env | {"HEALTHY_SECONDS": "1200"})  # three periods of five minutes lie in it, wherever it begins
    run_tests(["cargo", "test", "--workspace", "--test", "faults", "--", "--nocapture"], env | LONG_FAULTS)
    run_tests(["cargo", "test", "--workspace", "--test", "simulation", "--", "--nocapture"], env | long)
    run_tests(["cargo", "test", "--workspace", "--", "--nocapture", "property"], env | long)


def bench(arguments: dict[str, str]) -> None:
    """The benches, of what `make build` builds; with QUICK=1 of what the local stack runs, in seconds."""
    if arguments.get("QUICK"):
        functions.build()
        binaries, driver = functions.PLACE, TARGET / "debug" / "bench"
        command = ["cargo", "build", "--locked", "--workspace", "--bin", "bench"]
    else:
        binaries = artifacts.binaries(artifacts.build(functions.NAMES, artifacts.own_architecture()))
        driver = TARGET / "release" / "bench"
        command = ["cargo", "build", "--locked", "--profile", "bench", "--package", "benches"]
    env = os.environ | {"CARGO_TARGET_DIR": str(TARGET)}
    run("bench", "building what drives them", command, CACHE / "build-bench.log", cwd=REPOSITORY, env=env)
    chosen = [f"{name}={arguments[name]}" for name in ("STACK", "NAME", "QUICK") if arguments.get(name)]
    run_tests([sys.executable, "-B", "benches/bench.py", f"BINARIES={binaries}", f"BENCH={driver}", *chosen], dict(os.environ))


def tests_environment(arguments: dict[str, str]) -> dict[str, str]:
    """Brings the stack `test` up: its addresses, and nobody else's."""
    arguments = arguments | {"STACK": "test"}
    clean(arguments)  # what an earlier run left, perhaps of another branch, must not decide over this one
    up(arguments)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PG")) and name not in DEPLOYED}
    return env | exports(existing(arguments)) | {"CARGO_TARGET_DIR": str(TARGET)}


def run_tests(command: list[str], env: dict[str, str]) -> None:
    """Ends with the command's status where it fails."""
    say("test", " ".join(command))
    status = subprocess.run(command, cwd=REPOSITORY, env=env, stdin=subprocess.DEVNULL).returncode
    if status:
        sys.exit(status)


COMMANDS = {command.__name__: command for command in (test, soak, bench)}
