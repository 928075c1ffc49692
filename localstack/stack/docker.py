"""`make up DOCKER=1`: the same system by Docker Compose, with Kibana. Every command of such a stack goes this way."""

import os
import shutil
import subprocess

import artifacts
import cloud
import elasticsearch
import functions
import postgres
from console import Failure, say
from layout import CLICKHOUSE_PORT, ELASTICSEARCH_PORT, KAFKA_PORT, KIBANA_PORT, LOCALSTACK_PORT, POSTGRES_PORT, REPOSITORY, Stack

PYTHON = "/opt/code/localstack/.venv/bin/python"  # LocalStack's own, which has boto3
# The same servers as the containers see them.
DATABASE = {"host": "postgres", "port": 5432, "dbname": "sluice"}
ELASTICSEARCH = "http://elasticsearch:9200"
CLICKHOUSE = "http://clickhouse:8123"
KAFKA = "kafka:9094"


def check() -> None:
    """Fails where there is no Docker Compose, or no daemon that answers it."""
    for command, missing in {"version": "Docker Compose", "ls": "a Docker daemon that answers"}.items():
        if not shutil.which("docker") or subprocess.run(["docker", "compose", command], capture_output=True).returncode:
            raise Failure(f"this machine lacks {missing}: https://docs.docker.com/engine/install/")


def compose(stack: Stack, *arguments: str, script: str | None = None) -> None:
    """Runs Docker Compose for the stack."""
    project = f"sluice-{stack.name}"
    variables = {
        "COMPOSE_PROFILES": stack.facts.get("targets", ""),
        "CLICKHOUSE_PASSWORD": stack.password("clickhouse"),
        "CLICKHOUSE_PORT": str(stack.port(CLICKHOUSE_PORT)),
        "KAFKA_PORT": str(stack.port(KAFKA_PORT)),
        "POSTGRES_PASSWORD": stack.password("postgres"),
        "POSTGRES_PORT": str(stack.port(POSTGRES_PORT)),
        "ELASTICSEARCH_PORT": str(stack.port(ELASTICSEARCH_PORT)),
        "ELASTICSEARCH_VERSION": elasticsearch.release(stack).version,
        "ADMIN_URL": cloud.admin_url(stack),
        "FUNCTIONS": " ".join(functions.NAMES),
        "KIBANA_PORT": str(stack.port(KIBANA_PORT)),
        "LOCALSTACK_PORT": str(stack.port(LOCALSTACK_PORT)),
        "NETWORK": project,
        "REPOSITORY": str(REPOSITORY),
        "STACK_FOLDER": str(stack.folder),
        "USER": f"{os.getuid()}:{os.getgid()}",
    }
    command = ["docker", "compose", "-p", project, "-f", str(REPOSITORY / "localstack" / "compose.yaml"), *arguments]
    done = subprocess.run(command, env=os.environ | variables, input=script, text=True, stdin=None if script else subprocess.DEVNULL)
    if done.returncode:
        raise Failure(f"docker compose {arguments[0]} failed; the reason is above")


def psql(stack: Stack, script: str) -> None:
    """Runs SQL as the administrator."""
    options = ["-v", "ON_ERROR_STOP=1", "-XAtq", "-U", "postgres", "-d", "sluice"]
    compose(stack, "exec", "-T", "postgres", "psql", *options, script=script)


def up(stack: Stack) -> None:
    """Servers, functions, deploy."""
    compose(stack, "up", "-d", "--wait", "--remove-orphans")
    psql(stack, postgres.roles(stack))
    deploy(stack)
    say("kibana", f"http://localhost:{stack.port(KIBANA_PORT)}")
    functions.announce(stack, cloud.admin_url(stack))


def deploy(stack: Stack) -> None:
    """Builds in a container, deploys from LocalStack's."""
    compose(stack, "run", "--rm", "dashboard")
    compose(stack, "run", "--rm", "build")
    brokers = {"KafkaBrokers": KAFKA} if "kafka" in stack.targets else {}
    functions.write_parameters(stack, {"DatabaseSslmode": "disable"} | brokers, functions.secrets(stack, DATABASE, ELASTICSEARCH, CLICKHOUSE))
    files = [part for name in ("parameters", "secrets", "outputs") for part in (f"--{name}", f"/sluice/stack/localstack/{name}.json")]
    _run_deploy(stack, "deploy", "migrate", "--functions", "/sluice/lambda", *functions.settings(artifacts.own_architecture()), *files)
    psql(stack, functions.GRANT)
    _run_deploy(stack, "start")


def invoke(stack: Stack, *step: str) -> None:
    """A step of the deploy, as `migrate`."""
    _run_deploy(stack, *step)


def _run_deploy(stack: Stack, *arguments: str) -> None:
    settings = {"AWS_ENDPOINT_URL": "http://localhost:4566", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    env = [part for name, value in settings.items() for part in ("-e", f"{name}={value}")]
    compose(stack, "exec", "-T", *env, "localstack", PYTHON, "/sluice/infra/deploy.py", functions.AWS_STACK, *arguments)
