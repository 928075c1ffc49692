"""Of the trial on AWS: what can be asked without a stack. Two minutes."""

import json
import time
from datetime import UTC, datetime, timedelta

from botocore.exceptions import ClientError

import parameters
import template
from bucket import Bucket

DUMMY = "arn:aws:secretsmanager:{}:{}:secret:sluice-trial-none-AbC1d2"
# Parameters that CloudFormation has to refuse before it makes anything, and a part of what it should say.
REFUSED = [
    ("a duration without its unit", {"Stay": "65"}, "Stay"),
    ("days that CloudWatch lacks", {"LogRetentionDays": "31"}, "LogRetentionDays"),
    ("a name in place of an ARN", {"DatabaseSecretArn": "sluice/functions"}, "DatabaseSecretArn"),
    ("tokens without their secret", {"AdminUrl": "token"}, "AdminSecretArn is needed"),
    ("subnets without groups", {"SubnetIds": "subnet-00000000000000000"}, "Give both, or neither"),
    ("groups without subnets", {"SecurityGroupIds": "sg-00000000000000000"}, "Give both, or neither"),
]
EMF_PATIENCE_S = 300


def a_bucket_of_its_own(trial) -> None:
    trial.later(f"the bucket {trial.bucket}", trial.empty_the_bucket)
    made = Bucket(trial.bucket, trial.account, trial.session)
    made.s3.put_bucket_tagging(Bucket=made.name, Tagging={"TagSet": [{"Key": name, "Value": value} for name, value in trial.tags.items()]})
    key, is_new = made.put(b"a trial", ".txt")
    trial.holds("bucket", is_new and not made.put(b"a trial", ".txt")[1], "S3 keeps the checksum by which an upload is known")
    made.s3.put_object(Bucket=made.name, Key=key, Body=b"another's")
    trial.holds("bucket: another's content", made.put(b"a trial", ".txt")[1], "is known by its checksum, and put anew")


def _change_set(trial, **more: str) -> str:
    """Why there is none; nothing, where it was made. Then it is looked at, and deleted."""
    client, stack = trial.client("cloudformation"), f"{trial.name}-dry"
    dummy = DUMMY.format(trial.region, trial.account)
    given = {"DatabaseSecretArn": dummy, "DatabaseOwnerSecretArn": dummy, "ElasticsearchSecretArn": dummy, "AdminUrl": "none"} | more
    text = template.FILE.read_text().replace("../target/lambda/", f"s3://{trial.bucket}/")
    if not trial.is_aws:
        text = template.without_idle_functions(text, given)
    bucket = Bucket(trial.bucket, trial.account, trial.session)
    key, _ = bucket.put(text.encode(), ".yaml")
    trial.later(f"the stack {stack}", lambda: client.delete_stack(StackName=stack))
    try:
        client.create_change_set(
            StackName=stack, ChangeSetName="dry", ChangeSetType="CREATE", TemplateURL=bucket.url(key), Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in given.items()],
            Tags=[{"Key": name, "Value": value} for name, value in trial.tags.items()],
        )  # fmt: skip
        while (found := client.describe_change_set(StackName=stack, ChangeSetName="dry"))["Status"] not in ("CREATE_COMPLETE", "FAILED"):
            time.sleep(1)
        if found["Status"] == "FAILED":
            return found.get("StatusReason", "no reason")
        told = f"{len(found['Changes'])} resources to make"
        if trial.is_aws:
            processed = client.get_template(StackName=stack, ChangeSetName="dry", TemplateStage="Processed")["TemplateBody"]
            whole = processed if isinstance(processed, dict) else template.load(processed)
            told += f", {len(whole['Resources'])} in the template after the transform"
        trial.holds("change set", True, told)
        return ""
    except ClientError as error:
        return str(error)
    finally:
        client.delete_stack(StackName=stack)
        trial.wait_for(lambda: _is_gone(client, stack), 60)
        trial.undo.pop()


def _is_gone(client, stack: str) -> bool:
    try:
        return client.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"] == "DELETE_COMPLETE"
    except ClientError:
        return True


def a_change_set_can_be_made(trial) -> None:
    if why := _change_set(trial):
        trial.holds("change set", False, why)


def what_cannot_be_is_refused_at_once(trial) -> None:
    if not trial.only_aws("refused at once", "looks at no pattern and no rule"):
        return
    for words, more, wanted in REFUSED:
        told = _change_set(trial, **more)
        trial.holds(f"refused: {words}"[:33], wanted in told, told or "it was taken")


def a_function_url_exists_here(trial) -> None:
    trial.says("function URLs", f"none in {trial.region}, as far as we know" if trial.region in parameters.WITHOUT_FUNCTION_URLS else f"should be in {trial.region}")


def fill_over_a_series_without_values(trial) -> None:
    """No alarm depends on it; alarms.py computes both."""
    if not trial.only_aws("FILL over nothing", "has no metric math"):
        return
    end = datetime.now(UTC)
    metric = {"Namespace": "Sluice", "MetricName": trial.name, "Dimensions": [{"Name": "stack", "Value": trial.name}]}
    queries = [
        {"Id": "m", "MetricStat": {"Metric": metric, "Period": 60, "Stat": "Sum"}, "ReturnData": False},
        {"Id": "filled", "Expression": "FILL(m, 0)"},
    ]
    answer = trial.client("cloudwatch").get_metric_data(MetricDataQueries=queries, StartTime=end - timedelta(hours=1), EndTime=end)
    values = answer["MetricDataResults"][0]["Values"]
    trial.says("FILL over nothing", f"{len(values)} values of 60: {'it fills' if values else 'it gives nothing'}")


def lines_become_metrics(trial) -> None:
    """As the indexer prints them, with values and their counts."""
    if not trial.only_aws("metrics of a log line", "makes no metrics of lines"):
        return
    logs, cloudwatch, group = trial.client("logs"), trial.client("cloudwatch"), f"{trial.name}/lines"
    trial.later(f"the log group {group}", lambda: logs.delete_log_group(logGroupName=group))
    logs.create_log_group(logGroupName=group, tags=trial.tags)
    logs.create_log_stream(logGroupName=group, logStreamName="one")
    now_ms = time.time_ns() // 1_000_000
    metrics = [{"Name": "CommitToIndexed", "Unit": "Milliseconds"}, {"Name": "Written", "Unit": "Count"}]
    directive = {"Namespace": "Sluice", "Dimensions": [["stack"]], "Metrics": metrics}
    line = {"stack": trial.name, "Written": 3, "CommitToIndexed": {"Values": [100, 900], "Counts": [90, 10]}}
    line |= {"_aws": {"Timestamp": now_ms, "CloudWatchMetrics": [directive]}}
    logs.put_log_events(logGroupName=group, logStreamName="one", logEvents=[{"timestamp": now_ms, "message": json.dumps(line)}])

    def statistics(name: str, **more) -> list[dict]:
        now = datetime.now(UTC)
        dimensions = [{"Name": "stack", "Value": trial.name}]
        wanted = {"Namespace": "Sluice", "MetricName": name, "Dimensions": dimensions, "StartTime": now - timedelta(minutes=30), "EndTime": now, "Period": 60}
        return cloudwatch.get_metric_statistics(**wanted, **more)["Datapoints"]

    found = trial.wait_for(lambda: statistics("Written", Statistics=["Sum"]), EMF_PATIENCE_S)
    trial.holds("metrics of a log line: a count", found and found[0]["Sum"] == 3, found)
    found = trial.wait_for(lambda: statistics("CommitToIndexed", ExtendedStatistics=["p50", "p95"]), 60)
    trial.holds("metrics of a log line: p95", found and found[0]["ExtendedStatistics"]["p95"] > 500, found)


def the_account_has_executions(trial) -> None:
    limit = trial.client("lambda").get_account_settings()["AccountLimit"]["ConcurrentExecutions"]
    trial.says("concurrent executions", f"{limit}" + (": set MAXIMUM_CONCURRENCY=2, and ask for more" if limit < 20 else ""))


CHECKS = [
    a_bucket_of_its_own, a_change_set_can_be_made, what_cannot_be_is_refused_at_once, a_function_url_exists_here, fill_over_a_series_without_values,
    lines_become_metrics, the_account_has_executions,
]  # fmt: skip
