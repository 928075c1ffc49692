"""Tries Sluice in an account of AWS: what only AWS can answer, one line for each question. docs/trying-on-aws.md tells of it.

    make trial REGION=eu-central-1                       15 minutes, less than $0.20; needs no PostgreSQL and no Elasticsearch
    make trial REGION=eu-central-1 SERVERS=.env.trial    25 minutes more, with servers of yours

A stack with a name of chance is made, tagged, tried, and deleted in the end, whatever happens. The lines begin with `ok`; `WRONG`,
where AWS does something else than we took for granted; `says`, where nobody knew; or `left out`, with the reason.
"""

import argparse
import json
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import BotoCoreError, ClientError

import account
import trial_before
import trial_servers
import trial_stack

DEPLOY = Path(__file__).with_name("deploy.py")
NOWHERE = "sluice-trial.invalid"  # a name that never resolves
TAG = "sluice-trial"


class Trial:
    """One stack, and whatever else is made for it. What is to be undone is noted before it is done."""

    def __init__(self, region: str, artifacts: Path):
        self.name = f"sluice-trial-{secrets.token_hex(3)}"
        self.session = boto3.Session(region_name=region)
        self.region, self.artifacts = region, artifacts
        self.endpoint = self.client("cloudformation").meta.endpoint_url
        self.is_aws = "amazonaws." in self.endpoint
        self.account = account.find(self.client)
        self.bucket = f"{self.name}-{self.account}"
        self.tags = {TAG: self.name}
        self.folder = tempfile.TemporaryDirectory()
        self.tokens = {"operator": secrets.token_urlsafe(32), "reader": secrets.token_urlsafe(32)}
        self.parameters: dict[str, str] = {}
        self.undo: list[tuple[str, Callable[[], None]]] = []
        self.wrong = 0

    def client(self, service: str, **options):
        return self.session.client(service, **options)

    def line(self, mark: str, question: str, words: object) -> None:
        """One line of the result."""
        self.wrong += mark == "WRONG"
        print(f"{mark:<9}{question:<34}{words}", flush=True)

    def holds(self, question: str, truth: object, words: object) -> None:
        """What was taken for granted."""
        self.line("ok" if truth else "WRONG", question, words)

    def says(self, question: str, words: object) -> None:
        """What nobody knew."""
        self.line("says", question, words)

    def only_aws(self, question: str, why: str) -> bool:
        """Whether it can be asked here: LocalStack's answer would say nothing about AWS."""
        if not self.is_aws:
            self.line("left out", question, f"LocalStack {why}")
        return self.is_aws

    def check(self, one: Callable[["Trial"], None]) -> None:
        """A check that fails in a way that nobody thought of is WRONG, and the next ones go on."""
        try:
            one(self)
        except (ClientError, BotoCoreError, OSError, KeyError, ValueError, TypeError, AssertionError) as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.line("WRONG", one.__name__.replace("_", " ")[:33], f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})")

    def later(self, words: str, undo: Callable[[], None]) -> None:
        self.undo.append((words, undo))

    def make_secrets(self) -> None:
        """Of servers that are nowhere, and of tokens that are real."""
        client = self.client("secretsmanager")
        database = {"username": "nobody", "password": secrets.token_urlsafe(16), "host": NOWHERE, "port": 5432, "dbname": "none"}
        values = {
            "DatabaseSecretArn": database,
            "DatabaseOwnerSecretArn": database,
            "ElasticsearchSecretArn": {"url": f"https://{NOWHERE}:9200", "api_key": "bm9uZTpub25l"},
            "AdminSecretArn": self.tokens,
        }
        for parameter, value in values.items():
            if parameter in self.parameters:
                continue
            name = f"{self.name}/{parameter.removesuffix('SecretArn')}"
            self.later(f"the secret {name}", lambda name=name: client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True))
            made = client.create_secret(Name=name, SecretString=json.dumps(value), Tags=self._tags())
            self.parameters[parameter] = made["ARN"]

    def _tags(self) -> list[dict]:
        return [{"Key": name, "Value": value} for name, value in self.tags.items()]

    def deploy(self, *steps: str, **more: str) -> tuple[int, str]:
        """Steps of deploy.py: its status, and its words."""
        file = Path(self.folder.name) / "parameters.json"
        file.write_text(json.dumps(self.parameters | more))
        command = [sys.executable, "-B", DEPLOY, self.name, *steps, "--parameters", file, "--template", self.artifacts / "template.yaml", "--bucket", self.bucket]
        command += [part for name, value in self.tags.items() for part in ("--tag", f"{name}={value}")] + ["--yes", self.name]
        env = trial_stack.environment(self.region)
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return done.returncode, done.stderr + done.stdout

    def outputs(self) -> dict[str, str]:
        stack = self.client("cloudformation").describe_stacks(StackName=self.name)["Stacks"][0]
        return {one["OutputKey"]: one["OutputValue"] for one in stack.get("Outputs", [])}

    def physical(self) -> dict[str, str]:
        """What was made of each resource of the template."""
        pages = self.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=self.name)
        return {one["LogicalResourceId"]: one.get("PhysicalResourceId", "") for page in pages for one in page["StackResourceSummaries"]}

    def call(self, path: str, token: str | None = None, method: str = "GET") -> tuple[int, str]:
        """The status and the body of a call of the admin function's URL."""
        url = urlsplit(self.outputs()["AdminUrl"] + path)
        headers = {"Host": url.netloc} | ({"Authorization": f"Bearer {token}"} if token else {})
        if not self.is_aws:  # it answers at its own port, by the name of the host
            url = url._replace(netloc=urlsplit(self.endpoint).netloc)
        opener = urllib.request.build_opener() if self.is_aws else urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(urllib.request.Request(url.geturl(), headers=headers, method=method), timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()

    def wait_for(self, condition: Callable[[], object], seconds: float) -> object:
        """What the condition says in the end: something, as soon as it does, or the last nothing."""
        deadline = time.monotonic() + (seconds if self.is_aws else min(seconds, 60))
        while not (found := condition()) and time.monotonic() < deadline:
            time.sleep(5 if self.is_aws else 0.2)
        return found

    def empty_the_bucket(self) -> None:
        s3 = self.client("s3")
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            for one in page.get("Contents", []):
                s3.delete_object(Bucket=self.bucket, Key=one["Key"])
        s3.delete_bucket(Bucket=self.bucket)

    def clean_up(self) -> None:
        """Takes back what is left, the last first. What cannot be is told, with its name."""
        while self.undo:
            words, undo = self.undo.pop()
            try:
                undo()
            except Exception as error:  # noqa: BLE001 - whatever it is, the others have to go on
                self.line("WRONG", "clean up", f"{words} is left, delete it by hand: {error}")
        self.folder.cleanup()


def ask(trial: Trial, servers: Path | None, is_sure: bool) -> None:
    """Shows whose account it is, and what will happen there."""
    minutes, dollars = ("40", "0.50") if servers else ("15", "0.20")
    where = "" if trial.is_aws else f", at {trial.endpoint}"
    print(f"account {trial.account}, region {trial.region}{where}: makes the stack {trial.name}, tries it for up to {minutes} minutes,")
    print(f"for less than ${dollars}, and deletes it. Everything has the tag {TAG}={trial.name}.")
    if not is_sure and (not sys.stdin.isatty() or input("type yes to go on: ") != "yes"):
        sys.exit("try_on_aws: nothing was made; to go on without being asked: --yes")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("region")
    parser.add_argument("--artifacts", type=Path, default=Path("dist"), help="what `make release` has made")
    parser.add_argument("--servers", type=Path, help="parameters of a deploy as in .env.example: servers of yours, on which a stream is tried")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    arguments = parser.parse_args()
    if not (arguments.artifacts / "template.yaml").exists():
        sys.exit(f"try_on_aws: {arguments.artifacts} holds no release: make release")
    trial = Trial(arguments.region, arguments.artifacts)
    ask(trial, arguments.servers, arguments.yes)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("try_on_aws: ended from outside"))  # which cleans up, as Ctrl-C does
    began = time.monotonic()
    try:
        for one in trial_before.CHECKS:
            trial.check(one)
        trial_stack.run(trial)
        if arguments.servers:
            trial_servers.run(trial, arguments.servers)
        trial_stack.end(trial)
    finally:
        trial.clean_up()
        print(f"{trial.wrong} WRONG, after {(time.monotonic() - began) / 60:.0f} minutes")
    return 1 if trial.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
