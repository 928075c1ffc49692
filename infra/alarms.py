"""The template's alarms, evaluated over what functions print, as CloudWatch would with the part of it that they use.

What it proves: that a threshold, a statistic, M of N, the treatment of missing data and an expression do together what
was meant, over made-up lines and over those that functions really printed.

What not: that CloudWatch does the same. The rules here are those of its documentation, with these simplifications: a
period begins at a multiple of its length, and an alarm is evaluated once, when a period is over and all of its lines are
there; CloudWatch looks each minute, and lines may come late. How far it looks back beyond N is documented by one example,
two periods, and taken for the rule. Whether FILL fills a series that has no value in all that time is not documented: both
are computed, and an alarm may not depend on it. Nobody compared this with an alarm in an account.
"""

import ast
import json
import math
import operator
import re
from collections import defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field

import template

STACK = "sluice"
OK, ALARM, INSUFFICIENT_DATA = "OK", "ALARM", "INSUFFICIENT_DATA"
LOOK_BACK = 2  # periods beyond N, in which data is searched before any counts as missing

COMPARISONS = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
STATISTICS = {"Sum": sum, "Maximum": max, "Minimum": min, "Average": lambda values: sum(values) / len(values), "SampleCount": len}


@dataclass(frozen=True)
class Metric:
    """What CloudWatch tells metrics apart by."""

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Point:
    """A value that was measured, in seconds since the epoch."""

    at: float
    metric: Metric
    value: float


def points(lines: Iterable[str]) -> list[Point]:
    """The metrics of lines in the embedded metric format; other lines have none."""
    found = []
    for text in lines:
        if '"CloudWatchMetrics"' not in text:
            continue
        line = json.loads(text)
        for directive in line["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                dimensions = tuple(sorted((name, line[name]) for name in names))
                for name in (metric["Name"] for metric in directive["Metrics"]):
                    value = line[name]
                    distribution = zip(value["Values"], value["Counts"]) if isinstance(value, dict) else [(value, 1)]
                    metric = Metric(directive["Namespace"], name, dimensions)
                    found += [Point(line["_aws"]["Timestamp"] / 1000, metric, one) for one, count in distribution for _ in range(int(count))]
    return found


@dataclass(frozen=True)
class Statistic:
    """A metric's values of one period, made one."""

    metric: Metric
    name: str

    def of(self, values: list[float]) -> float | None:
        return STATISTICS[self.name](values) if values else None


@dataclass(frozen=True)
class Alarm:
    """A metric alarm, its parameters resolved."""

    name: str
    description: str
    period: int
    evaluation_periods: int
    datapoints_to_alarm: int
    is_breached_by: object = field(repr=False)
    threshold: float
    missing: str
    result: str
    statistics: dict[str, Statistic]
    expressions: dict[str, ast.expr] = field(repr=False)
    notifies: bool

    @property
    def metrics(self) -> list[Metric]:
        return [statistic.metric for statistic in self.statistics.values()]

    @property
    def unfilled(self) -> list[Metric]:
        """Those that an expression reads as they come."""
        filled = {call.args[0].id for one in self.expressions.values() for call in ast.walk(one) if isinstance(call, ast.Call) and call.func.id == "FILL"}
        return [statistic.metric for name, statistic in self.statistics.items() if name not in filled]

    def state(self, values: list[float | None], before: str) -> str:
        """By the values of the last periods, oldest first; `None` is missing."""
        real = [self.is_breached_by(value, self.threshold) for value in values if value is not None][-self.evaluation_periods :]
        lacking = self.evaluation_periods - len(real)
        breaching = real.count(True)
        if self.missing == "breaching":
            breaching += lacking
        if breaching >= self.datapoints_to_alarm:
            return ALARM
        # Where each value there is breaches, but they are too few, `ignore` leaves it as it was.
        return before if self.missing == "ignore" and lacking and breaching == len(real) else OK

    def history(self, measured: Iterable[Point], start: float, end: float, does_fill_nothing: bool = True) -> list[tuple[float, str]]:
        """Its changes of state. Nothing is known before `start`, and that is not taken for missing where missing is a fault.

        `does_fill_nothing`: FILL gives values to a series without any.
        """
        period = self.period
        first, last = math.ceil(start / period), math.floor(end / period)
        buckets = defaultdict(lambda: defaultdict(list))
        for point in measured:
            buckets[point.metric][math.floor(point.at / period)].append(point.value)
        known = [self._known(buckets, number) for number in range(first, last)]
        state, changes = INSUFFICIENT_DATA, []
        enough = self.evaluation_periods if self.missing == "breaching" else self.datapoints_to_alarm
        for count in range(enough, len(known) + 1):
            window = known[max(0, count - self.evaluation_periods - LOOK_BACK) : count]
            empty = set() if does_fill_nothing else {name for name in self.statistics if all(one[name] is None for one in window)}
            now = self.state([compute(ast.Name(self.result), one, self.expressions, empty) for one in window], state)
            if now != state:
                changes.append(((first + count) * period, now))
            state = now
        return changes

    def _known(self, buckets: dict, number: int) -> dict[str, float | None]:
        return {name: statistic.of(buckets[statistic.metric][number]) for name, statistic in self.statistics.items()}


OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda left, right: left / right if right else None,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
}


def compute(node: ast.expr, known: dict[str, float | None], expressions: dict[str, ast.expr], empty: Set[str] = frozenset()) -> float | None:
    """Metric math for one period. Beside something that is there, what is missing counts as 0; alone it is missing.

    `empty` are the series that FILL gives nothing to.
    """

    def value(part: ast.expr) -> float | None:
        return compute(part, known, expressions, empty)

    def filled(parts: list[ast.expr]) -> list[float | None]:
        values = [value(part) for part in parts]
        return values if values == [None] * len(values) else [one or 0 for one in values]

    match node:
        case ast.Constant(value=number):
            return number
        case ast.Name(id=name):
            return known[name] if name in known else value(expressions[name])
        case ast.Call(func=ast.Name(id="FILL"), args=[ast.Name(id=name), filling]):
            return value(filling) if known[name] is None and name not in empty else known[name]
        case ast.Call(func=ast.Name(id="IF"), args=[condition, yes, no]):
            decided = value(condition)
            return None if decided is None else value(yes if decided else no)
        case ast.BoolOp(op=ast.And(), values=parts):
            truths = filled(parts)
            return None if None in truths else float(all(truths))
        case ast.BinOp(left=left, op=op, right=right) | ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in OPERATORS:
            sides = filled([left, right])
            return None if None in sides else OPERATORS[type(op)](*sides)
    raise ValueError(f"alarms: {ast.unparse(node)} is no metric math that alarms.py knows; teach it, and test that")


def parsed(expression: str) -> ast.expr:
    return ast.parse(re.sub(r"\bAND\b", "and", expression), mode="eval").body


def _resolved(value: object, parameters: dict[str, str]) -> object:
    """References to parameters are their values, those to resources the resource's name in the template."""
    match value:
        case {"Ref": name}:
            return parameters.get(name, name)
        case {"Fn::GetAtt": [name, _]}:
            return name
        case {"Fn::Sub": text}:
            return re.sub(r"\$\{([\w:]+)(?:\.\w+)?\}", lambda match: str(parameters.get(match[1], match[1])), text)
        case dict():
            return {name: _resolved(part, parameters) for name, part in value.items()}
        case list():
            return [_resolved(part, parameters) for part in value]
    return value


def _metric(properties: dict) -> Metric:
    dimensions = tuple(sorted((one["Name"], one["Value"]) for one in properties["Dimensions"]))
    return Metric(properties["Namespace"], properties["MetricName"], dimensions)


def _alarm(name: str, properties: dict, parameters: dict[str, str]) -> Alarm:
    notifies = "AlarmActions" in properties
    properties = _resolved({key: value for key, value in properties.items() if not key.endswith("Actions")}, parameters)
    queries = properties.get("Metrics", [])
    statistics = {one["Id"]: Statistic(_metric(one["MetricStat"]["Metric"]), one["MetricStat"]["Stat"]) for one in queries if "MetricStat" in one}
    expressions = {one["Id"]: parsed(one["Expression"]) for one in queries if "Expression" in one}
    results = [one["Id"] for one in queries if one.get("ReturnData", True)]
    periods = {one["MetricStat"]["Period"] for one in queries if "MetricStat" in one}
    if not queries:
        statistics, results, periods = {"m": Statistic(_metric(properties), properties["Statistic"])}, ["m"], {properties["Period"]}
    if len(results) != 1 or len(periods) != 1:
        raise ValueError(f"alarms: {name} has the results {results} and the periods {periods}; one of each is what CloudWatch evaluates")
    if properties["TreatMissingData"] not in ("breaching", "notBreaching", "ignore"):
        raise ValueError(f"alarms: {name} says nothing of missing data that alarms.py knows")
    return Alarm(
        name=name,
        description=properties["AlarmDescription"],
        period=periods.pop(),
        evaluation_periods=properties["EvaluationPeriods"],
        datapoints_to_alarm=properties.get("DatapointsToAlarm", properties["EvaluationPeriods"]),
        is_breached_by=COMPARISONS[properties["ComparisonOperator"]],
        threshold=float(properties["Threshold"]),
        missing=properties["TreatMissingData"],
        result=results[0],
        statistics=statistics,
        expressions=expressions,
        notifies=notifies,
    )


def load() -> dict[str, Alarm]:
    """Each metric alarm of the template, with the parameters' defaults."""
    whole = template.load()
    parameters = {name: parameter.get("Default", "") for name, parameter in whole["Parameters"].items()} | {"AWS::StackName": STACK}
    resources = whole["Resources"].items()
    return {name: _alarm(name, one["Properties"], parameters) for name, one in resources if one["Type"] == "AWS::CloudWatch::Alarm"}


def paged() -> set[str]:
    """The alarms of which any wakes somebody."""
    rule = template.load()["Resources"]["PagerAlarm"]["Properties"]["AlarmRule"]
    return set(re.findall(r'ALARM\("(\w+)"\)', " ".join(_resolved(part, {}) for part in rule["Fn::Join"][1])))
