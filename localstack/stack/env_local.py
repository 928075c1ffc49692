"""What `.env.local` says to `make up`: servers of yours, and parameters of the functions. Names of an older CDC service, whose
`.env` you may have, are aliases of ours. Ours win, and what is given with the command wins over both."""

import re
from collections.abc import Callable
from urllib.parse import quote, urlsplit

import postgres
import search
from console import Failure, say
from layout import REPOSITORY

FILE = REPOSITORY / ".env.local"
SERVERS = ("USE_DATABASE", "USE_ELASTICSEARCH", "USE_CLICKHOUSE", "USE_KAFKA")
# The parameters that may stand there, as the template calls them.
PARAMETERS = {
    "ORIGIN_URL": "OriginUrl", "SYNC_INTERVAL": "SyncInterval", "DB_WRITERS": "DbWriters", "POLL_INTERVAL": "PollInterval", "PAGE_SIZE": "PageSize",
}  # fmt: skip
CLICKHOUSE = ("CLICKHOUSE_HOST", "CLICKHOUSE_DATABASE", "CLICKHOUSE_USER", "CLICKHOUSE_PASSWORD")
# By the scheme; the ports of ClickHouse's own protocol, which Sluice does not speak, are not among them.
CLICKHOUSE_PORTS, NATIVE_PORTS = {"http": 8123, "https": 8443}, (9000, 9440)


def read() -> dict[str, str]:
    """Lines `NAME=value`; an empty value counts as absent. No other `.env` is read: what belongs to production stays there."""
    lines = FILE.read_text().splitlines() if FILE.exists() else []
    pairs = [(name.strip().removeprefix("export "), value.strip().strip("'\"")) for name, _, value in (line.partition("=") for line in lines)]
    return {name: value for name, value in pairs if value and not name.startswith("#")}


def servers(arguments: dict[str, str]) -> dict[str, str]:
    """The arguments, with the servers that the file names. Says which aliases it took; one that is malformed, be it a parameter's,
    is a Failure."""
    written = read()
    for name, (aliases, _) in ALIASES.items():
        if found := ", ".join(alias for alias in aliases if alias in written):
            wins = name in arguments or name in written
            say(".env.local", f"not used, since {name} is given: {found}" if wins else f"taken as {name}: {found}")
    parameters()
    return {name: value for name in SERVERS if name not in arguments and (value := _value(written, name))} | arguments


def parameters() -> dict[str, str]:
    """The functions' parameters that the file names."""
    return {PARAMETERS[name]: value for name, value in variables().items()}


def variables() -> dict[str, str]:
    """The same as the variables that they become."""
    written = read()
    return {name: value for name in PARAMETERS if (value := _value(written, name))}


def _value(written: dict[str, str], name: str) -> str:
    """What the file says by one of our names, or else by its aliases."""
    aliases, translate = ALIASES.get(name, ((), None))
    if name in written or not any(alias in written for alias in aliases):
        return written.get(name, "")
    return translate(written)


def _database(written: dict[str, str]) -> str:
    try:
        postgres.connection(written["DATABASE_URL"])
    except (Failure, ValueError):
        raise _malformed("DATABASE_URL", "postgres://user:password@host:5432/database") from None
    return written["DATABASE_URL"]


def _elasticsearch(written: dict[str, str]) -> str:
    try:
        search.split_credentials(written["ELASTICSEARCH_URL"])
    except (Failure, ValueError):
        raise _malformed("ELASTICSEARCH_URL", "http://user:password@host:9200") from None
    return written["ELASTICSEARCH_URL"]


def _clickhouse(written: dict[str, str]) -> str:
    """Without a scheme it is http, without a port that of the scheme."""
    given = written.get("CLICKHOUSE_HOST")
    if not given:
        names = ", ".join(name for name in CLICKHOUSE if name in written)
        raise Failure(f".env.local has {names} and no CLICKHOUSE_HOST: write it as host, host:8123 or https://host:8443, or take the others out")
    try:
        parts = urlsplit(given if "://" in given else f"http://{given}")
        usual = CLICKHOUSE_PORTS[parts.scheme]
        port = parts.port or usual
        is_right = parts.hostname and "@" not in parts.netloc and parts.path in ("", "/") and not parts.query
    except (ValueError, KeyError):
        is_right = False
    if not is_right:
        raise _malformed("CLICKHOUSE_HOST", "host, host:8123 or https://host:8443, with the user in CLICKHOUSE_USER and CLICKHOUSE_PASSWORD")
    if "://" not in given and port in NATIVE_PORTS:
        raise Failure(f".env.local: CLICKHOUSE_HOST has the port {port}, of ClickHouse's own protocol: write that of its HTTP interface, as host:8123")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    user, password = quote(written.get("CLICKHOUSE_USER", "default"), safe=""), quote(written.get("CLICKHOUSE_PASSWORD", ""), safe="")
    return f"{parts.scheme}://{user}:{password}@{host}:{port}/{quote(written.get('CLICKHOUSE_DATABASE', ''), safe='')}"


def _kafka(written: dict[str, str]) -> str:
    brokers = [broker.strip() for broker in written["KAFKA_BROKERS"].split(",")]
    if not all(re.fullmatch(r"[^/@\s]+:[0-9]{1,5}", broker) for broker in brokers):
        raise _malformed("KAFKA_BROKERS", "broker-1:9092,broker-2:9092")
    return ",".join(brokers)


def _poll_interval(written: dict[str, str]) -> str:
    return f"{_number(written, 'CDC_POLLING_INTERVAL', 'milliseconds', 5000)}ms"


def _page_size(written: dict[str, str]) -> str:
    return _number(written, "CDC_BATCH_SIZE", "rows", 10000)


def _number(written: dict[str, str], name: str, of: str, most: int) -> str:
    if not re.fullmatch(r"[0-9]{1,9}", written[name]) or not 1 <= int(written[name]) <= most:
        raise _malformed(name, f"a number of {of} from 1 to {most}")
    return str(int(written[name]))


def _malformed(name: str, like: str) -> Failure:
    """The value is left out: there may be a password in it."""
    return Failure(f".env.local: {name} is not as it should be: write {like}")


# Our name: the older service's names that are taken as it, and what they come to.
ALIASES: dict[str, tuple[tuple[str, ...], Callable[[dict[str, str]], str]]] = {
    "USE_DATABASE": (("DATABASE_URL",), _database),
    "USE_ELASTICSEARCH": (("ELASTICSEARCH_URL",), _elasticsearch),
    "USE_CLICKHOUSE": (CLICKHOUSE, _clickhouse),
    "USE_KAFKA": (("KAFKA_BROKERS",), _kafka),
    "POLL_INTERVAL": (("CDC_POLLING_INTERVAL",), _poll_interval),
    "PAGE_SIZE": (("CDC_BATCH_SIZE",), _page_size),
}
