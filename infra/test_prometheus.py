"""The rules, the dashboard and the metrics that they name, by a real Prometheus and a real Alertmanager.

`make test` runs it, with the stack that is up; by hand: eval "$(make env)" and ~/.cache/sluice/venv/bin/python infra/test_prometheus.py.
A server here passes on what the deployed function says at /metrics: LocalStack knows the function by a host that no resolver knows.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote, urlsplit

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "localstack" / "stack"))

from download import debian_folder  # noqa: E402
from layout import SERVERS  # noqa: E402

FOLDER = REPOSITORY / "infra" / "prometheus"
RULES = yaml.safe_load((FOLDER / "rules.yaml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
RECORDED = {rule["record"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
DASHBOARD = json.loads((REPOSITORY / "infra" / "grafana" / "sluice.json").read_text())
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
PATIENCE_S = 60
# Grafana's own, and what stands for them here.
VARIABLES = {"$__rate_interval": "5m", "$table": ".*", "$target": ".*"}
# What PromQL has beside metrics, as far as it is used here.
WORDS = {
    "absent", "and", "by", "count_over_time", "histogram_quantile", "increase", "label_replace", "max", "max_over_time", "min", "min_over_time", "on", "or", "rate", "sum",
    "vector",
}  # fmt: skip


def install() -> Path:
    """The folder with the four programs."""
    return debian_folder("prometheus", REPOSITORY / "localstack" / "stack" / "prometheus.txt", SERVERS / "prometheus-2.42.0") / "usr" / "bin"


def scraped() -> str:
    """What the deployed function says now."""
    url = urlsplit(os.environ["ADMIN_URL"])
    headers = {"Host": url.netloc, "Authorization": f"Bearer {os.environ['ADMIN_READ_TOKEN']}"}
    with OPENER.open(urllib.request.Request(f"http://127.0.0.1:{url.port}/metrics", headers=headers), timeout=PATIENCE_S) as answer:
        return answer.read().decode()


def exported(text: str) -> set[str]:
    """The names of the series; of a histogram three."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    return {name + part for name, kind in kinds.items() for part in parts.get(kind, ("",))}


def named(expression: str) -> set[str]:
    """The metrics that an expression names."""
    bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"|\[[^\]]*\]|\b(?:by|on)\s*\([^)]*\)", " ", expression)
    return set(re.findall(r"(?<![\w:.$])[a-zA-Z_][\w:]*", bare)) - WORDS


def panel_expressions() -> list[tuple[str, str]]:
    return [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Metrics(BaseHTTPRequestHandler):
    """Passes the text on; while it is away it answers nobody."""

    text, is_away = "", False

    def do_GET(self):
        self.send_response(503 if self.is_away else 200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(self.text.encode())

    def log_message(self, *_):
        pass


class Pager(BaseHTTPRequestHandler):
    """Who is told."""

    told: list[tuple[str, dict]] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.told += [(self.path, alert) for alert in body["alerts"]]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


class Prometheus(unittest.TestCase):
    """One Prometheus and one Alertmanager for all of them, by the files that are shipped, but for addresses and times."""

    @classmethod
    def setUpClass(cls):
        cls.programs = install()
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.scratch = Path(scratch.name)
        Metrics.text = scraped()
        cls.port, alertmanager = free_port(), free_port()
        pager = cls.serve(Pager)

        told = yaml.safe_load((FOLDER / "alertmanager.yaml").read_text())
        told["route"] |= {"group_wait": "0s", "group_interval": "1s"}
        for receiver in told["receivers"]:
            receiver["webhook_configs"] = [{"url": f"http://127.0.0.1:{pager}/{receiver['name']}"}]
        # Without waiting: how long each waits is shown by tests.yaml.
        rules = yaml.safe_load((FOLDER / "rules.yaml").read_text())
        for rule in (rule for group in rules["groups"] for rule in group["rules"]):
            rule.pop("for", None)
        config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(cls.scratch / "rules.yaml")]
        config["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{alertmanager}"]}]
        config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{cls.serve(Metrics)}"]}]
        for name, content in (("alertmanager", told), ("rules", rules), ("prometheus", config)):
            (cls.scratch / f"{name}.yaml").write_text(yaml.safe_dump(content))
        # Debian's opens its template where it would be installed: here it is beside the program, by a path as long.
        binary = (cls.programs / "prometheus-alertmanager").read_bytes().replace(b"/usr/share/prometheus/", b"./../share/prometheus/")
        (cls.scratch / "alertmanager").write_bytes(binary)
        (cls.scratch / "alertmanager").chmod(0o755)
        cls.start(cls.scratch / "alertmanager", f"--config.file={cls.scratch}/alertmanager.yaml", f"--storage.path={cls.scratch}/alerts",
                  f"--web.listen-address=127.0.0.1:{alertmanager}", "--cluster.listen-address=")  # fmt: skip
        cls.start(cls.programs / "prometheus", f"--config.file={cls.scratch}/prometheus.yaml", f"--storage.tsdb.path={cls.scratch}/data",
                  f"--web.listen-address=127.0.0.1:{cls.port}")  # fmt: skip
        cls.wait_for("Prometheus", lambda: OPENER.open(f"http://127.0.0.1:{cls.port}/-/ready", timeout=10).close() or True)
        cls.wait_for("what takes two scrapes", lambda: cls.value("target:sync_tries:increase5m"))

    @classmethod
    def serve(cls, handler: type) -> int:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        Thread(target=server.serve_forever, daemon=True).start()
        cls.addClassCleanup(server.server_close)
        cls.addClassCleanup(server.shutdown)
        return server.server_address[1]

    @classmethod
    def start(cls, program: Path, *arguments: str) -> None:
        log = (cls.scratch / f"{program.name}.log").open("w")
        process = subprocess.Popen([program, *arguments], cwd=cls.programs, stdout=log, stderr=log)
        cls.addClassCleanup(log.close)
        cls.addClassCleanup(process.wait)
        cls.addClassCleanup(process.terminate)

    @classmethod
    def ask(cls, path: str) -> dict:
        """The answer's data; an error of Prometheus is an error here, with its words."""
        try:
            with OPENER.open(f"http://127.0.0.1:{cls.port}/api/v1/{path}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{path}: {refused.read().decode()}") from refused

    @classmethod
    def value(cls, expression: str) -> list:
        return cls.ask(f"query?query={quote(expression)}")["result"]

    @classmethod
    def wait_for(cls, what: str, is_so) -> None:
        deadline, seen = time.monotonic() + PATIENCE_S, None
        while time.monotonic() < deadline:
            try:
                if seen := is_so():
                    return
            except OSError as error:  # it is still starting
                seen = error
            time.sleep(0.1)
        logs = "\n".join(log.read_text()[-2000:] for log in cls.scratch.glob("*.log"))
        raise AssertionError(f"waited for {what}; last seen: {seen}\n{logs}")

    def check(self, program: str, *arguments: object, text: str | None = None) -> str:
        """What it says, where it finds nothing wrong."""
        done = subprocess.run([self.programs / program, *map(str, arguments)], input=text, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def test_the_files_are_what_the_programs_take(self):
        self.check("promtool", "check", "rules", FOLDER / "rules.yaml")
        self.check("promtool", "check", "config", FOLDER / "prometheus.yaml")
        self.check("amtool", "check-config", FOLDER / "alertmanager.yaml")

    def test_each_alert_fires_just_past_its_threshold_and_is_silent_just_below_it_and_all_day(self):
        self.check("promtool", "test", "rules", FOLDER / "tests.yaml")
        tested = (FOLDER / "tests.yaml").read_text()
        self.assertEqual([alert["alert"] for alert in ALERTS if f'{{alertname="{alert["alert"]}",alertstate="firing",severity=' not in tested], [])

    def test_nothing_is_wrong_with_the_metrics(self):
        self.assertEqual(self.check("promtool", "check", "metrics", text=Metrics.text), "")

    def test_each_metric_that_a_rule_or_a_panel_names_is_exported(self):
        known = exported(Metrics.text) | set(RECORDED) | {"up"}
        expressions = [(rule["alert"], rule["expr"]) for rule in ALERTS] + list(RECORDED.items()) + panel_expressions()
        for name, expression in expressions:
            with self.subTest(name):
                self.assertTrue(named(expression), expression)
                self.assertEqual(named(expression) - known, set())

    def test_each_rule_is_evaluated_without_an_error(self):
        rules = [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]
        self.assertEqual(len(rules), len(ALERTS) + len(RECORDED))
        self.assertEqual([(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"], [])

    def test_each_panel_has_an_answer(self):
        for title, expression in panel_expressions():
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            with self.subTest(title):
                self.value(expression)
        # Of what is always there, there is something to see.
        for title, expression in panel_expressions():
            if title in ("Answers", "Lag", "Lag by table", "Dead letters", "Backlog", "Log"):
                with self.subTest(title):
                    self.assertTrue(self.value(re.sub(r"\$t\w+", ".*", expression)))

    def test_grafana_takes_the_dashboard_and_each_panel_says_what_it_shows(self):
        self.assertGreaterEqual(DASHBOARD["schemaVersion"], 38)
        variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
        self.assertEqual((variables["datasource"]["type"], variables["datasource"]["query"]), ("datasource", "prometheus"))
        panels = DASHBOARD["panels"]
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        taken = set()
        for panel in panels:
            with self.subTest(panel["title"]):
                if panel["type"] != "row":
                    self.assertIn(panel["type"], ("stat", "timeseries"))
                    self.assertTrue(panel["fieldConfig"]["defaults"]["unit"])
                    self.assertRegex(panel["description"], r"^[A-Z].{20,}\.$")
                    self.assertTrue(all(one["datasource"]["uid"] == "${datasource}" for one in (panel, *panel["targets"])))
                place = panel["gridPos"]
                cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
                self.assertFalse(cells & taken, "it lies over another")
                self.assertLessEqual(place["x"] + place["w"], 24)
                taken |= cells

    def test_each_alert_says_how_bad_it_is_what_it_means_and_what_to_do(self):
        page = (REPOSITORY / "docs" / "runbooks.md").read_text()
        anchors = {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in re.findall(r"^##+ (.+)$", page, re.M)}
        for alert in ALERTS:
            with self.subTest(alert["alert"]):
                self.assertIn(alert["labels"]["severity"], ("warning", "critical"))
                for sentence in ("summary", "description"):
                    self.assertRegex(alert["annotations"][sentence], r"^[A-Z{].{20,}\.$")
                self.assertIn(alert["annotations"]["runbook"].removeprefix("docs/runbooks.md#"), anchors)
                self.assertIn(f"`{alert['alert']}`", page)

    def test_somebody_is_told_of_a_sluice_that_does_not_answer_and_the_sentence_is_whole(self):
        self.addCleanup(setattr, Metrics, "is_away", False)
        Metrics.is_away = True
        wanted = lambda: [(path, alert) for path, alert in Pager.told if alert["labels"]["alertname"] == "SluiceDown"]  # noqa: E731
        self.wait_for("an alert at the pager", wanted)
        path, alert = wanted()[0]
        self.assertEqual((path, alert["status"], alert["labels"]["severity"]), ("/pager", "firing", "critical"))
        self.assertEqual(alert["annotations"]["summary"], "Sluice does not answer.")


if __name__ == "__main__":
    unittest.main()
