"""Of the trial on AWS: a stack whose servers are nowhere, from its first deploy to its end."""

import json
import os
import time
from datetime import UTC, datetime, timedelta

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

import template

FUNCTIONS = ("MigrateFunction", "TriggerFunction", "IndexerFunction", "ValidateFunction", "AdminFunction")
METRIC_PATIENCE_S = 360  # CloudWatch has a value some minutes later
LETTER_ATTRIBUTES = {"error_type", "reason", "first_seen", "attempts", "failed_at"}
LATE_LINES_S = 120


def environment(region: str) -> dict[str, str]:
    """Of deploy.py: the caller's credentials, and the trial's region."""
    return os.environ | {"AWS_REGION": region, "AWS_DEFAULT_REGION": region}


def run(trial) -> None:
    """Deploys, and asks all that a stack without servers can answer."""
    trial.make_secrets()
    if not trial.is_aws:
        trial.parameters["Demo"] = "true"  # LocalStack deletes no stack of which a function is left out by a condition
    trial.later(f"the stack {trial.name}, its queues and its logs", lambda: end(trial))
    began = time.monotonic()
    status, words = trial.deploy("deploy")
    trial.holds("deploy", status == 0, f"{time.monotonic() - began:.0f} s" if status == 0 else words)
    if status == 0:
        for one in CHECKS:
            trial.check(one)


def migrate_fails_and_says_why(trial) -> None:
    status, words = trial.deploy("migrate")
    trial.holds("migrate without a database", status != 0 and "cannot be reached" in words, words.strip().splitlines()[-2:])


def the_admin_url_answers(trial) -> None:
    """Both permissions of the URL, the secrets, the roles of the functions."""
    trial.wait_for(lambda: trial.call("/live")[0] == 200, 60)
    for path, token, wanted in (("/live", None, 200), ("/health", None, 401), ("/health", "x" * 40, 401)):
        status, _ = trial.call(path, token)
        trial.holds(f"{path} {'without a token' if not token else 'with a wrong one'}", status == wanted, status)
    status, body = trial.call("/health", trial.tokens["operator"])
    parts = {part["name"]: part["ok"] for part in json.loads(body).get("parts", [])} if status == 503 else {}
    trial.holds("/health with the operator's", parts.get("sqs") is True and parts.get("postgresql") is False, parts or f"{status}: {body[:200]}")


def the_queue_feeds_the_indexer(trial) -> None:
    found = trial.client("lambda").list_event_source_mappings(FunctionName=trial.outputs()["IndexerFunction"])["EventSourceMappings"]
    trial.holds("event source mapping", [one["State"] for one in found] == ["Enabled"], [(one["State"], one.get("StateTransitionReason")) for one in found])


def a_message_that_cannot_be_read_is_a_letter(trial) -> None:
    """It needs neither PostgreSQL nor Elasticsearch. Its age is asked for in the end."""
    sqs, queues = trial.client("sqs"), trial.outputs()
    sqs.send_message(QueueUrl=queues["QueueUrl"], MessageBody="garbage")

    def letters() -> list[dict]:
        options = {"QueueUrl": queues["DeadLetterQueueUrl"], "MessageAttributeNames": ["All"], "VisibilityTimeout": 0, "WaitTimeSeconds": 1}
        return sqs.receive_message(**options).get("Messages", [])

    found = trial.wait_for(letters, 60)
    names = set(found[0]["MessageAttributes"]) if found else set()
    trial.holds("a letter with its reason", LETTER_ATTRIBUTES <= names, sorted(names) or "none within a minute")
    for _ in range(4):
        status, body = trial.call("/api/dlq", trial.tokens["operator"])
    trial.holds("the letter on the dashboard", status == 200 and "malformed_message" in body, f"{status}, listed four times")


def the_queue_has_its_limits(trial) -> None:
    sqs, queue = trial.client("sqs"), trial.outputs()["QueueUrl"]
    sqs.send_message(QueueUrl=queue, MessageBody="x" * 999_000)
    try:
        sqs.send_message(QueueUrl=queue, MessageBody="x" * 1_000_001)
        trial.holds("a message of 1,000,001 bytes", False, "was taken")
    except ClientError as error:
        trial.holds("a message of 1,000,001 bytes", True, f"is refused ({error.response['Error']['Code']}), one of 999,000 is not")
    if not trial.only_aws("a message in the clear", "speaks HTTP only"):
        return
    clear = boto3.Session(region_name=trial.region).client("sqs", use_ssl=False, config=Config(retries={"max_attempts": 0}))
    try:
        clear.send_message(QueueUrl=queue.replace("https://", "http://"), MessageBody="garbage")
        trial.holds("a message in the clear", False, "was taken")
    except ClientError as error:
        trial.holds("a message in the clear", "AccessDenied" in str(error), error.response["Error"]["Code"])


def letters_that_were_sent_have_no_source(trial) -> None:
    if not trial.only_aws("SQS's own redrive", "has an answer of its own"):
        return
    sqs = trial.client("sqs")
    arn = sqs.get_queue_attributes(QueueUrl=trial.outputs()["DeadLetterQueueUrl"], AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sqs.start_message_move_task(SourceArn=arn)

    def ended() -> dict | None:
        task = sqs.list_message_move_tasks(SourceArn=arn)["Results"][0]
        return task if task["Status"] in ("COMPLETED", "FAILED") else None

    task = trial.wait_for(ended, 120) or {}
    trial.holds("SQS's own redrive", "CouldNotDetermineMessageSource" in task.get("FailureReason", ""), task.get("FailureReason") or task.get("Status"))


def the_indexer_may_send_to_its_own_queue(trial) -> None:
    if trial.only_aws("RecursiveLoop", "passes it over"):
        found = trial.client("lambda").get_function_recursion_config(FunctionName=trial.outputs()["IndexerFunction"])["RecursiveLoop"]
        trial.holds("RecursiveLoop", found == "Allow", found)


def the_code_is_denied_what_lambda_needs(trial) -> None:
    if not trial.only_aws("network interfaces, log groups", "enforces no policy"):
        return
    configuration = trial.client("lambda").get_function_configuration(FunctionName=trial.outputs()["IndexerFunction"])
    context = [{"ContextKeyName": "lambda:SourceFunctionArn", "ContextKeyValues": [configuration["FunctionArn"]], "ContextKeyType": "string"}]
    actions = ["ec2:DeleteNetworkInterface", "logs:CreateLogGroup"]
    iam = trial.client("iam")
    for words, entries, wanted in (("by the code", context, {"explicitDeny"}), ("by Lambda", [], {"allowed", "explicitDeny"})):
        answer = iam.simulate_principal_policy(PolicySourceArn=configuration["Role"], ActionNames=actions, ContextEntries=entries)
        found = {one["EvalActionName"]: one["EvalDecision"] for one in answer["EvaluationResults"]}
        trial.holds(f"denied {words}", set(found.values()) == wanted, found)


def logs_are_where_they_should_be(trial) -> None:
    if not trial.only_aws("logs", "keeps them in groups of its own"):
        return
    logs, outputs, physical = trial.client("logs"), trial.outputs(), trial.physical()
    for name in FUNCTIONS:
        group = physical[name.replace("Function", "Logs")]
        lines = trial.wait_for(lambda group=group: logs.filter_log_events(logGroupName=group, limit=5)["events"], 90)
        strays = logs.describe_log_groups(logGroupNamePrefix=f"/aws/lambda/{outputs[name]}")["logGroups"]
        trial.holds(f"logs of {name}", lines and not strays, "in its own group" if lines else "no lines")


def what_watches_it_is_there(trial) -> None:
    cloudwatch, resources = trial.client("cloudwatch"), template.load()["Resources"].items()
    conditions = [None, "HasTokens"] + ["HasIngest"] * ("Demo" in trial.parameters)
    wanted = {name for name, one in resources if one["Type"] == "AWS::CloudWatch::Alarm" and one.get("Condition") in conditions}
    pages = cloudwatch.get_paginator("describe_alarms").paginate(AlarmNamePrefix=f"{trial.name}-", AlarmTypes=["MetricAlarm", "CompositeAlarm"])
    pages = list(pages)
    metric = [one for page in pages for one in page.get("MetricAlarms", [])]
    composite = [one for page in pages for one in page.get("CompositeAlarms", [])]
    faulty = [(one["AlarmName"], one["StateReason"]) for one in metric if "error" in one.get("StateReason", "").lower() or one.get("EvaluationState")]
    trial.holds("alarms", len(metric) == len(wanted) and len(composite) == 1, f"{len(metric)} of {len(wanted)}, and {len(composite)} composite")
    trial.holds("alarms can be evaluated", not faulty, faulty or [f"{one['AlarmName']}: {one['StateValue']}" for one in metric if one["StateValue"] == "ALARM"])
    body = cloudwatch.get_dashboard(DashboardName=trial.physical()["WatchDashboard"])["DashboardBody"]
    trial.holds("dashboard", json.loads(body)["widgets"], f"{len(json.loads(body)['widgets'])} widgets")


def _values(trial, namespace: str, metric: str, dimension: str, value: str, statistic: str = "Sum") -> list[float]:
    """By the minute, the oldest first, of the last half an hour."""
    end = datetime.now(UTC)
    found = trial.client("cloudwatch").get_metric_statistics(
        Namespace=namespace, MetricName=metric, Dimensions=[{"Name": dimension, "Value": value}], StartTime=end - timedelta(minutes=30), EndTime=end,
        Period=60, Statistics=[statistic],
    )["Datapoints"]  # fmt: skip
    return [one[statistic] for one in sorted(found, key=lambda one: one["Timestamp"])]


def the_schedules_run(trial) -> None:
    if not trial.only_aws("schedules", "tells no minutes of them"):
        return
    for name in ("TriggerFunction", "ValidateFunction", "AdminFunction"):
        function = trial.outputs()[name]
        found = trial.wait_for(lambda function=function: (values := _values(trial, "AWS/Lambda", "Invocations", "FunctionName", function))[1:] and values, METRIC_PATIENCE_S)
        throttles = sum(_values(trial, "AWS/Lambda", "Throttles", "FunctionName", function))
        trial.holds(f"minutes of {name}", found and len(found) >= 2, f"invocations {found}, throttles {throttles:.0f}")
    found = trial.wait_for(lambda: _values(trial, "Sluice", "RefusedTokens", "stack", trial.name), METRIC_PATIENCE_S)
    trial.holds("RefusedTokens, of a line", found, found)


def the_same_again_changes_nothing(trial) -> None:
    status, words = trial.deploy("deploy")
    trial.holds("the same deploy again", status == 0 and "nothing has changed" in words, words.strip().splitlines()[-1:])


def a_deploy_that_fails_says_why(trial) -> None:
    if not trial.only_aws("a deploy that fails", "takes subnets that are nowhere"):
        return
    status, words = trial.deploy("deploy", SubnetIds="subnet-00000000000000000", SecurityGroupIds="sg-00000000000000000")
    reasons = [line for line in words.splitlines() if "Function: " in line]
    trial.holds("a deploy that fails", status != 0 and "UPDATE_ROLLBACK_COMPLETE" in words and reasons, reasons[:1] or words.strip().splitlines()[-3:])


def traces_can_be_turned_on(trial) -> None:
    status, words = trial.deploy("deploy", Tracing="Active")
    trial.holds("Tracing=Active", status == 0, words.strip().splitlines()[-1:])


def the_age_of_a_letter_that_was_listed(trial) -> None:
    if not trial.only_aws("a listed letter's age", "has no such metric"):
        return
    queue = trial.outputs()["DeadLetterQueueUrl"].rpartition("/")[2]
    ages = _values(trial, "AWS/SQS", "ApproximateAgeOfOldestMessage", "QueueName", queue, "Maximum")
    visible = _values(trial, "AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", queue, "Maximum")
    trial.says("a listed letter's age", f"{ages} s, and {visible} visible, by the minute: no alarm goes by the age")


CHECKS = [
    migrate_fails_and_says_why, the_admin_url_answers, the_queue_feeds_the_indexer, a_message_that_cannot_be_read_is_a_letter, the_queue_has_its_limits,
    letters_that_were_sent_have_no_source, the_indexer_may_send_to_its_own_queue, the_code_is_denied_what_lambda_needs, logs_are_where_they_should_be,
    what_watches_it_is_there, the_schedules_run, the_same_again_changes_nothing, a_deploy_that_fails_says_why, traces_can_be_turned_on,
    the_age_of_a_letter_that_was_listed,
]  # fmt: skip


def end(trial) -> None:
    """Destroys the stack, once; then what it leaves: its queues, and log groups that would come back."""
    trial.undo = [(words, undo) for words, undo in trial.undo if not words.startswith("the stack ")]
    client = trial.client("cloudformation")
    try:
        client.describe_stacks(StackName=trial.name)
    except ClientError:
        return
    queues = [url for name, url in trial.outputs().items() if name.endswith("QueueUrl")]
    began = time.monotonic()
    status, words = trial.deploy("destroy")
    trial.holds("destroy", status == 0, f"{time.monotonic() - began:.0f} s" if status == 0 else words)
    kept = [url for url in queues if url in words]
    if trial.is_aws:
        trial.holds("the queues are kept", len(kept) == 2, "and deleted now")
    for url in kept:
        trial.client("sqs").delete_queue(QueueUrl=url)
    left = {
        "alarms": trial.client("cloudwatch").describe_alarms(AlarmNamePrefix=f"{trial.name}-")["MetricAlarms"],
        "rules": trial.client("events").list_rules(NamePrefix=f"{trial.name}-")["Rules"],
        "roles": [one for page in trial.client("iam").get_paginator("list_roles").paginate() for one in page["Roles"] if one["RoleName"].startswith(f"{trial.name}-")],
    }
    trial.holds("what is left", not any(left.values()), {kind: len(found) for kind, found in left.items()})
    logs = trial.client("logs")

    def groups() -> list[str]:
        return [one["logGroupName"] for one in logs.describe_log_groups(logGroupNamePrefix=f"{trial.name}-")["logGroups"]]

    if trial.only_aws("log groups that come back", "has none of ours"):
        at_once = groups()
        time.sleep(LATE_LINES_S)
        later = groups()
        trial.holds("log groups that come back", not later, f"{len(at_once)} at once, {len(later)} after {LATE_LINES_S} s")
        for group in later:
            logs.delete_log_group(logGroupName=group)
