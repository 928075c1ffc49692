"""Deploys Sluice, to AWS or, by AWS_ENDPOINT_URL, to LocalStack. Steps in the order in which they are named:

    deploy.py STACK deploy migrate start show --parameters .env

  deploy   packages the functions and the template, shows the change set, executes it
  migrate  invokes the migrate function; its words are printed, and its failure is this command's. After `deploy` it also
           takes the stack back to what it was, since the functions before know the schema that is still there
  uninstall, rebase, replay, reindex  the same function's other commands; a rebase is invoked until it has finished, and a replay is told
           what by --since, --stream, --target, --dry-run
  validate  compares the streams' sources with what their targets have, by the validate function: --stream, --target, --repair,
           --dry-run. It fails if they differ
  start    invokes the trigger, so that nobody waits for the first minute
  show     prints the stack's outputs
  update   new code for one function (--function), past CloudFormation: live in seconds
  destroy  deletes the stack, once its name was typed; the queues stay
"""

import argparse
import json
import re
import socket
import sys
import time
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

import account
import parameters
import template
import validation
from archive import pack
from bucket import Bucket, BucketRefused

MIGRATE_COMMANDS = ("migrate", "uninstall", "rebase", "replay", "reindex")
CHANGES = {"Add": "add", "Modify": "change", "Remove": "remove", "Import": "import", "Dynamic": "maybe change"}
# A stack's states that no deploy leads out of, and what does.
STUCK = {
    "ROLLBACK_FAILED": "delete it (make destroy), once what is in the way is gone",
    "DELETE_FAILED": "delete it again (make destroy), once what is in the way is gone",
    "UPDATE_ROLLBACK_FAILED": "mend what is in the way, then: aws cloudformation continue-update-rollback --stack-name {}",
}
KEEP_ALIVE_S = 60  # a NAT gateway forgets a silent connection after 350 s, a router at home sooner
WAKE_UP_S = 300  # a function that nobody has invoked for weeks; in a VPC, with its network interfaces
PACE_S = 2  # from one question after a round to the next: what is under way arrives meanwhile


def lambda_client():
    """A migration may take as long as Lambda lets it, and must not be started twice by an impatient client."""
    client = boto3.client("lambda", config=Config(read_timeout=910, retries={"max_attempts": 0}, tcp_keepalive=True))
    # Until the answer comes nothing is said. The kernel alone would keep the connection alive only after two hours.
    options = [("TCP_KEEPIDLE", KEEP_ALIVE_S), ("TCP_KEEPINTVL", KEEP_ALIVE_S // 4)]
    own = [(socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in options if hasattr(socket, name)]
    client._endpoint.http_session._socket_options.extend(own)
    return client


class Deployment:
    """One CloudFormation stack."""

    step = "deploy"  # which one is under way
    former = None  # template and parameters of before, once `deploy` has replaced them
    _bucket = None  # once it was looked for

    def __init__(self, arguments: argparse.Namespace):
        self.arguments, self.stack = arguments, arguments.stack
        self.cloudformation = boto3.client("cloudformation")
        self.region = self.cloudformation.meta.region_name
        self.sqs, self.logs = boto3.client("sqs"), boto3.client("logs")
        self.functions = lambda_client()
        self.account = account.find(boto3.client)

    def say_where(self) -> None:
        """Whose account it is, before anything is done there."""
        endpoint = self.cloudformation.meta.endpoint_url
        elsewhere = "" if "amazonaws" in endpoint else f", at {endpoint}"
        self._say(f"{' '.join(self.arguments.steps)}: the stack {self.stack} of account {self.account}, region {self.region}{elsewhere}")

    def deploy(self) -> None:
        """Packages, then makes the stack what the template says."""
        text = self.arguments.template.read_text()
        given = parameters.read(self.arguments.parameters) | self._write_secrets() | dict(self.arguments.set)
        if problems := parameters.problems(template.load(text), given, self.region):
            sys.exit("deploy: nothing was changed:" + "".join(f"\n  {problem}" for problem in problems))
        if "amazonaws" not in self.cloudformation.meta.endpoint_url:
            text = template.without_idle_functions(text, given)
        kind = self._change_set_type()
        body = re.sub(r"(?<=CodeUri: )\S+", lambda uri: "s3://{}/{}".format(*self._upload(Path(uri[0]))), text)
        former = self._deployed() if kind == "UPDATE" else None
        if self._become(kind, body, given):
            self.former = former
        if self.arguments.outputs:
            self.arguments.outputs.write_text(json.dumps(given | self.outputs(), indent=2))

    def invoke_migrate(self, command: str) -> None:
        """Runs a command of the migrate function and prints its words. One that had no time for all of it goes on when it
        is invoked again; each time it has less left to do, or fails."""
        has_finished, asked = False, {"command": command}
        if command == "replay":
            given = self.arguments
            asked |= {"from": given.since, "target": given.target, "stream": given.stream, "dry_run": given.dry_run}
        if command == "reindex":
            given = self.arguments
            asked |= {"stream": given.stream, "action": given.action, "accept_dead_letters": given.accept_dead_letters}
        while not has_finished:
            self._say(f"invoking {command}")
            answer = self._invoke(self.outputs()["MigrateFunction"], asked)
            words = json.load(answer["Payload"])
            has_failed = "FunctionError" in answer
            for line in words["errorMessage"].splitlines() if has_failed else words["lines"]:
                print(f"{command:<15}{line}", file=sys.stderr)
            if has_failed:
                if self.former:
                    self._take_back()
                sys.exit(f"deploy: {command} failed")
            has_finished = words.get("finished", True)

    def validate(self) -> None:
        """Asks for a round of the streams, and goes on with it to its end. The schedule does so, too, whoever waits here."""
        given = self.arguments
        function = self.outputs().get("ValidateFunction")
        if not function:
            sys.exit(f"validate: the stack {self.stack} is of a version without a validator: make deploy")
        target = {"target": given.target} if given.target else {}  # a release before this one knows of none
        asked = {"command": "begin", "stream": given.stream, "repair": given.repair, "dry_run": given.dry_run, "actor": "make validate"}
        names = self._ask(function, asked | target)["streams"]
        if not names:
            return self._say("there is no stream")
        progress, answer = validation.Progress(self._say), {"finished": False}
        while not answer["finished"]:
            began = time.monotonic()
            answer = self._ask(function, {"command": "go_on", "streams": names} | target)
            progress.tell(answer["streams"])
            if not answer["finished"]:
                time.sleep(max(0.0, began + PACE_S - time.monotonic()))
        print(validation.table(answer["streams"]), flush=True)
        for note in validation.notes(answer["streams"]):
            self._say(note)
        if faults := validation.faults(answer["streams"]):
            sys.exit("\n".join([*(f"{'validate':<15}{fault}" for fault in faults), "validate: what to do is in docs/runbooks.md#differencesalarm"]))
        self._say("nothing is left to do")

    def _ask(self, function: str, event: dict) -> dict:
        """The function's answer; its failure is this command's."""
        answer = self._invoke(function, event)
        words = json.load(answer["Payload"])
        if "FunctionError" in answer:
            sys.exit(f"{self.step}: {words['errorMessage']}")
        return words

    def _invoke(self, function: str, payload: dict) -> dict:
        """Its answer. One that slept for weeks refuses the first call, which wakes it."""
        deadline = time.monotonic() + WAKE_UP_S
        while True:
            try:
                return self.functions.invoke(FunctionName=function, Payload=json.dumps(payload))
            except self.functions.exceptions.ResourceNotReadyException:
                if time.monotonic() > deadline:
                    raise
                self._say("the function was inactive, and is made ready")
                self.functions.get_waiter("function_active_v2").wait(FunctionName=function, WaiterConfig={"Delay": 2, "MaxAttempts": WAKE_UP_S // 2})

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
        groups = self._log_groups()
        self.cloudformation.delete_stack(StackName=self.stack)
        self._wait("deleted", "DELETE_COMPLETE")
        self._delete_what_came_back(groups)
        for url in queues.values():
            if self._depth(url) is not None:
                self._say(f"kept: {url}")
        self._say("kept: your secrets, and the bucket of the functions' code, which all stacks of the account share")

    def _log_groups(self) -> list[str]:
        pages = self.cloudformation.get_paginator("list_stack_resources").paginate(StackName=self.stack)
        resources = [one for page in pages for one in page["StackResourceSummaries"]]
        return [one["PhysicalResourceId"] for one in resources if one["ResourceType"] == "AWS::Logs::LogGroup" and "PhysicalResourceId" in one]

    def _delete_what_came_back(self, groups: list[str]) -> None:
        """Log groups: a function's last lines come late, and may make its group anew, to be kept for ever."""
        for group in groups:
            try:
                self.logs.delete_log_group(logGroupName=group)
                self._say(f"{group} was made anew by late lines, and is deleted again")
            except self.logs.exceptions.ResourceNotFoundException:
                pass

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

    @property
    def bucket(self) -> Bucket:
        self._bucket = self._bucket or Bucket(self.arguments.bucket, self.account)
        return self._bucket

    def _upload(self, code: Path) -> tuple[str, str]:
        """Puts a function's zip where Lambda finds it, under its content's hash, so that equal code is no change."""
        folder = self.arguments.functions
        file = folder / code.parent.name / "bootstrap" if folder else self.arguments.template.parent / code
        if not file.exists():
            sys.exit(f"deploy: {file} does not exist; build the functions first")
        packed = pack(file.read_bytes(), level=1) if folder else file.read_bytes()
        key, is_new = self.bucket.put(packed, ".zip")
        if is_new:
            self._say(f"uploaded {Path(*code.parts[-2:])}, {len(packed) / 1e6:.1f} MB")
        return self.bucket.name, key

    def _status(self) -> str | None:
        try:
            return self.cloudformation.describe_stacks(StackName=self.stack)["Stacks"][0]["StackStatus"]
        except ClientError as error:
            if "does not exist" in str(error):
                return None
            raise

    def _deployed(self) -> tuple[str, dict[str, str]]:
        """Template and parameters of the stack as it is."""
        body = self.cloudformation.get_template(StackName=self.stack, TemplateStage="Original")["TemplateBody"]
        given = self.cloudformation.describe_stacks(StackName=self.stack)["Stacks"][0].get("Parameters", [])
        return body, {parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in given}

    def _take_back(self) -> None:
        """The stack as it was before this deploy."""
        self._say("the functions go back to what they were")
        self._become("UPDATE", *self.former)
        self.start()

    def _become(self, kind: str, body: str, given: dict[str, str]) -> bool:
        """Shows the change set and executes it; False if it is empty."""
        change_set = self._create_change_set(kind, body, given)
        if change_set:
            self.cloudformation.execute_change_set(StackName=self.stack, ChangeSetName=change_set)
            self._wait("deployed", "CREATE_COMPLETE", "UPDATE_COMPLETE")
        return bool(change_set)

    def _change_set_type(self) -> str:
        status = self._status()
        if status in STUCK:
            sys.exit(f"deploy: the stack {self.stack} is in {status}: {STUCK[status].format(self.stack)}")
        if status in ("ROLLBACK_COMPLETE", "CREATE_FAILED"):  # CloudFormation can only delete such a stack
            self._say(f"the stack {self.stack} was never complete ({status}): deleting it first")
            self.cloudformation.delete_stack(StackName=self.stack)
            while (status := self._status()) not in (None, "DELETE_COMPLETE"):
                if status in STUCK:
                    sys.exit(f"deploy: the stack {self.stack} is in {status}: {STUCK[status].format(self.stack)}")
                time.sleep(1)
        return "CREATE" if status in (None, "REVIEW_IN_PROGRESS", "DELETE_COMPLETE") else "UPDATE"

    def _create_change_set(self, kind: str, body: str, given: dict[str, str]) -> str | None:
        """Creates it and says what it will do; None if that is nothing."""
        key, _ = self.bucket.put(body.encode(), ".yaml")
        change_set = self.cloudformation.create_change_set(
            StackName=self.stack, ChangeSetName=f"deploy-{time.time_ns()}", ChangeSetType=kind, TemplateURL=self.bucket.url(key),
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in given.items()],
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
            Tags=[{"Key": name, "Value": value} for name, value in self.arguments.tag],
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
            for event in self._failed_events():
                self._say(f"  {event['LogicalResourceId']}: {event.get('ResourceStatusReason', event['ResourceStatus'])}")
            remedy = f": {STUCK[status].format(self.stack)}" if status in STUCK else ""
            sys.exit(f"{self.step}: the stack {self.stack} is in {status}{remedy}")
        self._say(f"{self.stack} is {words} ({time.monotonic() - began:.0f} s)")

    def _failed_events(self) -> list[dict]:
        """Those of the operation that ended last, the first one first: what follows a failure is mostly its consequence."""
        found = []
        for page in self.cloudformation.get_paginator("describe_stack_events").paginate(StackName=self.stack):
            for event in page["StackEvents"]:
                is_of_the_stack = event["PhysicalResourceId"] == event["StackId"]
                if event["ResourceStatus"].endswith("_FAILED"):
                    found.insert(0, event)
                elif is_of_the_stack and event["ResourceStatus"] in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS"):
                    return found
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack", help="name of the CloudFormation stack")
    parser.add_argument("steps", nargs="+", choices=["deploy", *MIGRATE_COMMANDS, "validate", "start", "show", "update", "destroy"])
    parser.add_argument("--template", type=Path, default=template.FILE, help="it names the zips, from its own folder")
    parser.add_argument("--functions", type=Path, help="folder of trigger/bootstrap, indexer/bootstrap and so on, to be taken in their place")
    parser.add_argument("--parameters", type=Path, help="the template's parameters, .env or .json")
    parser.add_argument("--set", metavar="PARAMETER=VALUE", type=lambda pair: pair.split("=", 1), action="append", default=[], help="a parameter more")
    parser.add_argument("--tag", metavar="NAME=VALUE", type=lambda pair: pair.split("=", 1), action="append", default=[], help="a tag of all that the stack makes")
    parser.add_argument("--secrets", type=Path, help="secrets to make first: {parameter: {…}} (LocalStack)")
    parser.add_argument("--outputs", type=Path, help="where to write the stack's outputs and parameters, as JSON")
    parser.add_argument("--bucket", help="where the code is put; made, if none is named")
    parser.add_argument("--function", help="for update")
    parser.add_argument("--stream", help="for validate and replay: one, and not all; for reindex: which")
    parser.add_argument("--since", help="for replay: a checkpoint's name, or a time")
    parser.add_argument("--target", help="for validate: in this one, and not in each: elasticsearch or clickhouse; for replay: to this one")
    parser.add_argument("--repair", action="store_true", help="for validate: put right what is confirmed to differ")
    parser.add_argument("--dry-run", action="store_true", help="for validate and replay: say what it would be, and write nothing")
    parser.add_argument("--action", choices=["begin", "status", "takeover", "rollback", "abort"], default="begin", help="for reindex")
    parser.add_argument("--accept-dead-letters", action="store_true", help="for reindex: take over without the documents that the index refuses")
    parser.add_argument("--yes", metavar="STACK", help="for destroy: the name that is typed otherwise")
    deployment = Deployment(parser.parse_args())
    deployment.step = deployment.arguments.steps[0]
    deployment.say_where()
    for step in deployment.arguments.steps:
        deployment.step = step
        deployment.invoke_migrate(step) if step in MIGRATE_COMMANDS else getattr(deployment, step)()


if __name__ == "__main__":
    try:
        main()
    except (ClientError, BotoCoreError, BucketRefused) as error:
        sys.exit(f"deploy: {error}")
