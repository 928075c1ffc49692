"""Of the trial on AWS, with a PostgreSQL and an Elasticsearch of yours: a stream of its own, from row to document. 25 minutes.

The owner's secret is read, and `psql` (or what PSQL names) connects with it from this machine. A database that has a schema
`sluice` already is left alone: it is somebody's.
"""

import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

import parameters
import trial_stack

STREAM = "sluice_trial"
MAKE = f"""
    CREATE SCHEMA {STREAM};
    CREATE TABLE {STREAM}.items (id bigint PRIMARY KEY, title text);
    SELECT sluice.define_stream('{STREAM}', source => '{STREAM}.items', key => 'id',
        mapping => '{{"properties": {{"id": {{"type": "long"}}, "title": {{"type": "text"}}}}}}');
    SELECT sluice.track('{STREAM}.items', stream => '{STREAM}', key => 'id');"""
DROP = f"SELECT sluice.drop_stream('{STREAM}'); DROP SCHEMA {STREAM} CASCADE;"
DELETES_S, DELETES_A_SECOND = 600, 5  # one lineage of sixteen takes as many second looks, a second apart
IDLE_S = 360  # longer than AWS's network address translation remembers a connection
REPORT = re.compile(r"Max Memory Used: (\d+) MB(?:\s+Init Duration: ([\d.]+) ms)?")


class Database:
    """The owner's psql."""

    def __init__(self, trial):
        client = trial.client("secretsmanager")
        login = json.loads(client.get_secret_value(SecretId=trial.parameters["DatabaseOwnerSecretArn"])["SecretString"])
        functions = json.loads(client.get_secret_value(SecretId=trial.parameters["DatabaseSecretArn"])["SecretString"])
        given = trial.parameters
        self.functions = functions["username"]
        self.env = os.environ | {
            "PGHOST": given.get("DatabaseHost") or login["host"],
            "PGPORT": str(given.get("DatabasePort") or login.get("port", 5432)),
            "PGDATABASE": given.get("DatabaseName") or login["dbname"],
            "PGUSER": login["username"],
            "PGPASSWORD": login["password"],
            "PGSSLMODE": "disable" if given.get("DatabaseSslmode") == "disable" else "require",
            "PGCONNECT_TIMEOUT": "10",
        }

    def run(self, statements: str) -> str:
        command = [os.environ.get("PSQL", "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statements]
        done = subprocess.run(command, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"psql: {done.stderr.strip()}")
        return done.stdout.strip()


def run(trial, file: Path) -> None:
    """All of it, or what of it can be asked."""
    trial.check(lambda trial: _run(trial, file))


def _run(trial, file: Path) -> None:
    trial.parameters |= parameters.read(file)
    database = Database(trial)
    if database.run("SELECT to_regnamespace('sluice') IS NOT NULL") == "t":
        trial.line("left out", "with servers", "this database has a schema sluice: give an empty one")
        return
    status, words = trial.deploy("deploy", "migrate")
    trial.holds("deploy and migrate, with servers", status == 0, words.strip().splitlines()[-2:])
    if status:
        return
    trial.later("the schema sluice, and its indexes", lambda: trial.deploy("uninstall"))
    trial.later(f"the schema {STREAM}", lambda: database.run(DROP))
    role = database.run("SELECT app FROM sluice.roles")
    database.run(f"GRANT {role} TO {database.functions}; {MAKE}")
    trial.deploy("migrate", "start")
    try:
        for one in CHECKS:
            trial.check(lambda trial, one=one: one(trial, database))
    finally:
        # Before the stack goes: the functions do it.
        while not trial.undo[-1][0].startswith("the stack "):
            words, undo = trial.undo.pop()
            undo()


def _documents(trial) -> int:
    """In the index, as the admin function counts them."""
    status, body = trial.call("/api/streams", trial.tokens["operator"])
    streams = json.loads(body)["streams"] if status == 200 else []
    return next((one["index_count"] or 0 for one in streams if one["name"] == STREAM), -1)


def a_row_becomes_a_document(trial, database: Database) -> None:
    began = time.monotonic()
    database.run(f"INSERT INTO {STREAM}.items VALUES (0, 'The Dispossessed')")
    found = trial.wait_for(lambda: _documents(trial) == 1, 60)
    trial.holds("a row becomes a document", found, f"{time.monotonic() - began:.0f} s, with this script's own polling")


def deletes_make_a_lineage(trial, database: Database) -> None:
    """What Lambda does where nobody has said that the loop is meant."""
    if not trial.only_aws("deletes for ten minutes", "counts no lineage"):
        return
    client, sqs, outputs = trial.client("lambda"), trial.client("sqs"), trial.outputs()
    indexer, queue = outputs["IndexerFunction"], outputs["QueueUrl"]
    status, words = trial.deploy("deploy", SecondLookAfter="1s")
    assert status == 0, words
    client.put_function_recursion_config(FunctionName=indexer, RecursiveLoop="Terminate")
    longest, until = 0, time.monotonic() + DELETES_S
    try:
        while time.monotonic() < until:
            rows = f"SELECT n, 'to be deleted' FROM generate_series(1, {DELETES_A_SECOND}) AS n"
            database.run(f"INSERT INTO {STREAM}.items {rows}")
            database.run(f"DELETE FROM {STREAM}.items WHERE id > 0")
            seen = sqs.receive_message(QueueUrl=queue, MessageSystemAttributeNames=["AWSTraceHeader"], MaxNumberOfMessages=10, VisibilityTimeout=0)
            headers = [one.get("Attributes", {}).get("AWSTraceHeader", "") for one in seen.get("Messages", [])]
            longest = max([longest, *(int(count) for header in headers for count in re.findall(r"[0-9a-f]+:(\d+)", header.partition("Lineage=")[2]))])
            time.sleep(1)
    finally:
        client.put_function_recursion_config(FunctionName=indexer, RecursiveLoop="Allow")
    dropped = trial.wait_for(lambda: trial_stack._values(trial, "AWS/Lambda", "RecursiveInvocationsDropped", "FunctionName", indexer), 180)
    trial.says("deletes, with loops stopped", f"longest lineage {longest}, RecursiveInvocationsDropped {dropped or 'none'}")


def it_wakes_up_after_a_rest(trial, database: Database) -> None:
    """Connections that the network forgot, clocks that stood still."""
    if trial.is_aws:
        time.sleep(IDLE_S)
    before = _documents(trial)
    database.run(f"INSERT INTO {STREAM}.items VALUES ({10**6}, 'after a rest')")
    found = trial.wait_for(lambda: _documents(trial) == before + 1, 120)
    trial.holds("after a rest", found, f"{before} documents before, {_documents(trial)} after")
    if trial.is_aws:
        trial.says("retried in half an hour", trial_stack._values(trial, "Sluice", "Retried", "stack", trial.name) or "none")


def how_fast_it_is(trial, _database: Database) -> None:
    if not trial.only_aws("commit to indexed", "is measured by the benches"):
        return
    client, dimensions = trial.client("cloudwatch"), [{"Name": "stack", "Value": trial.name}]
    now = time.time()
    found = client.get_metric_statistics(
        Namespace="Sluice", MetricName="CommitToIndexed", Dimensions=dimensions, StartTime=now - 1800, EndTime=now, Period=1800, ExtendedStatistics=["p50", "p95"]
    )["Datapoints"]
    trial.says("commit to indexed", [one["ExtendedStatistics"] for one in found] or "no values")
    logs, physical = trial.client("logs"), trial.physical()
    for name in trial_stack.FUNCTIONS:
        events = logs.filter_log_events(logGroupName=physical[name.replace("Function", "Logs")], filterPattern="REPORT")["events"]
        reports = [match.groups() for one in events if (match := REPORT.search(one["message"]))]
        starts = [float(start) for _, start in reports if start]
        if reports:
            trial.says(name, f"{max(int(memory) for memory, _ in reports)} MB at most, cold starts {min(starts, default=0):.0f} to {max(starts, default=0):.0f} ms")


def iam_decides_who_calls(trial, _database: Database) -> None:
    if not trial.only_aws("AdminUrl=iam", "enforces no policy"):
        return
    status, words = trial.deploy("deploy", AdminUrl="iam")
    assert status == 0, words
    url = trial.outputs()["AdminUrl"] + "/live"
    request = AWSRequest("GET", url)
    SigV4Auth(trial.session.get_credentials().get_frozen_credentials(), "lambda", trial.region).add_auth(request)
    answers = {}
    for words, headers in (("unsigned", {}), ("signed", dict(request.headers))):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
                answers[words] = answer.status
        except urllib.error.HTTPError as refusal:
            answers[words] = refusal.code
    trial.holds("AdminUrl=iam", answers == {"unsigned": 403, "signed": 200}, answers)


CHECKS = [a_row_becomes_a_document, deletes_make_a_lineage, it_wakes_up_after_a_rest, how_fast_it_is, iam_decides_who_calls]
