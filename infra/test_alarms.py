"""Each alarm's threshold, and what it does where data is missing, by alarms.py. `python -B infra/test_alarms.py`"""

import json
import re
import unittest
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import alarms
import cost
import telemetry
import template
from alarms import ALARM, INSUFFICIENT_DATA, OK, Metric, Point

REPOSITORY = Path(__file__).resolve().parents[1]
ALARMS = alarms.load()
MINUTE = 60
KEPT = "as it was"
TARGETS = ("Clickhouse", "Kafka", "Sync")  # direct targets, as the template's names begin with them

# For each alarm, a period's values just past the threshold and just below it; after how many minutes past it it fires; and
# its state where nothing is printed. A name with a `/` is of a function or queue of the template, or of a service.
CASES = {
    "OriginFailsAlarm": ({"IngestFailures": 1}, {"IngestFailures": 0}, 10, KEPT),
    "IngestDiesAlarm": ({"IngestFunction/Errors": 1}, {"IngestFunction/Errors": 0}, 10, OK),
    "OriginEmptyAlarm": ({"ProfilesSynced": 0}, {"ProfilesSynced": 1}, 360, ALARM),
    "RejectShareAlarm": ({"ProfilesSynced": 79, "ProfilesRejected": 21}, {"ProfilesSynced": 80, "ProfilesRejected": 20}, 10, OK),
    "TriggerDidNotRunAlarm": ({"TriggerFunction/Invocations": 0}, {"TriggerFunction/Invocations": 1}, 5, ALARM),
    "LagAlarm": ({"Lag": 120_001}, {"Lag": 120_000}, 3, KEPT),
    "LagCriticalAlarm": ({"Lag": 2_700_001}, {"Lag": 2_700_000}, 3, KEPT),
    "LowThroughputAlarm": ({"Backlog": 1_001, "Drained": 2_999}, {"Backlog": 1_001, "Drained": 3_000}, 15, OK),
    "LogSizeAlarm": ({"LogBytes": 10 * 2**30 + 1}, {"LogBytes": 10 * 2**30}, 15, KEPT),
    "StreamProblemsAlarm": ({"StreamProblems": 1}, {"StreamProblems": 0}, 15, KEPT),
    "FanOutAgeAlarm": ({"FanOutOldestPendingAge": 60_001}, {"FanOutOldestPendingAge": 60_000}, 3, KEPT),
    "ExpansionsFailingAlarm": ({"ExpansionsFailing": 1}, {"ExpansionsFailing": 0}, 15, KEPT),
    "WaitingRowsAlarm": ({"WaitingRows": 5_000}, {"WaitingRows": 4_999}, 15, KEPT),
    "LostFlightsAlarm": ({"LostFlights": 1}, {"LostFlights": 0}, 5, OK),
    "SamplesFailAlarm": ({"SampleFailures": 3}, {"SampleFailures": 2}, 15, OK),
    "OldestMessageAlarm": ({"Queue/ApproximateAgeOfOldestMessage": 1_801}, {"Queue/ApproximateAgeOfOldestMessage": 1_800}, 10, OK),
    "QueueAgeAlarm": ({"Queue/ApproximateAgeOfOldestMessage": 345_601}, {"Queue/ApproximateAgeOfOldestMessage": 345_600}, 5, OK),
    "RecursionAlarm": ({"IndexerFunction/RecursiveInvocationsDropped": 1}, {"IndexerFunction/RecursiveInvocationsDropped": 0}, 5, OK),
    "HeartbeatAlarm": ({"HeartbeatAge": 300_001}, {"HeartbeatAge": 300_000}, 7, ALARM),
    "ErrorRateAlarm": ({"Written": 940, "Stale": 5, "Gone": 4, "Retried": 40, "DeadLettered": 10}, {"Written": 950, "Retried": 50}, 15, OK),
    "ErrorRateCriticalAlarm": ({"Written": 799, "Retried": 201}, {"Written": 800, "Retried": 200}, 15, OK),
    "StaleRatioAlarm": ({"Stale": 901, "Written": 99}, {"Stale": 900, "Written": 100}, 15, OK),
    "ConfigurationErrorsAlarm": ({"ConfigurationErrors": 1}, {"Written": 1}, 10, OK),
    "ThrottlesAlarm": (
        {"TriggerFunction/Throttles": 4, "IndexerFunction/Throttles": 4, "ValidateFunction/Throttles": 3}, {"IndexerFunction/Throttles": 10}, 15, OK,
    ),
    "DifferencesAlarm": ({"Differences": 1}, {"Differences": 0}, 15, KEPT),
    "VerdictsLateAlarm": ({"VerdictsLate": 1}, {"VerdictsLate": 0}, 60, ALARM),
    "DeadLettersAlarm": (
        {"DeadLetterQueue/ApproximateNumberOfMessagesVisible": 1}, {"DeadLetterQueue/ApproximateNumberOfMessagesVisible": 0}, 5, OK,
    ),
    "DeadLetterAgeAlarm": (
        {"DeadLetterQueue/ApproximateNumberOfMessagesVisible": 1}, {"DeadLetterQueue/ApproximateNumberOfMessagesVisible": 0}, 7 * 24 * 60, KEPT,
    ),
    "UnauthorizedAlarm": ({"Unauthorized": 1_001}, {"Unauthorized": 1_000}, 5, OK),
    "LiveSyncErrorsAlarm": ({"SyncFunction/Url5xxCount": 11}, {"SyncFunction/Url5xxCount": 10}, 15, OK),
    "RefusedTokensAlarm": ({"RefusedTokens": 11}, {"RefusedTokens": 10}, 5, OK),
}  # fmt: skip
for target in TARGETS:
    CASES |= {
        f"{target}SilentAlarm": ({f"{target.lower()}/Drained": 0}, {f"{target.lower()}/Drained": 1}, 12, ALARM),
        f"{target}LagAlarm": ({f"{target.lower()}/Lag": 600_001}, {f"{target.lower()}/Lag": 600_000}, 3, KEPT),
        f"{target}StreamsAlarm": ({f"{target.lower()}/StreamProblems": 1}, {f"{target.lower()}/StreamProblems": 0}, 15, KEPT),
        f"{target}LettersAlarm": ({f"{target.lower()}/Refused": 1}, {}, 5, OK),
    }

# A period has many values. These are some that make the one that is given.
SPREAD = {
    "Sum": lambda value: [value // 2, value - value // 2],
    "Maximum": lambda value: [0, value],
    "Minimum": lambda value: [value, 2 * value + 1],
    "SampleCount": lambda count: [0] * count,
}


def line(at: float, service: str = "", **metrics: float | dict) -> str:
    """As a function prints it; a direct target's with its service."""
    directive = {"Namespace": "Sluice", "Dimensions": [["stack", "service"] if service else ["stack"]], "Metrics": [{"Name": name} for name in metrics]}
    return json.dumps({"_aws": {"Timestamp": at * 1000, "CloudWatchMetrics": [directive]}, "stack": alarms.STACK, "service": service, **metrics})


def measured(at: float, values: dict[str, float]) -> list[Point]:
    """Those of ours by way of a line, and AWS's own."""
    found = alarms.points([line(at, **{name: value for name, value in values.items() if "/" not in name})])
    for name, value in values.items():
        resource, _, metric = name.rpartition("/")
        if resource.islower():
            found += alarms.points([line(at, resource, **{metric: value})])
        elif resource:
            namespace, dimension = ("AWS/Lambda", "FunctionName") if resource.endswith("Function") else ("AWS/SQS", "QueueName")
            found.append(Point(at, Metric(namespace, metric, ((dimension, resource),)), value))
    return found


def run(name: str, periods: list[dict[str, float]], does_fill_nothing: bool = True) -> str:
    """Its state after these periods."""
    alarm = ALARMS[name]
    spread = {statistic.metric: SPREAD[statistic.name] for statistic in alarm.statistics.values()}
    points = []
    for number, values in enumerate(periods):
        for point in measured((number + 0.5) * alarm.period, values):
            points += [replace(point, value=value) for value in spread.get(point.metric, lambda value: [value])(point.value)]
    history = alarm.history(points, 0, len(periods) * alarm.period, does_fill_nothing=does_fill_nothing)
    return history[-1][1] if history else INSUFFICIENT_DATA


def long(name: str) -> int:
    """So many periods that nothing before them counts."""
    return max(20, ALARMS[name].evaluation_periods + alarms.LOOK_BACK)


def validated(minute: int, **metrics: int) -> list[str]:
    """What the validator prints each minute: its gauges, zeros included."""
    return [line(minute * MINUTE + 8, **{"Differences": 0, "OldestVerdictAge": minute * MINUTE * 1000, "VerdictsLate": 0} | metrics)]


def states(minutes: int, at: Callable[[int], list[str]], of_validator: Callable[[int], list[str]] = validated) -> dict[str, set[str]]:
    """All states that each alarm had over the lines that `at` and the validator have for each minute; those of a target where one has."""
    points = alarms.points(text for minute in range(minutes) for text in [*at(minute), *of_validator(minute)])
    points += [point for minute in range(minutes) for point in measured(minute * MINUTE, {"TriggerFunction/Invocations": 1})]
    services = {value for point in points for name, value in point.metric.dimensions if name == "service"}
    there = {name: alarm for name, alarm in ALARMS.items() if all(name.startswith(target) <= (target.lower() in services) for target in TARGETS)}
    return {name: {state for _, state in alarm.history(points, 0, minutes * MINUTE)} for name, alarm in there.items()}


def a_round(at: float, **metrics: int) -> str:
    """What the ingest prints of one, zeros included."""
    nothing = dict.fromkeys(("ProfilesFetched", "ProfilesSynced", "ProfilesSkipped", "ProfilesRejected", "IngestFailures"), 0)
    return line(at, **nothing | metrics)


def idle(minute: int, lag_minutes: int = 0) -> list[str]:
    """What the functions print where nothing is but the heartbeat, and an ingest whose origin has nothing new."""
    at = minute * MINUTE
    return [
        line(at + 5, Drained=1, Published=1, PublishedBytes=200, Backlog=0, Lag=lag_minutes * MINUTE * 1000, LogBytes=2**20),
        line(at + 6, Written=1, HeartbeatAge=200, CommitToIndexed={"Values": [200], "Counts": [1]}),
        a_round(at + 7),
    ]


def section(name: str) -> str:
    """Of the runbooks, for an alarm: all direct targets share theirs."""
    return re.sub(f"^({'|'.join(TARGETS)})", "Target", name).lower()


def drained(minute: int, service: str, **metrics: int) -> str:
    """What a direct target's function prints each minute."""
    return line(minute * MINUTE + 9, service, **{"Drained": 1, "Backlog": 0, "Lag": 0, "WaitingRows": 0, "StreamProblems": 0} | metrics)


class Thresholds(unittest.TestCase):
    def test_each_alarm_has_a_case(self):
        self.assertEqual(set(CASES), set(ALARMS))

    def test_just_past_the_threshold_it_fires_and_just_below_it_is_silent(self):
        for name, (past, below, _, _) in CASES.items():
            with self.subTest(name):
                self.assertEqual(run(name, [below] * long(name)), OK)
                self.assertEqual(run(name, [past] * long(name)), ALARM)
                self.assertEqual(run(name, [past] * long(name) + [below] * long(name)), OK)

    def test_none_depends_on_what_fill_makes_of_a_series_without_any_value(self):
        for name, alarm in ALARMS.items():
            for values in (*CASES[name][:2], {"Written": 1}, {"Retried": 50}, {"Backlog": 1_001}):
                with self.subTest(name, values=values):
                    told = {run(name, [values] * long(name), does_fill_nothing) for does_fill_nothing in (True, False)}
                    self.assertEqual(len(told), 1, told)

    def test_what_an_alarm_does_not_fill_is_printed_with_its_zeros(self):
        bare = {metric.name for alarm in ALARMS.values() if alarm.expressions for metric in alarm.unfilled}
        self.assertLessEqual(bare, {name for name, kind in telemetry.printed().items() if kind == "gauge"})

    def test_it_takes_as_many_minutes_as_were_meant(self):
        for name, (past, below, minutes, _) in CASES.items():
            with self.subTest(name):
                enough = minutes * MINUTE // ALARMS[name].period
                self.assertEqual(run(name, [below] * 20 + [past] * enough), ALARM)
                if enough > 1:
                    self.assertEqual(run(name, [below] * 20 + [past] * (enough - 1)), OK)

    def test_silence_is_what_was_meant(self):
        for name, (past, below, _, meant) in CASES.items():
            with self.subTest(name):
                for before, values in ((OK, below), (ALARM, past)):
                    self.assertEqual(run(name, [values] * long(name) + [{}] * 20), before if meant == KEPT else meant)

    def test_a_trigger_that_is_not_invoked_is_told_of_within_seven_minutes(self):
        went = [{"TriggerFunction/Invocations": 1}] * 20
        self.assertEqual(run("TriggerDidNotRunAlarm", went + [{}] * 4), OK)
        self.assertEqual(run("TriggerDidNotRunAlarm", went + [{}] * 7), ALARM)

    def test_a_heartbeat_that_stops_is_told_of_between_seven_and_ten_minutes(self):
        went = [{"HeartbeatAge": 200}] * 20
        self.assertEqual(run("HeartbeatAlarm", went + [{}] * 6), OK)
        self.assertEqual(run("HeartbeatAlarm", went + [{}] * 10), ALARM)

    def test_a_log_that_nothing_leaves_is_told_of(self):
        stopped = states(60, lambda minute: [line(minute * MINUTE + 5, Drained=0, Backlog=5_000, Lag=0), *idle(minute)[1:]])
        self.assertIn(ALARM, stopped["LowThroughputAlarm"])

    def test_a_letter_is_told_of_after_a_week_though_its_age_is_not(self):
        """SQS leaves the age of a message out that was received three times, as the dashboard does within seconds."""
        listed = {"DeadLetterQueue/ApproximateNumberOfMessagesVisible": 1, "DeadLetterQueue/ApproximateAgeOfOldestMessage": 0}
        periods = 8 * 24 * 60 * MINUTE // ALARMS["DeadLetterAgeAlarm"].period
        self.assertEqual(run("DeadLetterAgeAlarm", [listed] * periods), ALARM)

    def test_an_hour_that_was_not_measured_begins_no_new_week_of_a_letter(self):
        there = [{"DeadLetterQueue/ApproximateNumberOfMessagesVisible": 1}]
        self.assertEqual(run("DeadLetterAgeAlarm", there * 100 + [{}] + there * 70), ALARM)


class Silence(unittest.TestCase):
    """Nobody is woken for what mends itself, or is no fault."""

    def assert_silent(self, found: dict[str, set[str]], but: tuple[str, ...] = ()) -> None:
        self.assertEqual({name for name, had in found.items() if ALARM in had}, set(but))

    def test_two_idle_hours(self):
        self.assert_silent(states(120, idle))

    def test_lines_that_come_early_and_late(self):
        def shifted(minute):
            return [re.sub(r'"Timestamp": (\d+)', lambda found: f'"Timestamp": {int(found[1]) + minute * 37 % 110 * 1000}', text) for text in idle(minute)]

        self.assert_silent(states(120, shifted))

    def test_one_retry_among_two_changes(self):
        self.assert_silent(states(60, lambda minute: [*idle(minute), line(minute * MINUTE, Written=1, Retried=1)]))

    def test_a_page_that_is_repeated_after_a_crash(self):
        self.assert_silent(states(60, lambda minute: [*idle(minute), *([line(minute * MINUTE, Stale=10_000)] if minute == 30 else [])]))

    def test_elasticsearch_away_for_four_minutes_under_load(self):
        def at(minute):
            if 30 <= minute < 34:
                return [idle(minute, minute - 29)[0], line(minute * MINUTE, Retried=500)]
            return [*idle(minute), line(minute * MINUTE, Written=5_000)]

        self.assert_silent(states(60, at))

    def test_a_load_that_is_drained_at_once(self):
        self.assert_silent(states(60, lambda minute: [*idle(minute), line(minute * MINUTE, Drained=100_000, Backlog=40_000, Lag=20_000)]))

    def test_rows_of_a_transaction_that_was_open_for_an_hour(self):
        self.assert_silent(states(60, lambda minute: [*idle(minute), *([line(minute * MINUTE, Lag=3_600_000)] if minute in (30, 31) else [])]))

    def test_an_ingest_that_runs_once_an_hour(self):
        self.assert_silent(states(24 * 60, lambda minute: [*idle(minute)[:2], *([a_round(minute * MINUTE, ProfilesFetched=1, ProfilesSynced=1)] if minute % 60 == 7 else [])]))

    def test_a_night_without_profiles(self):
        def at(minute):
            return [*idle(minute), *([] if 60 <= minute < 6 * 60 else [a_round(minute * MINUTE, ProfilesFetched=10, ProfilesSynced=10)])]

        self.assert_silent(states(12 * 60, at))

    def test_an_origin_that_fails_now_and_then(self):
        self.assert_silent(states(120, lambda minute: [*idle(minute), a_round(minute * MINUTE, IngestFailures=1)]))

    def test_one_page_that_is_rejected_whole_and_rejects_of_an_origin_that_has_little(self):
        def at(minute):
            return [*idle(minute), a_round(minute * MINUTE, **{name: 500 if minute == 33 else 2 for name in ("ProfilesFetched", "ProfilesRejected")})]

        self.assert_silent(states(120, at))

    def test_differences_that_are_repaired_as_soon_as_they_are_confirmed(self):
        """In each of two rounds, for ten minutes."""
        self.assert_silent(states(120, idle, lambda minute: validated(minute, Differences=600 if minute % 60 in range(30, 40) else 0, KeysRepaired=300)))

    def test_streams_that_are_validated_only_when_somebody_asks(self):
        self.assert_silent(states(180, idle, lambda minute: [line(minute * MINUTE + 8, Differences=0, VerdictsLate=0)]))

    def test_a_round_that_an_outage_made_late(self):
        self.assert_silent(states(180, idle, lambda minute: validated(minute, VerdictsLate=3) if 60 <= minute < 105 else validated(minute)))

    def test_a_validator_that_is_away_for_half_an_hour(self):
        self.assert_silent(states(180, idle, lambda minute: [] if 60 <= minute < 90 else validated(minute)))

    def test_targets_that_have_nothing_to_do_or_a_load(self):
        for metrics in ({}, {"Drained": 100_000, "Backlog": 40_000, "Lag": 90_000}):
            self.assert_silent(states(120, lambda minute: [*idle(minute), *(drained(minute, target.lower(), **metrics) for target in TARGETS)]))

    def test_targets_to_which_no_stream_goes_yet(self):
        self.assert_silent(states(60, lambda minute: [*idle(minute), *(line(minute * MINUTE + 9, target.lower(), Drained=0) for target in TARGETS)]))

    def test_targets_that_are_away_for_some_minutes(self):
        def at(minute):
            lag = max(0, minute - 30) * MINUTE * 1000 if minute <= 39 else 0
            return [*idle(minute), *(drained(minute, target.lower(), Lag=lag) for target in TARGETS)]

        self.assert_silent(states(60, at))

    def test_second_looks_and_pauses_in_the_queue(self):
        self.assertEqual(run("OldestMessageAlarm", [{"Queue/ApproximateAgeOfOldestMessage": age} for age in (900, 1_200, 1_800, 900)] * 5), OK)


class Faults(unittest.TestCase):
    def wakes(self, found: dict[str, set[str]]) -> set[str]:
        return {name for name in alarms.paged() if ALARM in found[name]}

    def test_an_origin_that_is_away_is_told_of_and_wakes_nobody(self):
        found = states(60, lambda minute: [*idle(minute)[:2], a_round(minute * MINUTE, IngestFailures=int(minute > 20))])
        self.assertEqual({name for name, had in found.items() if ALARM in had}, {"OriginFailsAlarm"})

    def test_an_ingest_that_stops_is_told_of_as_an_empty_origin(self):
        found = states(12 * 60, lambda minute: [*idle(minute)[:2], *([a_round(minute * MINUTE, ProfilesSynced=10)] if minute < 60 else [])])
        self.assertEqual({name for name, had in found.items() if ALARM in had}, {"OriginEmptyAlarm"})

    def test_rounds_that_die_are_told_of_by_those_after_them_and_by_lambda(self):
        """A round tells of the one that died before it, and dies itself: a line each two minutes, which says that one failed."""
        found = states(60, lambda minute: [*idle(minute)[:2], *([a_round(minute * MINUTE, IngestFailures=1)] if minute % 2 == 0 else [])])
        self.assertEqual({name for name, had in found.items() if ALARM in had}, {"OriginFailsAlarm"})
        self.assertEqual(run("IngestDiesAlarm", [{"IngestFunction/Errors": 5}] * 2), ALARM)

    def test_an_ingest_that_cannot_start_once_an_hour_is_told_of_after_the_second_time(self):
        hour = [{"IngestFunction/Errors": 1}] + [{}] * 11
        self.assertEqual(run("IngestDiesAlarm", [{}] * 20 + hour), OK)
        self.assertEqual(run("IngestDiesAlarm", [{}] * 20 + hour + hour[:1]), ALARM)

    def test_rejects_that_had_to_make_room_are_told_of_however_small_their_share(self):
        found = states(60, lambda minute: [*idle(minute)[:2], a_round(minute * MINUTE, ProfilesSynced=1_000_000, ProfilesRejected=30_000, RejectsDropped=10_000)])
        self.assertEqual({name for name, had in found.items() if ALARM in had}, {"RejectShareAlarm"})

    def test_an_origin_that_gives_the_same_again_and_again_is_empty(self):
        found = states(12 * 60, lambda minute: [*idle(minute)[:2], a_round(minute * MINUTE, ProfilesFetched=10, ProfilesSkipped=10)])
        self.assertEqual({name for name, had in found.items() if ALARM in had}, {"OriginEmptyAlarm"})

    def test_a_difference_that_nobody_repairs_wakes_somebody(self):
        found = states(60, idle, lambda minute: validated(minute, Differences=int(minute > 20)))
        self.assertEqual({name for name, had in found.items() if ALARM in had}, {"DifferencesAlarm"})
        self.assertEqual(self.wakes(found), {"DifferencesAlarm"})

    def test_a_difference_stays_told_of_while_the_validator_is_silent(self):
        there = [{"Differences": 1}] * 20
        self.assertEqual(run("DifferencesAlarm", there + [{}] * 100), ALARM)
        self.assertEqual(run("DifferencesAlarm", there + [{}] * 100 + [{"Differences": 0}] * 3), OK)

    def test_verdicts_that_are_late_are_told_of_and_wake_nobody(self):
        found = states(180, idle, lambda minute: validated(minute, VerdictsLate=int(minute > 60)))
        self.assertEqual({name for name, had in found.items() if ALARM in had}, {"VerdictsLateAlarm"})
        self.assertEqual(self.wakes(found), set())

    def test_a_validator_that_stops_is_told_of_within_seventy_minutes_and_wakes_nobody(self):
        went = [{"VerdictsLate": 0}] * 20
        self.assertEqual(run("VerdictsLateAlarm", went + [{}] * 11), OK)
        self.assertEqual(run("VerdictsLateAlarm", went + [{}] * 14), ALARM)
        found = states(180, idle, lambda minute: validated(minute) if minute < 60 else [])
        self.assertEqual({name for name, had in found.items() if ALARM in had}, {"VerdictsLateAlarm"})
        self.assertEqual(self.wakes(found), set())

    def test_elasticsearch_away_where_nobody_writes(self):
        found = states(60, lambda minute: idle(minute)[:2] if minute <= 20 else idle(minute, minute - 20)[:1])
        self.assertEqual(self.wakes(found), {"HeartbeatAlarm"})

    def test_elasticsearch_away_under_load(self):
        def at(minute):
            if minute < 20:
                return [*idle(minute), line(minute * MINUTE, Written=500)]
            return [idle(minute, minute - 19)[0], line(minute * MINUTE, Retried=300)]

        self.assertEqual(self.wakes(states(60, at)), {"HeartbeatAlarm", "ErrorRateCriticalAlarm"})

    def test_a_queue_that_was_purged_is_told_of_by_the_lag_and_then_by_what_was_lost(self):
        def at(minute):
            return [*idle(minute, minute - 20 if 20 < minute <= 51 else 0), *([line(minute * MINUTE, LostFlights=2)] if minute == 51 else [])]

        found = states(90, at)
        self.assertEqual({name for name, had in found.items() if ALARM in had}, {"LagAlarm", "LostFlightsAlarm"})

    def test_versions_that_went_backwards_are_told_by_heartbeats_alone(self):
        found = states(60, lambda minute: idle(minute) if minute < 20 else [idle(minute)[0], line(minute * MINUTE, Stale=1)])
        self.assertEqual(self.wakes(found), {"StaleRatioAlarm", "HeartbeatAlarm"})

    def test_an_index_that_was_deleted_and_is_tried_each_quarter_of_an_hour(self):
        found = states(120, lambda minute: [*idle(minute), *([line(minute * MINUTE, ConfigurationErrors=3)] if minute % 15 == 0 else [])])
        self.assertEqual(self.wakes(found), {"ConfigurationErrorsAlarm"})

    def test_a_target_that_is_away_is_told_of_and_touches_no_other_alarm(self):
        for target in TARGETS:
            def at(minute):
                lag = max(0, minute - 20) * MINUTE * 1000
                return [*idle(minute), *(drained(minute, one.lower(), **{"Lag": lag, "Backlog": 50_000} if one == target else {}) for one in TARGETS)]

            found = states(60, at)
            self.assertEqual({name for name, had in found.items() if ALARM in had}, {f"{target}LagAlarm"})
            self.assertEqual(self.wakes(found), set())

    def test_a_stream_at_fault_in_a_target_and_letters_are_told_of(self):
        for target in TARGETS:
            found = states(60, lambda minute: [*idle(minute), *(drained(minute, one.lower(), **{"StreamProblems": 1, "Refused": 3} if one == target else {}) for one in TARGETS)])
            self.assertEqual({name for name, had in found.items() if ALARM in had}, {f"{target}StreamsAlarm", f"{target}LettersAlarm"})

    def test_a_target_whose_function_dies_is_told_of_after_ten_to_twelve_minutes(self):
        for target in TARGETS:
            went = [{f"{target.lower()}/Drained": 5}] * 20
            self.assertEqual(run(f"{target}SilentAlarm", went + [{}] * 9), OK)
            self.assertEqual(run(f"{target}SilentAlarm", went + [{}] * 12), ALARM)

    def test_what_waits_for_elasticsearch_is_told_of_while_a_target_goes_on(self):
        def at(minute):
            return [line(minute * MINUTE + 5, Drained=0, Backlog=5_000, Lag=0), *idle(minute)[1:], *(drained(minute, target.lower(), Drained=9_000) for target in TARGETS)]

        self.assertIn(ALARM, states(60, at)["LowThroughputAlarm"])

    def test_old_heartbeats_after_an_outage_do_not_prolong_it(self):
        def at(minute):
            if minute < 30:
                return idle(minute)[:1]
            return [*idle(minute), *([line(minute * MINUTE + 7, HeartbeatAge=1_500_000)] if minute < 45 else [])]

        points = alarms.points(text for minute in range(60) for text in at(minute))
        history = ALARMS["HeartbeatAlarm"].history(points, 0, 3600)
        self.assertEqual([state for _, state in history], [ALARM, OK])
        self.assertLess(history[-1][0], 38 * MINUTE)


class Evaluator(unittest.TestCase):
    def test_values_with_counts_are_as_many_values(self):
        found = alarms.points([line(1, CommitToIndexed={"Values": [7, 120], "Counts": [1, 2]}), "START RequestId: 1", '{"message": "drained"}'])
        self.assertEqual([point.value for point in found], [7, 120, 120])
        self.assertEqual(found[0].metric, Metric("Sluice", "CommitToIndexed", (("stack", "sluice"),)))

    def test_missing_data_as_awss_documentation_has_it(self):
        """Its tables for 3 of 3 and for 2 of 3: - is missing, X breaches; then with breaching, notBreaching and ignore."""
        tables = {
            3: {"0-X-X": "OK OK OK", "----0": "OK OK OK", "-----": "ALARM OK before", "0XX-X": "ALARM ALARM ALARM", "--X--": "ALARM OK before"},
            2: {"0-X-X": "ALARM ALARM ALARM", "00X0X": "ALARM ALARM ALARM", "0-X--": "ALARM OK OK", "----0": "ALARM OK OK", "---X-": "ALARM OK before"},
        }
        base = ALARMS["LogSizeAlarm"]
        values = {"-": None, "0": base.threshold, "X": base.threshold + 1}
        for enough, rows in tables.items():
            for data, meant in rows.items():
                for missing, state in zip(("breaching", "notBreaching", "ignore"), meant.split()):
                    with self.subTest(data=data, enough=enough, missing=missing):
                        one = replace(base, evaluation_periods=3, datapoints_to_alarm=enough, missing=missing)
                        self.assertEqual(one.state([values[mark] for mark in data], "before"), state)

    def test_what_it_does_not_know_it_refuses(self):
        for expression in ("RATE(m)", "m ** 2", "METRICS()", "'m'[0]"):
            with self.assertRaises(ValueError):
                alarms.compute(alarms.parsed(expression), {"m": 1.0}, {})

    def test_what_divides_by_zero_is_missing(self):
        self.assertIsNone(alarms.compute(alarms.parsed("1 / m"), {"m": 0.0}, {}))


class Told(unittest.TestCase):
    """Whoever is woken knows what it means, and what to do."""

    resources = template.load()["Resources"]

    def test_each_alarm_has_a_sentence_and_a_section_of_the_runbooks(self):
        page = (REPOSITORY / "docs" / "runbooks.md").read_text()
        anchors = {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in re.findall(r"^##+ (.+)$", page, re.M)}
        pager = self.resources["PagerAlarm"]["Properties"]["AlarmDescription"]["Fn::Sub"].replace("${Runbooks}", "docs/runbooks.md")
        for name, description in {name: alarm.description for name, alarm in ALARMS.items()}.items() | {("PagerAlarm", pager)}:
            with self.subTest(name):
                told = re.fullmatch(r"([A-Z][^#]{20,}\.) What to do: docs/runbooks\.md#(\w+)", description)
                self.assertTrue(told, description)
                self.assertEqual(told[2], section(name))
                self.assertIn(told[2], anchors)

    def test_each_alarm_tells_somebody_by_one_way(self):
        paged = alarms.paged()
        self.assertLessEqual(paged, set(ALARMS))
        for name, alarm in ALARMS.items():
            self.assertNotEqual(alarm.notifies, name in paged, name)

    def test_each_metric_is_one_that_a_function_prints(self):
        printed = set(telemetry.printed())
        charts = self.widgets("HasIngest", *(f"Has{target}" for target in TARGETS))
        shown = {row[1] for chart in charts for row in chart["properties"].get("metrics", []) if row[0] == "Sluice"}
        watched = {metric.name for alarm in ALARMS.values() for metric in alarm.metrics if metric.namespace == "Sluice"}
        self.assertEqual((shown | watched) - printed, set())

    def test_whatever_can_fail_has_an_alarm_or_a_reason_to_have_none(self):
        """The page's table, the template's alarms and the metrics that the code prints, each against the two others."""
        page = (REPOSITORY / "docs" / "runbooks.md").read_text().partition("\n## What can fail\n")[2].partition("\n## ")[0]
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")][1:]
        told, of_an_alarm = set(), {}
        for what, metrics, alarm in rows:
            names = set(re.findall(r"`([\w/ ]+)`", metrics))
            told |= names
            linked = re.findall(r"\[(\w+)\]\(#(\w+)\)", alarm)
            with self.subTest(what):
                self.assertTrue(names, "a row names the metric that tells of it")
                self.assertTrue(linked or re.match(r"none[^:]*: .{10,}", alarm), "it has an alarm, or says why not: `none: …`")
                self.assertEqual([section(name) for name, _ in linked], [anchor for _, anchor in linked])
            for name, _ in linked:
                of_an_alarm.setdefault(name, set()).update(names)
        self.assertEqual({name for name in told if "/" not in name}, set(telemetry.printed()))
        meant = {
            name: {metric.name if metric.namespace == "Sluice" else f"{metric.namespace} {metric.name}" for metric in alarm.metrics}
            for name, alarm in ALARMS.items()
        }
        self.assertEqual(of_an_alarm, meant)

    def test_each_metric_is_in_the_bill(self):
        self.assertEqual({*cost.ALWAYS_METRICS, *cost.OTHER_METRICS, *cost.INGEST_METRICS, *cost.OTHER_TARGET_METRICS}, set(telemetry.printed()))

    def test_what_is_counted_up_to_a_bound_can_reach_its_threshold(self):
        operations = (REPOSITORY / "migrations" / "functions" / "5_operations.sql").read_text()
        counted = int(re.search(r"FUNCTION sluice\.counted_rows\(\).*?SELECT (\d+)", operations, re.DOTALL)[1])
        self.assertLessEqual(self.resources["WaitingRowsAlarm"]["Properties"]["Threshold"], counted)

    def test_each_line_that_a_query_looks_for_is_one_that_a_function_prints(self):
        sources = [file.read_text() for part in ("functions", "shared") for file in (REPOSITORY / part).glob("*/src/**/*.rs")]
        wanted = set(re.findall(r'message = "([^"]+)"', (REPOSITORY / "docs" / "runbooks.md").read_text()))
        self.assertGreater(len(wanted), 5)
        self.assertEqual({text for text in wanted if not any(f'"{text}"' in source for source in sources)}, set())

    def test_the_dashboard_shows_each_alarm_that_there_is(self):
        targets = [f"Has{target}" for target in TARGETS]
        for conditions in ([], ["HasIngest"], *([target] for target in targets), ["HasIngest", *targets]):
            arns = [arn for chart in self.widgets(*conditions) for arn in chart["properties"].get("alarms", [])]
            there = {name for name, one in self.resources.items() if one["Type"].endswith("Alarm") and one.get("Condition") in (None, *conditions)}
            self.assertEqual({re.fullmatch(r"\$\{(\w+)\.Arn\}", arn)[1] for arn in arns}, there)

    def widgets(self, *conditions: str) -> list[dict]:
        """Of the dashboard in CloudWatch."""
        body, parts = self.resources["WatchDashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
        for name, part in parts.items():
            condition, its_own, nothing = part["Fn::If"]
            body = body.replace(f"${{{name}}}", its_own["Fn::Sub"] if condition in conditions else nothing)
        return json.loads(body)["widgets"]


if __name__ == "__main__":
    unittest.main()
