"""What Sluice costs on AWS in a month, without the free tier. `make cost EVENTS_PER_DAY=1000000 DOC_BYTES=1024`.

    cost.py [EVENTS_PER_DAY=…] [DOC_BYTES=…]   one load, item by item
    cost.py --check | --write                  compares docs/cost.md's tables with what this program says, or writes them

The model is of the dearest plausible case: changes come evenly, so they are packed as little as they can be, and each
message is a batch of its own.
"""

import re
import sys
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import blocks

TEMPLATE = Path(__file__).with_name("template.yaml").read_text()
PAGE = blocks.REPOSITORY / "docs" / "cost.md"

# Dollars in us-east-1, on demand, with the page where AWS publishes them.
AS_OF = "June 2026"
PRICES = {
    "lambda_gb_s": (0.0000133334, "Lambda, arm64", "GB-second", "aws.amazon.com/lambda/pricing"),
    "lambda_request": (0.20e-6, "Lambda", "request", "aws.amazon.com/lambda/pricing"),
    "sqs_request": (0.40e-6, "SQS, standard queue", "request, each begun 64 KB of it", "aws.amazon.com/sqs/pricing"),
    "logs_gb": (0.50, "CloudWatch Logs, ingestion", "GB", "aws.amazon.com/cloudwatch/pricing"),
    "logs_gb_month": (0.03, "CloudWatch Logs, storage", "GB and month", "aws.amazon.com/cloudwatch/pricing"),
    "metric": (0.30, "CloudWatch, custom metric", "month, while it has values", "aws.amazon.com/cloudwatch/pricing"),
    "alarm": (0.10, "CloudWatch, alarm", "month, each metric of it", "aws.amazon.com/cloudwatch/pricing"),
    "composite": (0.50, "CloudWatch, composite alarm", "month", "aws.amazon.com/cloudwatch/pricing"),
    "dashboard": (3.00, "CloudWatch, dashboard", "month", "aws.amazon.com/cloudwatch/pricing"),
    "secret": (0.40, "Secrets Manager", "secret and month", "aws.amazon.com/secrets-manager/pricing"),
    "secret_request": (0.05e-4, "Secrets Manager", "request", "aws.amazon.com/secrets-manager/pricing"),
    "schedule": (0.0, "EventBridge, rule with a schedule", "event", "aws.amazon.com/eventbridge/pricing"),
    "socket_message": (1e-6, "API Gateway, WebSocket", "message, each begun 32 KB of it", "aws.amazon.com/api-gateway/pricing"),
    "socket_minute": (0.25e-6, "API Gateway, WebSocket", "minute of a connection", "aws.amazon.com/api-gateway/pricing"),
    "trace": (5e-6, "X-Ray", "trace that is recorded", "aws.amazon.com/xray/pricing"),
    "nat_hour": (0.045, "NAT gateway", "hour", "aws.amazon.com/vpc/pricing"),
    "nat_gb": (0.045, "NAT gateway", "GB", "aws.amazon.com/vpc/pricing"),
    "ipv4_hour": (0.005, "public IPv4 address", "hour", "aws.amazon.com/vpc/pricing"),
    "endpoint_hour": (0.01, "interface endpoint", "hour and zone", "aws.amazon.com/privatelink/pricing"),
    "endpoint_gb": (0.01, "interface endpoint", "GB", "aws.amazon.com/privatelink/pricing"),
    "zone_gb": (0.02, "data between two zones", "GB, both directions", "aws.amazon.com/ec2/pricing/on-demand"),
    "internet_gb": (0.09, "data out to the internet", "GB", "aws.amazon.com/ec2/pricing/on-demand"),
    "server_hour": (0.0168, "EC2 t4g.small", "hour", "aws.amazon.com/ec2/pricing/on-demand"),
    "disk_gb_month": (0.08, "EBS gp3", "GB and month", "aws.amazon.com/ebs/pricing"),
}
PRICE = {name: row[0] for name, row in PRICES.items()}

HOURS, MINUTES, SECONDS = 730, 730 * 60, 730 * 3600  # of a month
DAYS = HOURS / 24
GB = 1e9
KB_64 = 64 * 1024

# From the code.
MESSAGE_BYTES = 256 * 1024  # functions/trigger/src/sink.rs
CHANGE_BYTES = 110  # a change's own line beside its document, with a key of ten characters
HEADER_BYTES = 120  # a message's first line
POLL_S = 0.1  # PollInterval
DEPTH_S, IDLE_DEPTH_S = 1, 10  # functions/trigger/src/sink.rs: how often SQS is asked for its depth, at work and idle
SECRET_S = 300  # shared/secrets/src/secrets.rs: how long a secret is kept

# Of Lambda: five long polls of 20 s wait at an empty queue, since `MaximumConcurrency` is set.
POLLERS, LONG_POLL_S = 5, 20
SECRETS = 4
# Each hour of a metric in which it has a value is billed: those of each minute, since the heartbeat is a change and the validator
# tells zeros, too, and those of whatever happens now and then.
ALWAYS_METRICS = (
    "Backlog", "Lag", "LogBytes", "FanOutBacklog", "FanOutOldestPendingAge", "ExpansionsFailing", "WaitingRows", "StreamProblems",
    "Drained", "Published", "PublishedBytes", "Written", "CommitToIndexed", "HeartbeatAge", "Differences", "OldestVerdictAge", "VerdictsLate",
)  # fmt: skip
OTHER_METRICS = (
    "Stale", "Gone", "ReRead", "Retried", "ConfigurationErrors", "SourceErrors", "LostFlights", "SampleFailures", "DeadLettered",
    "DocumentsChecked", "KeysRepaired", "Unauthorized", "RefusedTokens", "SecretRefreshes",
)  # fmt: skip

# Rounded up from what a local stack shows; nobody measured them on AWS.
BATCH_S, CHANGE_S = 0.05, 0.0005  # the indexer: one batch, and each change of it
ONCE_S = 0.15  # the trigger with DRAIN=once and nothing to do
READ_S = 0.0005  # and for each change
TICK_S = 0.05  # the admin function and the validator, each minute, with nothing to do
BATCH_LOG_BYTES, TRIGGER_LOG_BYTES, TICK_LOG_BYTES = 1_400, 2_500, 450  # of one invocation, Lambda's own lines included

# Of the validator: a round begins half of ValidateWithin, a day, after the one before (migrations/functions/6_validation.sql). In it
# each document of the source is compared, and each of the index looked for in the source.
COMPARED, SIDES, ROUNDS_A_DAY = 1e6, 2, 2

# Of an ingest, whose rounds tell zeros, too.
INGEST_METRICS = ("ProfilesFetched", "ProfilesSynced", "ProfilesSkipped", "ProfilesRejected", "IngestFailures", "RejectsDropped")
# Of a direct target: the trigger's own once more, told apart by the service, and those that are now and then.
TARGET_METRICS = ("Drained", "Backlog", "Lag", "WaitingRows", "StreamProblems")
OTHER_TARGET_METRICS = ("Published", "PublishedBytes", "Refused", "SourceErrors", "SampleFailures", "SecretRefreshes")

# Of live sync, by docs/live-sync.md: a client pulls so often by itself, and once for each poke; and says something so often that API
# Gateway does not end its connection. A pull without news asks PostgreSQL as little as a tick of the others.
PULL_EVERY_S, KEEP_ALIVE_S = 30, 9 * 60
CLIENTS = (10, 100, 1_000, 10_000)

ZONES = 2  # of a private network
DISK_GB = 20


def memory(function: str) -> float:
    """GB, as the template has it."""
    return int(re.search(rf"^  {function}Function:\n(?:    .*\n)*?      MemorySize: (\d+)", TEMPLATE, re.M)[1]) / 1024


def stay() -> float:
    """Seconds that one invocation of the trigger polls."""
    return float(re.search(r"^  Stay: .*?Default: (\d+)s", TEMPLATE, re.M)[1])


def validate_rate() -> float:
    """Documents a second that the validator compares at most."""
    return float(re.search(r"^  ValidateRate: .*?Default: (\d+)", TEMPLATE, re.M)[1])


def alarms(condition: str = "") -> tuple[int, int]:
    """How many there are where it holds, and of how many metrics; without one, those that are always there, or with the dashboard's URL."""
    found = re.findall(r"^  \w+:\n    Type: AWS::CloudWatch::Alarm\n(?:    .*\n)+", TEMPLATE, re.M)
    apart = {f"Condition: {one}\n" for one in ("HasIngest", "HasClickhouse", "HasKafka", "HasSync")}
    wanted = {f"Condition: {condition}\n"} & apart
    found = [text for text in found if {one for one in apart if one in text} == wanted]
    return len(found), sum(text.count("MetricName: ") for text in found)


@dataclass
class Load:
    """A load and a way to drain it."""

    per_day: float
    document_bytes: int = 1024
    is_once: bool = False
    trigger_gb: float = memory("Trigger")
    stay_s: float = stay()
    poll_s: float = POLL_S

    @property
    def per_second(self) -> float:
        return self.per_day / 86_400

    @property
    def changes(self) -> float:
        return self.per_day * DAYS

    @property
    def bytes_per_change(self) -> int:
        return self.document_bytes + CHANGE_BYTES

    @property
    def messages(self) -> float:
        """As many as it takes to carry the bytes, and one at least for each look at the log that finds something."""
        looks = MINUTES if self.is_once else SECONDS / self.poll_s
        full = self.changes * self.bytes_per_change / (MESSAGE_BYTES - HEADER_BYTES)
        return max(full, min(self.changes, looks))

    @property
    def message_bytes(self) -> float:
        return self.changes * self.bytes_per_change / self.messages + HEADER_BYTES if self.changes else 0

    def items(self) -> dict[str, float]:
        """Dollars a month, by what they are for."""
        if self.is_once:
            trigger_s = MINUTES * ONCE_S + self.changes * READ_S
            depths = MINUTES + self.changes * READ_S / DEPTH_S
        else:
            trigger_s = MINUTES * self.stay_s
            depths = trigger_s * max(1 / IDLE_DEPTH_S, min(self.per_second, 1 / DEPTH_S))
        indexer_s = self.messages * BATCH_S + self.changes * CHANGE_S
        beat_s = BATCH_S + CHANGE_S + (READ_S if self.is_once else 0)  # each minute one change, alone in its message
        # A batch is received and deleted by one request each; sent and received, each 64 KB count.
        requests = self.messages * (2 * ceil(self.message_bytes / KB_64) + 1)
        idle_polls = POLLERS * SECONDS / LONG_POLL_S
        logs_gb = (MINUTES * (TRIGGER_LOG_BYTES + 2 * TICK_LOG_BYTES + BATCH_LOG_BYTES) + self.messages * BATCH_LOG_BYTES) / GB
        sandboxes = min(5, ceil((indexer_s + MINUTES * beat_s) / SECONDS))
        return {
            "trigger": trigger_s * self.trigger_gb * PRICE["lambda_gb_s"] + MINUTES * PRICE["lambda_request"],
            "indexer": indexer_s * memory("Indexer") * PRICE["lambda_gb_s"] + self.messages * PRICE["lambda_request"],
            "admin, each minute": MINUTES * (TICK_S * memory("Admin") * PRICE["lambda_gb_s"] + PRICE["lambda_request"]),
            "validator, each minute": MINUTES * (TICK_S * memory("Validate") * PRICE["lambda_gb_s"] + PRICE["lambda_request"]),
            "heartbeat": MINUTES * (beat_s * memory("Indexer") * PRICE["lambda_gb_s"] + PRICE["lambda_request"] + 3 * PRICE["sqs_request"]),
            "schedules": 3 * MINUTES * PRICE["schedule"],
            "queue: messages": requests * PRICE["sqs_request"],
            "queue: polls, depth": (idle_polls + depths) * PRICE["sqs_request"],
            "logs": logs_gb * (PRICE["logs_gb"] + PRICE["logs_gb_month"]),
            "secrets, looked up": (sandboxes + 1) * SECONDS / SECRET_S * PRICE["secret_request"],
        }

    def total(self) -> float:
        return sum(self.items().values())

    def per_million(self) -> float:
        """Dollars that a million changes add to the idle bill."""
        return (self.total() - replace(self, per_day=0).total()) / self.changes * 1e6


def told(names: tuple[str, ...]) -> str:
    """As the page writes them."""
    return ", ".join(f"`{name}`" for name in names)


def apart() -> list[tuple[str, float]]:
    """What an installation has besides, whatever its load."""
    (count, metrics), (ingests, ingest_metrics), (targets, target_metrics) = alarms(), alarms("HasIngest"), alarms("HasClickhouse")
    compared_s = DAYS * ROUNDS_A_DAY * SIDES * COMPARED / validate_rate()
    ingest, target = (MINUTES * (stay() * memory(one) * PRICE["lambda_gb_s"] + PRICE["lambda_request"]) for one in ("Ingest", "Clickhouse"))
    target_once = MINUTES * (ONCE_S * memory("Clickhouse") * PRICE["lambda_gb_s"] + PRICE["lambda_request"])
    return [
        (f"{SECRETS} secrets", SECRETS * PRICE["secret"]),
        (f"{count} alarms, of {metrics} metrics", metrics * PRICE["alarm"]),
        ("the composite alarm for the pager", PRICE["composite"]),
        ("the dashboard, beyond an account's first three", PRICE["dashboard"]),
        (f"{len(ALWAYS_METRICS)} custom metrics: {told(ALWAYS_METRICS)}", len(ALWAYS_METRICS) * PRICE["metric"]),
        (f"{len(OTHER_METRICS)} more, if every hour has all of them: {told(OTHER_METRICS)}", len(OTHER_METRICS) * PRICE["metric"]),
        (f"each {COMPARED:,.0f} documents that are compared with a target, twice a day, {validate_rate():,.0f} a second", compared_s * memory("Validate") * PRICE["lambda_gb_s"]),
        (f"an ingest: its function, {stay():g} seconds of each minute", ingest),
        (f"its {ingests} alarms, of {ingest_metrics} metrics", ingest_metrics * PRICE["alarm"]),
        (f"its {len(INGEST_METRICS)} custom metrics: {told(INGEST_METRICS)}", len(INGEST_METRICS) * PRICE["metric"]),
        (f"each direct target, as ClickHouse: its function, {stay():g} seconds of each minute", target),
        ("the same with `DRAIN=once`, idle", target_once),
        ("its lines in the log", MINUTES * TRIGGER_LOG_BYTES / GB * (PRICE["logs_gb"] + PRICE["logs_gb_month"])),
        ("its secret", PRICE["secret"]),
        (f"its {targets} alarms, of {target_metrics} metrics", target_metrics * PRICE["alarm"]),
        (f"its {len(TARGET_METRICS)} custom metrics, told apart by the service: {told(TARGET_METRICS)}", len(TARGET_METRICS) * PRICE["metric"]),
        (f"{len(OTHER_TARGET_METRICS)} more, if every hour has all of them: {told(OTHER_TARGET_METRICS)}", len(OTHER_TARGET_METRICS) * PRICE["metric"]),
        (f"live sync: the same as a direct target, and {alarms('HasSync')[0] - targets} alarm more", (alarms("HasSync")[1] - target_metrics) * PRICE["alarm"]),
        ("X-Ray, if `Tracing` is `Active`: four invocations of each minute", 4 * MINUTES * PRICE["trace"]),
        ("and one of each second, which is what X-Ray takes of a busy function, besides one in twenty", SECONDS * PRICE["trace"]),
    ]


def clients(count: int, pokes_a_minute: float) -> dict[str, float]:
    """Dollars a month of so many clients of live sync that are always connected, by what they are for."""
    invocation = TICK_S * memory("Sync") * PRICE["lambda_gb_s"] + PRICE["lambda_request"]
    pokes, kept_alive = MINUTES * pokes_a_minute, SECONDS / KEEP_ALIVE_S
    each = {
        "connections": MINUTES * PRICE["socket_minute"],
        "pokes": pokes * PRICE["socket_message"],
        "messages that keep them alive": kept_alive * (PRICE["socket_message"] + invocation),
        "pulls": (SECONDS / PULL_EVERY_S + pokes) * invocation,
    }
    return {name: count * dollars for name, dollars in each.items()}


def private() -> list[tuple[str, float, float]]:
    """The ways out of a private network: dollars a month, and for each GB."""
    return [
        ("NAT gateway, one", HOURS * (PRICE["nat_hour"] + PRICE["ipv4_hour"]), PRICE["nat_gb"]),
        (f"interface endpoints for SQS and Secrets Manager, {ZONES} zones", 2 * ZONES * HOURS * PRICE["endpoint_hour"], PRICE["endpoint_gb"]),
    ]


def server() -> float:
    return HOURS * PRICE["server_hour"] + DISK_GB * PRICE["disk_gb_month"]


def cheap_from(limit: float, way: Load) -> float:
    """The rate, in changes a second, from which a million of 1 KB add less than this; two digits of it."""
    rates = (digits * 10**power / 10 for power in range(-2, 4) for digits in range(10, 100))
    return next(rate for rate in rates if replace(way, per_day=rate * 86_400).per_million() < limit)


def money(dollars: float) -> str:
    """Cents; below a dime as many digits as it takes."""
    exact = f"{dollars:.10f}".rstrip("0")
    return f"${dollars:,.2f}" if dollars >= 0.1 or len(exact) < 4 else f"${exact}"


def cents(dollars: float) -> str:
    return f"${dollars:,.2f}"


def page() -> dict[str, str]:
    """The tables of docs/cost.md."""
    ways = [Load(0, is_once=True), Load(0), Load(0, poll_s=1)]
    once, polling, seldom = ways
    heads = ["`DRAIN=once`", "`DRAIN=stay`", "`DRAIN=stay`, `POLL_INTERVAL=1s`"]
    idle = [[name, cents(dollars), cents(polling.items()[name])] for name, dollars in once.items().items() if dollars]
    gb = 1e6 * (1024 + CHANGE_BYTES) / GB
    return {
        "prices": blocks.table(["what", "price", "for each", "page"], [[what, money(price), *rest] for price, what, *rest in PRICES.values()]),
        "idle": blocks.table(
            ["idle, a month", *heads[:2]], [*idle, ["**together**", f"**{cents(once.total())}**", f"**{cents(polling.total())}**"]]
        ),
        "apart": blocks.table(["besides, a month", "price"], [[what, cents(dollars)] for what, dollars in apart()]),
        "clients": blocks.table(
            ["clients", *clients(1, 1), "together", "t4g.small"],
            [[f"{n:,}", *map(cents, parts.values()), cents(sum(parts.values())), cents(server())] for n in CLIENTS for parts in [clients(n, 1)]],
        ),
        "memory": blocks.table(
            ["idle, `DRAIN=stay`", "`STAY=65s`", "`STAY=60s`", "`STAY=55s`"],
            [[f"{mb} MB", *(cents(replace(polling, trigger_gb=mb / 1024, stay_s=s).total()) for s in (65, 60, 55))] for mb in (128, 192, 256, 512)],
        ),
        "loads": blocks.table(
            ["changes a day", "a second", *heads, "t4g.small"],
            [
                [f"{n:,}", f"{n / 86_400:.1f}", *(cents(replace(way, per_day=n).total()) for way in ways), cents(server())]
                for n in (10_000, 1_000_000, 100_000_000)
            ],
        ),
        "per million": blocks.table(
            ["changes a second", *(f"{head}: messages" if part else head for head in heads[:2] for part in (0, 1))],
            [[f"{rate:,}", *(cell for way in ways[:2] for cell in _million(replace(way, per_day=rate * 86_400)))] for rate in (0.1, 1, 10, 100, 1_000)],
        ),
        "cheap": blocks.table(
            ["a million changes add less than $0.10", "from"],
            [[head, f"{cheap_from(0.10, way):g} changes a second"] for head, way in zip(heads, ways)],
        ),
        "private": blocks.table(
            ["way out of a private network", "a month", "each GB"], [[what, cents(dollars), money(per_gb)] for what, dollars, per_gb in private()]
        ),
        "data": blocks.table(
            [f"where {gb:.1f} GB go, a million changes of 1 KB", "price"],
            [
                ["PostgreSQL or Elasticsearch in another zone, for each of them", cents(gb * PRICE["zone_gb"])],
                ["Elasticsearch across the internet", cents(gb * PRICE["internet_gb"])],
            ],
        ),
    }


def _million(load: Load) -> list[str]:
    return [cents(load.per_million()), f"{load.messages / load.changes * 1e6:,.0f}"]


def tell(per_day: int, document_bytes: int) -> None:
    """One load, for a terminal."""
    once, polling = (Load(per_day, document_bytes, is_once) for is_once in (True, False))
    print(f"{per_day:,} changes a day of {document_bytes:,} bytes, spread evenly; us-east-1, {AS_OF}, without the free tier\n")
    row = "{:<64}{:>12}{:>12}".format
    print(row("dollars a month", "DRAIN=once", "DRAIN=stay"))
    for (name, dollars), other in zip(once.items().items(), polling.items().values()):
        print(row(name, f"{dollars:,.2f}", f"{other:,.2f}"))
    print(row("together", f"{once.total():,.2f}", f"{polling.total():,.2f}"))
    if per_day:
        print(row("what a million changes add to an idle one", f"{once.per_million():,.3f}", f"{polling.per_million():,.3f}"))
    print("\nbesides")
    for what, dollars in apart():
        print(row(what.replace("`", ""), f"{dollars:,.2f}", ""))
    gb = once.changes * once.bytes_per_change / GB
    print(f"\nthe way out of a private network, if there is one ({gb:,.1f} GB go to the queue)")
    for what, dollars, per_gb in private():
        print(row(what, f"{dollars + gb * per_gb:,.2f}", ""))
    print("\nfor comparison")
    print(row(f"one EC2 t4g.small with a disk of {DISK_GB} GB", f"{server():,.2f}", ""))


def main() -> None:
    if sys.argv[1:] in (["--check"], ["--write"]):
        return blocks.main("infra/cost.py", PAGE, page())
    given = {"EVENTS_PER_DAY": "1000000", "DOC_BYTES": "1024"}
    for pair in sys.argv[1:]:
        name, _, value = pair.partition("=")
        if name not in given or not re.fullmatch(r"\d{1,12}", value):
            sys.exit(f"cost: {pair}: expected EVENTS_PER_DAY=… or DOC_BYTES=…, a whole number")
        given[name] = value
    tell(int(given["EVENTS_PER_DAY"]), int(given["DOC_BYTES"]))


if __name__ == "__main__":
    main()
