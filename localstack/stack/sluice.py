"""`sluice run`: all parts in one process, in place of the deployed functions. With RUN=direct it needs no queue, with RUN=queue it
goes through the queues of LocalStack."""

import json
import subprocess
import urllib.request
from pathlib import Path
from urllib.parse import quote

import clickhouse
import cloud
import env_local
import functions
import image
import kafka
import postgres
import process
from console import Failure, timed
from layout import BOARD_PORT, SLUICE_HEALTH_PORT, SLUICE_PORT, SLUICE_SYNC_PORT, TARGET, Stack

NAME = image.BINARY
PORTS = {"Sluice": SLUICE_PORT, "Sluice (health)": SLUICE_HEALTH_PORT, "Sluice (live sync)": SLUICE_SYNC_PORT}
DIRECT, QUEUE = "direct", "queue"
BINARY = TARGET / "debug" / NAME
# By the variable with its URL, each queue as the template makes it.
QUEUES = {
    "DEAD_LETTER_QUEUE_URL": ("sluice-dead-letters", {"MessageRetentionPeriod": "1209600", "MaximumMessageSize": "1048576"}),
    "QUEUE_URL": ("sluice", {
        "VisibilityTimeout": "360", "MessageRetentionPeriod": "1209600", "MaximumMessageSize": "1000000",
        "RedrivePolicy": json.dumps({"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:sluice-dead-letters", "maxReceiveCount": 1000}),
    }),
}  # fmt: skip


@timed("deploy")
def deploy(stack: Stack) -> None:
    """Queues, credentials, settings, migrations; then the process begins, anew if it ran: with the code of now."""
    stop(stack)
    if stack.run == QUEUE:
        for name, attributes in QUEUES.values():
            cloud.make_queue(stack, name, attributes)
    _write(stack)
    command(stack, "migrate")
    wait(stack, start(stack))


def command(stack: Stack, *words: str) -> None:
    """`sluice migrate` and what else it can do than run."""
    if not _variables_file(stack).exists():
        raise Failure(f"nothing is configured yet: make up{stack.argument}")
    if subprocess.run([BINARY, "--env-file", _variables_file(stack), *words], env={}, stdin=subprocess.DEVNULL).returncode:
        raise Failure(f"{words[0]} failed; the reason is above")
    if words[0] == "migrate":
        postgres.psql(stack, functions.GRANT)


def start(stack: Stack) -> subprocess.Popen | None:
    """Starts the process unless it runs; `wait` has to follow."""
    if process.find(stack, NAME):
        return None
    return process.start(stack, NAME, [BINARY, "--env-file", _variables_file(stack), "run"], {}, folder(stack), log(stack))


def wait(stack: Stack, launched: subprocess.Popen | None) -> None:
    """Waits for health."""
    process.wait_until(lambda: is_healthy(stack), "Sluice", launched, log(stack), 60)


def stop(stack: Stack) -> bool:
    """What is under way is finished, or given back."""
    return process.stop(stack, NAME)


def is_healthy(stack: Stack) -> bool:
    """True when it says that it is ready."""
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{stack.port(SLUICE_HEALTH_PORT)}/ready", timeout=5):
            return True
    except OSError:
        return False


def folder(stack: Stack) -> Path:
    """Its variables, its secrets and its log."""
    return stack.folder / NAME


def log(stack: Stack) -> Path:
    """What all parts say."""
    return folder(stack) / "server.log"


def admin_url(stack: Stack) -> str:
    """The dashboard."""
    return f"http://127.0.0.1:{stack.port(SLUICE_PORT)}"


def client_env(stack: Stack) -> dict[str, str]:
    """What tests and tools want to know, in place of the functions' names."""
    return {
        "SLUICE_BINARY": str(BINARY),
        "SLUICE_FOLDER": str(folder(stack)),
        "ADMIN_URL": admin_url(stack),
        "ADMIN_TOKEN": stack.password("operator"),
        "ADMIN_READ_TOKEN": stack.password("reader"),
        **_queue_urls(stack),
    }


def _write(stack: Stack) -> None:
    """The files that the process reads. Of each way to give it credentials one is used: a secret's file for what a test rotates, a
    URL for the rest."""
    folder(stack).mkdir(exist_ok=True)
    secrets = functions.own_secrets(stack)
    for name in ("Database", "Elasticsearch"):
        _write_privately(_secret_file(stack, name), json.dumps(secrets[f"{name}SecretArn"]))
    variables = {
        "DATABASE_SECRET_FILE": _secret_file(stack, "Database"),
        "DATABASE_SSLMODE": functions.database_parameters(stack).get("DatabaseSslmode", "verify-full"),
        "MIGRATE_DATABASE_URL": _owner_url(secrets["DatabaseOwnerSecretArn"]),
        "ELASTICSEARCH_SECRET_FILE": _secret_file(stack, "Elasticsearch"),
        "ADMIN_ADDRESS": f"127.0.0.1:{stack.port(SLUICE_PORT)}",
        "ADMIN_TOKEN": stack.password("operator"),
        "READER_TOKEN": stack.password("reader"),
        "HEALTH_ADDRESS": f"127.0.0.1:{stack.port(SLUICE_HEALTH_PORT)}",
        # The demo's domain and the profiles' table are part of every local stack, and the validator leaves the tests alone.
        "DEMO": "true",
        "INGEST": "true",
        **({"VALIDATE_WITHIN": "0s"} if stack.is_for_tests else env_local.variables()),
    }
    if "ca" in secrets["DatabaseOwnerSecretArn"]:
        variables["DATABASE_CA_FILE"] = stack.tls / "ca.pem"
    if clickhouse.NAME in stack.targets:
        variables |= clickhouse.client_env(stack)
    if kafka.NAME in stack.targets:
        variables["KAFKA_BROKERS"] = kafka.client_env(stack)["KAFKA_BROKERS"]
    if stack.facts.get("live"):
        variables |= _live_sync(stack)
    if stack.run == QUEUE:
        variables |= cloud.client_env(stack) | _queue_urls(stack)
    _write_privately(_variables_file(stack), "".join(f"{name}='{value}'\n" for name, value in variables.items()))


def sync_url(stack: Stack) -> str:
    """Where clients of live sync ask, which have accounts of its own."""
    return f"http://127.0.0.1:{stack.port(SLUICE_SYNC_PORT)}"


def _live_sync(stack: Stack) -> dict[str, str]:
    if not (file := _secret_file(stack, "Accounts")).exists():
        command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
        key = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        _write_privately(file, json.dumps({"private_key": key}))
    return {
        "SYNC_AUTH": "builtin",
        "SYNC_ISSUER": sync_url(stack),
        "SYNC_AUDIENCE": "board",
        "SYNC_ADDRESS": f"127.0.0.1:{stack.port(SLUICE_SYNC_PORT)}",
        "SYNC_ORIGINS": f"http://127.0.0.1:{stack.port(BOARD_PORT)}",
        "ACCOUNTS_SECRET_FILE": file,
    }


def _queue_urls(stack: Stack) -> dict[str, str]:
    return {variable: cloud.queue_url(stack, name) for variable, (name, _) in QUEUES.items()} if stack.run == QUEUE else {}


def _owner_url(secret: dict) -> str:
    user, password = quote(secret["username"]), quote(secret["password"], safe="")
    return f"postgres://{user}:{password}@{secret['host']}:{secret['port']}/{quote(secret['dbname'])}"


def _variables_file(stack: Stack) -> Path:
    return folder(stack) / "variables"


def _secret_file(stack: Stack, name: str) -> Path:
    return folder(stack) / f"{name.lower()}.json"


def _write_privately(file: Path, text: str) -> None:
    file.touch(0o600)
    file.write_text(text)
