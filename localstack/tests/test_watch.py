"""The alarms over what the deployed functions really print: silent while all is well, and fired by real faults.

A minute of the alarms' is a second or more here, with the schedule, the trigger's stay and the heartbeat shortened alike: as
long as its work takes, so that a busy machine has longer minutes, and no other alarms. With HEALTHY_SECONDS the healthy run has
real minutes, and nothing is shortened in it. infra/alarms.py evaluates all of them.
LocalStack's own CloudWatch evaluates those that it can, as they are deployed but for their period, whose least is ten
seconds there. It is given what the functions print, as CloudWatch Logs does it on AWS.
"""

import bisect
import json
import os
import sys
import threading
import time
import unittest
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import boto3
from botocore.config import Config

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "infra"), str(REPOSITORY / "localstack" / "stack")]

import alarms  # noqa: E402
import commands  # noqa: E402
import postgres  # noqa: E402
import tests  # noqa: E402
from alarms import ALARM, OK, Point  # noqa: E402

STACK = commands.existing({"STACK": os.environ["SLUICE_STACK"]})
HEALTHY_SECONDS = float(os.environ.get("HEALTHY_SECONDS", 0))
IS_LONG = HEALTHY_SECONDS > 0
PATIENCE_S = 300
LONGEST_PAUSE_S = 900  # of a message that failed alone; the lag lasts as long
LATE = 2  # seconds, or shortened minutes, in which a line may still come: it is written when its invocation ends
ALARMS = alarms.load()
# What LocalStack has no metric of: these are tested over made-up lines alone.
NOT_HERE = {"OldestMessageAlarm", "QueueAgeAlarm", "RecursionAlarm", "ThrottlesAlarm"}
WRITES = "INSERT INTO demo.users (name, email, role) SELECT 'Watch', gen_random_uuid() || '@example.org', 'participant' FROM generate_series(1, 20);"
HEARTBEAT = "UPDATE sluice.heartbeat SET at = clock_timestamp();"


def aws(service: str):
    return boto3.client(service, config=Config(retries={"max_attempts": 2}))


CLOUDWATCH, LAMBDA = aws("cloudwatch"), aws("lambda")


def physical_names() -> dict[str, str]:
    """What the deploy made of each resource of the template, by its name there."""
    found = aws("cloudformation").describe_stack_resources(StackName=alarms.STACK)["StackResources"]
    return {one["LogicalResourceId"]: one["PhysicalResourceId"].rpartition("/")[2] for one in found}


def wait_for(condition: Callable[[], object], words: str, patience_s: float = PATIENCE_S) -> None:
    """Until what the condition says is empty: it tells what is still lacking."""
    deadline = time.monotonic() + patience_s
    while lacking := condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience_s:.0f} s for {words}: {lacking}")
        time.sleep(0.5)


def admin(path: str, token: str, body: dict | None = None) -> int:
    """The status of a request to the admin function's URL."""
    url, host = os.environ["ADMIN_URL"] + path, os.environ["ADMIN_URL"].partition("//")[2]
    local = url.replace(host.partition(":")[0], "127.0.0.1", 1)
    headers = {"Authorization": f"Bearer {token}", "Host": host, "Content-Type": "application/json"}
    request = urllib.request.Request(local, json.dumps(body).encode() if body is not None else None, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as refusal:
        return refusal.code


class Clock(threading.Thread):
    """A minute's work: an application's and, where minutes are shortened, the schedule's and the heartbeat's."""

    def __init__(self, minute_s: float, scheduled: tuple[str, ...] = (), is_well: bool = False):
        super().__init__(daemon=True)
        self.minute_s, self.scheduled = minute_s, scheduled
        self.beats = Watched({}) if is_well else None
        self.ticks = [time.time()]
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.is_set():
            postgres.psql(STACK, WRITES + (HEARTBEAT if self.scheduled else ""))
            for function in self.scheduled:
                LAMBDA.invoke(FunctionName=function, InvocationType="Event")
            self.ended.wait(self.minute_s)
            while self.beats and not self.has_beaten() and not self.ended.is_set():
                self.ended.wait(0.1)
            self.ticks.append(time.time())

    def has_beaten(self) -> bool:
        """Whether a heartbeat of this minute has arrived."""
        return any(one.metric.name == "HeartbeatAge" and one.at > self.ticks[-1] for one in self.beats.read()[-100:])

    def at(self, moment: float) -> float:
        """The time that the alarms see: of each minute sixty seconds."""
        number = max(bisect.bisect(self.ticks, moment) - 1, 0)
        begin, *end = self.ticks[number : number + 2]
        share = (moment - begin) / (end[0] - begin) if end else 0
        return self.ticks[0] + 60 * (number + share)

    def end(self) -> None:
        self.ended.set()
        self.join()


class Watched:
    """What was printed and measured since a moment, in a clock's minutes or in real ones."""

    def __init__(self, names: dict[str, str], clock: Clock | None = None):
        self.clock, self.names, self.start = clock, names, time.time()
        self.offsets = {file: file.stat().st_size for file in self._logs()}
        self.points: list[Point] = []
        self.told = Counter()

    def _logs(self) -> list[Path]:
        return sorted(Path(os.environ["FUNCTIONS_LOGS"]).glob("*.log"))

    def read(self) -> list[Point]:
        """All of it until now."""
        for file in self._logs():
            with file.open("rb") as log:
                log.seek(self.offsets.get(file, 0))
                text = log.read()
                whole = text[: text.rfind(b"\n") + 1]
                self.offsets[file] = self.offsets.get(file, 0) + len(whole)
                self.points += alarms.points(whole.decode().splitlines())
        return self.points

    def forward(self, name: str) -> None:
        """Gives CloudWatch what is new for an alarm of ours, as its Logs would."""
        for metric in ALARMS[name].metrics:
            new = [one for one in self.read() if one.metric == metric][self.told[metric] :]
            self.told[metric] += len(new)
            dimensions = [{"Name": dimension, "Value": value} for dimension, value in metric.dimensions]
            data = [{"MetricName": metric.name, "Dimensions": dimensions, "Timestamp": datetime.fromtimestamp(one.at, UTC), "Value": one.value} for one in new]
            for first in range(0, len(data), 500):
                CLOUDWATCH.put_metric_data(Namespace=metric.namespace, MetricData=data[first : first + 500])

    def of_aws(self) -> list[Point]:
        """What LocalStack measured itself, second by second."""
        found = []
        watched = [alarm for name, alarm in ALARMS.items() if name in self.names]
        for metric, statistic in {(one.metric, one.name) for alarm in watched for one in alarm.statistics.values()}:
            if metric.namespace == "Sluice":
                continue
            dimensions = [{"Name": name, "Value": self.names[value]} for name, value in metric.dimensions]
            query = {"Metric": {"Namespace": metric.namespace, "MetricName": metric.name, "Dimensions": dimensions}, "Period": 1, "Stat": statistic}
            answer = CLOUDWATCH.get_metric_data(
                MetricDataQueries=[{"Id": "m", "MetricStat": query}], StartTime=datetime.fromtimestamp(self.start, UTC), EndTime=datetime.now(UTC)
            )["MetricDataResults"][0]
            found += [Point(at.timestamp(), metric, value) for at, value in zip(answer["Timestamps"], answer["Values"])]
        return found

    def histories(self) -> dict[str, list[tuple[float, str]]]:
        """What each alarm would have said. What is too new for all of its lines to be there is left out."""
        points, start, end = self.read() + self.of_aws(), self.start, time.time() - LATE
        if self.clock:
            at, ticks = self.clock.at, self.clock.ticks
            points = [Point(at(one.at), one.metric, one.value) for one in points]
            start, end = at(start), at(ticks[max(len(ticks) - 1 - LATE, 0)])
        return {name: alarm.history(points, start, end) for name, alarm in ALARMS.items() if name in self.names.keys() - NOT_HERE}

    def in_alarm(self) -> set[str]:
        """Those that are in it now."""
        return {name for name, history in self.histories().items() if history and history[-1][1] == ALARM}

    def fired(self) -> dict[str, list[str]]:
        """Those that ever were, with the alarms' seconds after which they changed."""
        start = self.clock.at(self.start) if self.clock else self.start
        told = {name: [f"{state} after {at - start:.0f} s" for at, state in history] for name, history in self.histories().items()}
        return {name: states for name, states in told.items() if any(state.startswith(ALARM) for state in states)}


class Watch(unittest.TestCase):
    def setUp(self):
        self.names = physical_names()
        self.deployed = {one["AlarmName"]: one for one in CLOUDWATCH.describe_alarms(AlarmTypes=["MetricAlarm"])["MetricAlarms"]}
        self.changed: set[str] = set()
        for queue in ("QUEUE_URL", "DEAD_LETTER_QUEUE_URL"):  # of what other tests have left: letters, and messages that are to be
            aws("sqs").purge_queue(QueueUrl=os.environ[queue])
        postgres.psql(STACK, "DELETE FROM sluice.flight;")  # nobody waits for those messages

    def shorten(self, minute_s: float, is_well: bool) -> Clock:
        """Minutes of so many seconds or more, until the test ends; where all is well, each with a heartbeat."""
        trigger = self.names["TriggerFunction"]
        before = LAMBDA.get_function_configuration(FunctionName=trigger)["Environment"]["Variables"]

        def configure(variables: dict[str, str]) -> None:
            LAMBDA.update_function_configuration(FunctionName=trigger, Environment={"Variables": variables})
            LAMBDA.get_waiter("function_updated_v2").wait(FunctionName=trigger, WaiterConfig={"Delay": 1})
            commands.signal({"STACK": STACK.name, "SERVICE": "trigger", "SIGNAL": "KILL"})  # one of before may stay for a minute
            LAMBDA.invoke(FunctionName=trigger, InvocationType="Event")

        configure(before | {"STAY": f"{minute_s * 1000:.0f}ms"})
        self.addCleanup(configure, before)
        clock = Clock(minute_s, (trigger, self.names["ValidateFunction"]), is_well)
        self.addCleanup(clock.end)
        return clock

    def asked(self, name: str, period_s: int) -> str:
        """LocalStack's opinion of a deployed alarm, with a shorter period. It evaluates one at once when it is put."""
        alarm = self.deployed[self.names[name]]
        kept = ("AlarmName", "AlarmDescription", "Namespace", "MetricName", "Dimensions", "Statistic", "EvaluationPeriods", "DatapointsToAlarm",
                "ComparisonOperator", "Threshold", "TreatMissingData", "AlarmActions", "OKActions")  # fmt: skip
        same = {key: alarm[key] for key in kept if key in alarm}
        if name not in self.changed:
            self.changed.add(name)
            self.addCleanup(CLOUDWATCH.put_metric_alarm, **same, Period=alarm["Period"])
        CLOUDWATCH.put_metric_alarm(**same, Period=period_s)

        def state() -> str:
            return CLOUDWATCH.describe_alarms(AlarmNames=[alarm["AlarmName"]])["MetricAlarms"][0]["StateValue"]

        wait_for(lambda: state() == "INSUFFICIENT_DATA" and "it was not evaluated", f"LocalStack to look at {name}")
        return state()

    def pager(self) -> str:
        found = CLOUDWATCH.describe_alarms(AlarmNames=[self.names["PagerAlarm"]], AlarmTypes=["CompositeAlarm"])
        return found["CompositeAlarms"][0]["StateValue"]

    def test_a_healthy_run_is_silent(self):
        clock = None if IS_LONG else self.shorten(1, is_well=True)
        if IS_LONG:
            self.addCleanup(Clock(3).end)
        watched = Watched(self.names, clock)
        minutes = 22 + LATE  # with three periods of five minutes, wherever it begins

        def lacking() -> set[str]:
            """Minutes, metrics that were not printed at all, and the heartbeat after the last minute."""
            if len(clock.ticks) <= minutes if clock else time.time() < watched.start + HEALTHY_SECONDS:
                return {"minutes"}
            end = clock.ticks[minutes - LATE] if clock else watched.start + HEALTHY_SECONDS
            seen = {one.metric.name for one in watched.read() if one.at > end or one.metric.name != "HeartbeatAge"}
            return {"Backlog", "Lag", "LogBytes", "Drained", "Written", "HeartbeatAge"} - seen

        wait_for(lacking, "a healthy run", HEALTHY_SECONDS + PATIENCE_S)
        self.assertEqual(watched.fired(), {})

    def test_faults_fire_and_what_is_mended_is_silent_again(self):
        clock = self.shorten(10 if IS_LONG else 1, is_well=False)
        watched = Watched(self.names, clock)

        def is_said(name: str, wanted: str) -> Callable[[], str]:
            def lacking() -> str:
                watched.forward(name)
                found = self.asked(name, 10)
                return "" if found == wanted else f"LocalStack says {found}"

            return lacking

        # A letter, and a stranger at the door.
        postgres.psql(STACK, f"{tests.MEND}; {tests.POISON}")
        self.addCleanup(postgres.psql, STACK, tests.MEND)
        for _ in range(12):
            self.assertEqual(admin("/api/streams", "wrong"), 401)
        for name in ("DeadLettersAlarm", "RefusedTokensAlarm"):
            wait_for(is_said(name, ALARM), f"{name} to fire")
        postgres.psql(STACK, tests.MEND)
        self.assertLess(admin("/api/dlq/redrive", os.environ["ADMIN_TOKEN"], {}), 300)

        # Elasticsearch is away.
        commands.signal({"STACK": STACK.name, "SERVICE": "elasticsearch", "SIGNAL": "KILL"})
        self.addCleanup(commands.start, {"STACK": STACK.name, "SERVICE": "elasticsearch"})
        away = {"HeartbeatAlarm", "ErrorRateAlarm", "ErrorRateCriticalAlarm"}
        wait_for(lambda: away - watched.in_alarm(), "the alarms of a cluster that is away")
        if IS_LONG:
            wait_for(is_said("HeartbeatAlarm", ALARM), "LocalStack to miss the heartbeat")
            self.assertEqual(self.pager(), ALARM)

        # It is back, and the trigger is off.
        trigger = self.names["TriggerFunction"]
        self.addCleanup(LAMBDA.delete_function_concurrency, FunctionName=trigger)
        # Whatever invokes it. A schedule that is disabled goes on in LocalStack.
        LAMBDA.put_function_concurrency(FunctionName=trigger, ReservedConcurrentExecutions=0)
        commands.start({"STACK": STACK.name, "SERVICE": "elasticsearch"})
        wait_for(lambda: {"TriggerDidNotRunAlarm"} - watched.in_alarm(), "the alarm of a trigger that does not run")
        if IS_LONG:
            wait_for(is_said("TriggerDidNotRunAlarm", ALARM), "LocalStack to miss the trigger")
        LAMBDA.delete_function_concurrency(FunctionName=trigger)

        # All is well.
        for name in ("DeadLettersAlarm", "RefusedTokensAlarm", *(("HeartbeatAlarm", "TriggerDidNotRunAlarm") if IS_LONG else ())):
            wait_for(is_said(name, OK), f"{name} to be over")
        wait_for(watched.in_alarm, "all alarms to be over", PATIENCE_S + LONGEST_PAUSE_S)
        if IS_LONG:
            wait_for(lambda: self.pager() != OK and "it is not over", "the pager to be over")
        print(json.dumps(watched.fired(), indent=1))
        # Whether the letter and the refusals fall into a shortened period of theirs is chance; LocalStack has seen them. And
        # the lag is in real milliseconds: how large it gets is chance, too.
        by_chance = {"DeadLettersAlarm", "RefusedTokensAlarm", "LagAlarm", "LagCriticalAlarm"}
        self.assertEqual(set(watched.fired()) - by_chance, {"TriggerDidNotRunAlarm", *away})


if __name__ == "__main__":
    unittest.main(warnings="ignore")  # of processes that still run: servers outlive whoever starts them
