"""LocalStack: SQS, Lambda, Secrets Manager, CloudFormation, EventBridge as one process."""

import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path

import packages
import process
from console import Failure
from layout import LOCALSTACK_PORT, Stack

NAME = "localstack"
FUNCTION = f"{NAME}/function"  # a function's process; the executor marks it
PORTS = {"LocalStack": LOCALSTACK_PORT}
ADMIN_HOST = "sluice-admin.lambda-url.us-east-1.localhost"  # the first label is the template's; browsers and curl look no `.localhost` up
SERVICES = "cloudformation,cloudwatch,events,iam,lambda,logs,s3,secretsmanager,sqs,sts"


def start(stack: Stack) -> subprocess.Popen | None:
    """Starts the server unless it runs; `wait` has to follow."""
    if process.find(stack, NAME):
        return None
    process.kill_all(stack, FUNCTION)  # of a LocalStack that was killed
    port = stack.port(LOCALSTACK_PORT)
    folder = stack.folder / NAME
    shutil.rmtree(folder / "state", ignore_errors=True)  # it keeps nothing over a restart, so neither do we
    stack.outputs_file.unlink(missing_ok=True)
    state, logs = folder / "state", functions_logs(stack)
    for part in (state / "tmp", logs):
        part.mkdir(parents=True, exist_ok=True)
    env = {
        "HOME": str(state),
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "LOCALSTACK_HOST": f"localhost:{port}",  # its own domain needs DNS
        "SQS_ENDPOINT_STRATEGY": "path",  # queue URLs without a subdomain, for clients that connect to them
        "SERVICES": SERVICES,
        "STRICT_SERVICE_LOADING": "1",
        "LAMBDA_RUNTIME_EXECUTOR": "process",
        "SLUICE_FUNCTION_LOGS": str(logs),
        # A resource that LocalStack does not know is an error, not a success that did nothing.
        "CFN_IGNORE_UNSUPPORTED_RESOURCE_TYPES": "0",
        # LocalStack refuses what a browser posts from a page that it does not know, even where the page is the function's.
        "EXTRA_CORS_ALLOWED_ORIGINS": admin_url(stack),
        # From the queue to the function: 50 ms while there is work, 200 ms at the latest when there was none. AWS's
        # own poller waits in a long poll; LocalStack's sleeps up to 10 s by default.
        "LAMBDA_EVENT_SOURCE_MAPPING_POLL_INTERVAL_SEC": "0.05",
        "LAMBDA_EVENT_SOURCE_MAPPING_MAX_BACKOFF_ON_EMPTY_POLL_SEC": "0.2",
        # How often SQS's metrics are told: each minute on AWS, and by default here, where alarms are tested.
        "SQS_CLOUDWATCH_METRICS_REPORT_INTERVAL": "5",
        # It runs on the host, asks nobody on the network, and writes to its own folder alone.
        "OVERRIDE_IN_DOCKER": "0",
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "DNS_ADDRESS": "0",
        "TMPDIR": str(state / "tmp"),
        "FILESYSTEM_ROOT": str(state / "root"),
        "LOCALSTACK_VOLUME_DIR": str(state),
        "XDG_CACHE_HOME": str(state / "cache"),
    }
    return process.start(stack, NAME, [packages.PYTHON, "-m", "localstack.runtime.main"], env, state, log(stack))


def wait(stack: Stack, launched: subprocess.Popen | None) -> None:
    """Waits for health."""
    process.wait_until(lambda: is_healthy(stack), "LocalStack", launched, log(stack), 240)


def stop(stack: Stack) -> bool:
    """LocalStack ends its functions itself; what it leaves is ended here. It keeps nothing, so it gets little time."""
    was_running = process.stop(stack, NAME, patience_s=10)
    process.kill_all(stack, FUNCTION)
    stack.outputs_file.unlink(missing_ok=True)
    return was_running


def is_healthy(stack: Stack) -> bool:
    """True when it answers."""
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(stack.aws_url + "/_localstack/health", timeout=5) as answer:
            return "services" in json.load(answer)
    except (OSError, ValueError):
        return False


def log(stack: Stack) -> Path:
    """The server's log."""
    return stack.folder / NAME / "server.log"


def make_queue(stack: Stack, name: str, attributes: dict[str, str]) -> None:
    """One that is there, with these attributes, is left as it is."""
    body = json.dumps({"QueueName": name, "Attributes": attributes}).encode()
    headers = {"X-Amz-Target": "AmazonSQS.CreateQueue", "Content-Type": "application/x-amz-json-1.0"}
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(urllib.request.Request(stack.aws_url, body, headers), timeout=60).close()
    except OSError as error:
        raise Failure(f"LocalStack makes no queue {name}: {error}; see {log(stack)}") from error


def queue_url(stack: Stack, name: str) -> str:
    """As SQS names it."""
    return f"{stack.aws_url}/000000000000/{name}"


def admin_url(stack: Stack) -> str:
    """The admin function's URL; LocalStack serves it at its own port, by the Host header."""
    return f"http://{ADMIN_HOST}:{stack.port(LOCALSTACK_PORT)}"


def functions_logs(stack: Stack) -> Path:
    """A folder with one log for each function."""
    return stack.folder / NAME / "functions"


def client_env(stack: Stack) -> dict[str, str]:
    """What makes any AWS SDK talk to this stack and to nothing else."""
    return {
        "AWS_ENDPOINT_URL": stack.aws_url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def clean_env(stack: Stack) -> dict[str, str]:
    """The caller's environment without a trace of the caller's own AWS account."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | client_env(stack)
