"""Deploys Sluice, to AWS or, by AWS_ENDPOINT_URL, to LocalStack. Steps in the order in which they are named:

    deploy.py STACK deploy migrate start show --parameters .env

  deploy   packages the functions and the template, shows the change set, executes it
  migrate  invokes the migrate function; its words are printed, and its failure is this command's. After `deploy` it also
           takes the stack back to what it was, since the functions before know the schema that is still there
  uninstall, rebase  the same function's other commands
  start    invokes the trigger, so that nobody waits for the first minute
  show     prints the stack's outputs
  update   new code for one function (--function), past CloudFormation: live in seconds
  destroy  deletes the stack, once its name was typed; the queues stay
"""

import argparse
import hashlib
import json
import re
import sys
import time
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from archive import pack

TEMPLATE = Path(__file__).with_name("template.yaml")
MIGRATE_COMMANDS = ("migrate", "uninstall", "rebase")
CHANGES = {"Add": "add", "Modify": "change", "Remove": "remove", "Import": "import", "Dynamic": "maybe change"}


def read_parameters(file: Path) -> dict[str, str]:
    """Template parameters: a JSON object, or lines `DATABASE_SECRET_ARN=…` as in .env (`@file` stands for its text)."""
    if file.suffix == ".json":
        return json.loads(file.read_text())
    parameters = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[A-Z0-9_]+", name.strip()):
            sys.exit(f"{file}, line {number}: expected NAME=value")
        value = value.strip().strip("'\"")
        if value:
            parameters["".join(word.capitalize() for word in name.strip().split("_"))] = (
                Path(value[1:]).read_text() if value.startswith("@") else value
            )
    return parameters


class Deployment:
    """One CloudFormation stack."""

    step = "deploy"  # which one is under way
    former = None  # template and parameters of before, once `deploy` has replaced them

    def __init__(self, arguments: argparse.Namespace):
        self.arguments, self.stack = arguments, arguments.stack
        self.cloudformation = boto3.client("cloudformation")
        self.s3 = boto3.client("s3")
        self.sqs = boto3.client("sqs")
        # A migration may take as long as Lambda lets it, and must not be started twice by an impatient client.
        self.functions = boto3.client("lambda", config=Config(read_timeout=910, retries={"max_attempts": 0}))

    def deploy(self) -> None:
        """Packages, then makes the stack what the template says."""
        template = self.arguments.template.read_text()
        known = self.cloudformation.validate_template(TemplateBody=template)["Parameters"]
        parameters = read_parameters(self.arguments.parameters) | self._write_secrets() | dict(self.arguments.set)
        names = {parameter["ParameterKey"] for parameter in known}
        if unknown := sorted(parameters.keys() - names):
            sys.exit(f"deploy: the template has no parameter {', '.join(unknown)}; see {self.arguments.parameters}")
        needed = {parameter["ParameterKey"] for parameter in known if "DefaultValue" not in parameter}
        if missing := sorted(needed - parameters.keys()):
            wanted = ", ".join(re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper() for name in missing)
            sys.exit(f"deploy: {self.arguments.parameters} has no value for {wanted}")
        body = re.sub(r"(?<=CodeUri: )\S+", lambda uri: "s3://{}/{}".format(*self._upload(Path(uri[0]))), template)
        kind = self._change_set_type()
        former = self._deployed() if kind == "UPDATE" else None
        if self._become(kind, body, parameters):
            self.former = former
        if self.arguments.outputs:
            self.arguments.outputs.write_text(json.dumps(parameters | self.outputs(), indent=2))

    def invoke_migrate(self, command: str) -> None:
        """Runs a command of the migrate function and prints its words."""
        self._say(f"invoking {command}")
        payload = json.dumps({"command": command})
        answer = self.functions.invoke(FunctionName=self.outputs()["MigrateFunction"], Payload=payload)
        words = json.load(answer["Payload"])
        has_failed = "FunctionError" in answer
        for line in words["errorMessage"].splitlines() if has_failed else words["lines"]:
            print(f"{command:<15}{line}", file=sys.stderr)
        if has_failed:
            if self.former:
                self._take_back()
            sys.exit(f"deploy: {command} failed")

    def start(self) -> None:
        """Wakes the trigger."""
        self.functions.invoke(FunctionName=self.outputs()["TriggerFunction"], InvocationType="Event")
        self._say("the trigger runs")

    def update(self) -> None:
        """New code for one function."""
        name = self.arguments.function
        function = self.outputs().get(f"{name.capitalize()}Function")
        if not function:
            sys.exit(f"update: there is no function {name}")
        bucket, key = self._upload(Path(name, "bootstrap.zip"))
        self.functions.update_function_code(FunctionName=function, S3Bucket=bucket, S3Key=key)
        self.functions.get_waiter("function_updated_v2").wait(FunctionName=function, WaiterConfig={"Delay": 1})
        self._say(f"{name} is live")

    def show(self) -> None:
        """Prints the stack's outputs."""
        for name, value in self.outputs().items():
            print(f"{name:<20}{value}")

    def destroy(self) -> None:
        """Deletes the stack, once its name was typed, and says what is left of it."""
        if self._status() in (None, "DELETE_COMPLETE"):
            sys.exit(f"destroy: there is no stack {self.stack}")
        queues = {name: url for name, url in self.outputs().items() if name.endswith("QueueUrl")}
        for name, url in queues.items():
            self._say(f"{name.removesuffix('Url')} holds {self._depth(url)} messages")
        self._say(f"{self.stack} goes, with its functions, their logs, roles and alarms")
        self._say("the queues stay (LocalStack takes them along), and so do the schema and the indexes, unless `uninstall` was before")
        self._confirm()
        self.cloudformation.delete_stack(StackName=self.stack)
        self._wait("deleted", "DELETE_COMPLETE")
        for url in queues.values():
            if self._depth(url) is not None:
                self._say(f"kept: {url}")
        self._say("kept: your secrets, and the bucket of the functions' code, which all stacks of the account share")

    def _depth(self, queue: str) -> int | None:
        """How many messages wait or are under way; None if there is no such queue."""
        counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesDelayed", "ApproximateNumberOfMessagesNotVisible"]
        try:
            found = self.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=counts)["Attributes"]
        except self.sqs.exceptions.QueueDoesNotExist:
            return None
        return sum(map(int, found.values()))

    def _confirm(self) -> None:
        typed = self.arguments.yes
        if not typed and sys.stdin.isatty():
            typed = input(f"{'destroy':<15}type {self.stack} to go on: ")
        if typed != self.stack:
            sys.exit(f"destroy: nothing was deleted. To go on, type the stack's name, or give it: YES={self.stack}")

    def outputs(self) -> dict[str, str]:
        """The stack's outputs."""
        stack = self.cloudformation.describe_stacks(StackName=self.stack)["Stacks"][0]
        return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}

    def _say(self, words: str) -> None:
        """One line of progress."""
        print(f"{self.step:<15}{words}", file=sys.stderr, flush=True)

    def _write_secrets(self) -> dict[str, str]:
        """For stacks that are not on AWS: the secrets that a person makes there, and their ARNs as parameters."""
        if not self.arguments.secrets:
            return {}
        client, arns = boto3.client("secretsmanager"), {}
        for parameter, value in json.loads(self.arguments.secrets.read_text()).items():
            name, text = f"{self.stack}/{parameter.removesuffix('SecretArn')}", json.dumps(value)
            try:
                arns[parameter] = client.create_secret(Name=name, SecretString=text)["ARN"]
            except client.exceptions.ResourceExistsException:
                arns[parameter] = client.put_secret_value(SecretId=name, SecretString=text)["ARN"]
        return arns

    def _upload(self, code: Path) -> tuple[str, str]:
        """Puts a function's zip where Lambda finds it, under its content's hash, so that equal code is no change."""
        folder = self.arguments.functions
        file = folder / code.parent.name / "bootstrap" if folder else self.arguments.template.parent / code
        if not file.exists():
            sys.exit(f"deploy: {file} does not exist; build the functions first")
        packed = pack(file.read_bytes(), level=1) if folder else file.read_bytes()
        bucket, key = self._bucket(), f"{hashlib.sha256(packed).hexdigest()}.zip"
        if not self.s3.list_objects_v2(Bucket=bucket, Prefix=key).get("KeyCount"):
            self._say(f"uploading {Path(*code.parts[-2:])}, {len(packed) / 1e6:.1f} MB")
            self.s3.put_object(Bucket=bucket, Key=key, Body=packed)
        return bucket, key

    def _bucket(self) -> str:
        """The bucket that was named, or one for this account and region, which is made."""
        if not self.arguments.bucket:
            account, region = boto3.client("sts").get_caller_identity()["Account"], self.s3.meta.region_name
            self.arguments.bucket = f"sluice-code-{account}-{region}"
            where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            try:
                self.s3.create_bucket(Bucket=self.arguments.bucket, **where)
            except self.s3.exceptions.BucketAlreadyOwnedByYou:
                pass
        return self.arguments.bucket

    def _status(self) -> str | None:
        try:
            return self.cloudformation.describe_stacks(StackName=self.stack)["Stacks"][0]["StackStatus"]
        except ClientError as error:
            if "does not exist" in str(error):
                return None
            raise

    def _deployed(self) -> tuple[str, dict[str, str]]:
        """Template and parameters of the stack as it is."""
        template = self.cloudformation.get_template(StackName=self.stack, TemplateStage="Original")["TemplateBody"]
        parameters = self.cloudformation.describe_stacks(StackName=self.stack)["Stacks"][0].get("Parameters", [])
        return template, {parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in parameters}

    def _take_back(self) -> None:
        """The stack as it was before this deploy."""
        self._say("the functions go back to what they were")
        self._become("UPDATE", *self.former)
        self.start()

    def _become(self, kind: str, body: str, parameters: dict[str, str]) -> bool:
        """Shows the change set and executes it; False if it is empty."""
        change_set = self._create_change_set(kind, body, parameters)
        if change_set:
            self.cloudformation.execute_change_set(StackName=self.stack, ChangeSetName=change_set)
            self._wait("deployed", "CREATE_COMPLETE", "UPDATE_COMPLETE")
        return bool(change_set)

    def _change_set_type(self) -> str:
        status = self._status()
        if status in ("ROLLBACK_COMPLETE", "CREATE_FAILED"):  # CloudFormation can only delete such a stack
            self._say(f"the stack {self.stack} was never complete ({status}): deleting it first")
            self.cloudformation.delete_stack(StackName=self.stack)
            while self._status() not in (None, "DELETE_COMPLETE"):
                time.sleep(1)
            status = None
        return "CREATE" if status in (None, "REVIEW_IN_PROGRESS", "DELETE_COMPLETE") else "UPDATE"

    def _create_change_set(self, kind: str, body: str, parameters: dict[str, str]) -> str | None:
        """Creates it and says what it will do; None if that is nothing."""
        change_set = self.cloudformation.create_change_set(
            StackName=self.stack, ChangeSetName=f"deploy-{time.time_ns()}", ChangeSetType=kind, TemplateBody=body,
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
        )["Id"]  # fmt: skip
        while True:
            found = self.cloudformation.describe_change_set(StackName=self.stack, ChangeSetName=change_set)
            if found["Status"] in ("CREATE_COMPLETE", "FAILED"):
                break
            time.sleep(1)
        reason = found.get("StatusReason", "")
        changes = [change["ResourceChange"] for change in found.get("Changes", [])]
        if found["Status"] == "FAILED" and not re.search("didn't contain changes|No updates", reason):
            sys.exit(f"deploy: the change set cannot be made: {reason}")
        if found["Status"] == "FAILED" or not (changes or kind == "CREATE"):
            self._say("nothing has changed")
            self.cloudformation.delete_change_set(StackName=self.stack, ChangeSetName=change_set)
            return None
        for change in changes:
            lot = "stays, and nobody reads it" if "Retain" in change.get("PolicyAction", "") else "is lost"
            loss = f", by a new one: what the old one holds {lot}" if change.get("Replacement") == "True" else ""
            self._say(f"  {CHANGES[change['Action']]:<7}{change['LogicalResourceId']} ({change['ResourceType']}){loss}")
        return change_set

    def _wait(self, words: str, *ends: str) -> None:
        began, told = time.monotonic(), 0.0
        while (status := self._status() or "DELETE_COMPLETE").endswith("_IN_PROGRESS"):
            time.sleep(1)
            if time.monotonic() - told > 10:
                told = time.monotonic()
                self._say(f"  … {status.lower().replace('_', ' ')}, {told - began:.0f} s")
        if status not in ends:
            for event in self.cloudformation.describe_stack_events(StackName=self.stack)["StackEvents"]:
                if event["ResourceStatus"].endswith("_FAILED"):
                    self._say(f"  {event['LogicalResourceId']}: {event.get('ResourceStatusReason', event['ResourceStatus'])}")
            sys.exit(f"{self.step}: the stack {self.stack} is in {status}")
        self._say(f"{self.stack} is {words} ({time.monotonic() - began:.0f} s)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack", help="name of the CloudFormation stack")
    parser.add_argument("steps", nargs="+", choices=["deploy", *MIGRATE_COMMANDS, "start", "show", "update", "destroy"])
    parser.add_argument("--template", type=Path, default=TEMPLATE, help="it names the zips, from its own folder")
    parser.add_argument("--functions", type=Path, help="folder of trigger/bootstrap, indexer/bootstrap and so on, to be taken in their place")
    parser.add_argument("--parameters", type=Path, help="the template's parameters, .env or .json")
    parser.add_argument("--set", metavar="PARAMETER=VALUE", type=lambda pair: pair.split("=", 1), action="append", default=[], help="a parameter more")
    parser.add_argument("--secrets", type=Path, help="secrets to make first: {parameter: {…}} (LocalStack)")
    parser.add_argument("--outputs", type=Path, help="where to write the stack's outputs and parameters, as JSON")
    parser.add_argument("--bucket", help="where the code is put; made, if none is named")
    parser.add_argument("--function", help="for update")
    parser.add_argument("--yes", metavar="STACK", help="for destroy: the name that is typed otherwise")
    deployment = Deployment(parser.parse_args())
    for step in deployment.arguments.steps:
        deployment.step = step
        deployment.invoke_migrate(step) if step in MIGRATE_COMMANDS else getattr(deployment, step)()


try:
    main()
except (ClientError, BotoCoreError) as error:
    sys.exit(f"deploy: {error}")
