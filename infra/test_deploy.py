"""Deploys of a release to a local stack: what they change, what they refuse, and what is left when it is destroyed.

`make test` runs it, in the stack that is up; by hand: eval "$(make env)" and ~/.cache/sluice/venv/bin/python infra/test_deploy.py.
The release has the binaries that the stack was brought up with: those of `make build` would take many minutes more.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path
from unittest import mock
from urllib.parse import unquote, urlsplit

import boto3

import template
from archive import pack

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "localstack" / "stack"))

import artifacts  # noqa: E402
import functions  # noqa: E402
import postgres  # noqa: E402
from layout import Stack  # noqa: E402

STREAM = "deployed"
FIELDS = {"id": {"type": "long"}, "title": {"type": "text"}}
MORE = FIELDS | {"pages": {"type": "integer"}}
OTHER = FIELDS | {"pages": {"type": "keyword"}}
COMMIT = "1a2b3c4"  # of no other deploy
PATIENCE_S = 300  # a trigger that was stopped in the middle leaves its place to the next minute's


class Deploy(unittest.TestCase):
    """Each test finds the release deployed, and the index of a stream made; it leaves them so."""

    @classmethod
    def setUpClass(cls):
        cls.stack = Stack(os.environ["SLUICE_STACK"])
        cls.scratch = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.scratch)
        (cls.scratch / "cargo").write_text("#!/bin/sh\nexit 1\n")  # whoever calls it fails
        (cls.scratch / "cargo").chmod(0o755)
        zips = {name: cls.pack(name, (functions.PLACE / name / "bootstrap").read_bytes()) for name in functions.NAMES}
        cls.release = cls.make_release(COMMIT, zips)
        cls.sql("CREATE SCHEMA deployed; CREATE TABLE deployed.books (id bigint PRIMARY KEY, title text, pages integer)")
        cls.addClassCleanup(cls.drop_stream)
        cls.define(FIELDS)
        cls.sql(f"SELECT sluice.track('deployed.books', stream => '{STREAM}', key => 'id')")
        cls.deploy()

    @classmethod
    def pack(cls, name: str, binary: bytes) -> Path:
        file = cls.scratch / f"{name}.zip"
        file.write_bytes(pack(binary, level=1))
        return file

    @classmethod
    def make_release(cls, commit: str, zips: dict[str, Path]) -> Path:
        folder = cls.scratch / commit
        with mock.patch.object(artifacts, "commit", lambda: commit):
            artifacts.make_folder(folder, zips, artifacts.own_architecture())
        return folder

    @classmethod
    def make(cls, *arguments: str) -> tuple[int, str]:
        """Whether it failed, and its words."""
        env = os.environ | {"PATH": f"{cls.scratch}:{os.environ['PATH']}"}
        command = ["make", *arguments, f"STACK={cls.stack.name}"]
        done = subprocess.run(command, cwd=REPOSITORY, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return done.returncode, done.stderr

    @classmethod
    def deploy(cls) -> str:
        failed, words = cls.make("deploy", f"ARTIFACTS={cls.release}")
        if failed:
            raise AssertionError(words)
        return words

    def refuse(self, *arguments: str) -> str:
        failed, words = self.make(*arguments)
        self.assertTrue(failed, words)
        return words

    @classmethod
    def sql(cls, statements: str) -> str:
        return postgres.psql(cls.stack, f"SET ROLE sluice_owner; {statements}")

    @classmethod
    def drop_stream(cls) -> None:
        cls.sql(f"SELECT sluice.drop_stream('{STREAM}'); DROP SCHEMA deployed CASCADE")
        for index in cls.search(f"_alias/{STREAM},{STREAM}.g*"):
            cls.search(index, "DELETE")

    @classmethod
    def define(cls, fields: dict) -> None:
        mapping = json.dumps({"properties": fields})
        cls.sql(f"""
            CREATE OR REPLACE VIEW deployed.documents AS SELECT {', '.join(fields)} FROM deployed.books;
            SELECT sluice.define_stream('{STREAM}', source => 'deployed.documents', key => 'id', mapping => '{mapping}')""")

    def put(self, key: int) -> None:
        self.sql(f"INSERT INTO deployed.books VALUES ({key}, 'Kindred', 264)")

    def wait_for(self, document: dict) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not document.items() <= (seen := self.search(f"{STREAM}/_source/{document['id']}")).items():
            self.assertLess(time.monotonic(), deadline, f"waited for {document}; last seen: {seen}")
            time.sleep(0.1)

    @classmethod
    def search(cls, path: str, method: str = "GET") -> dict:
        url = urlsplit(cls.stack.elasticsearch_url)
        credentials = b64encode(f"{unquote(url.username)}:{unquote(url.password)}".encode()).decode()
        return fetch(f"{url.scheme}://{url.hostname}:{url.port}/{path}", {"Authorization": f"Basic {credentials}"}, method)

    def health(self) -> dict:
        host = urlsplit(os.environ["ADMIN_URL"]).netloc
        return fetch(f"{self.stack.aws_url}/health", {"Authorization": f"Bearer {os.environ['ADMIN_TOKEN']}", "Host": host})

    def test_a_release_is_deployed_without_rust_and_says_what_it_is(self):
        self.deploy()  # another test may have tried another one since
        told = outputs()
        log = Path(os.environ["FUNCTIONS_LOGS"]) / f"{told['MigrateFunction']}.log"
        last = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")][-1]
        for place in ({"version": told["Version"], "commit": told["Commit"]}, self.health(), last):
            self.assertEqual((place["version"], place["commit"]), (artifacts.version(), COMMIT))

    def test_a_mapping_is_extended_in_place_or_by_another_index_beside_the_live_one(self):
        self.put(1)
        self.wait_for({"id": 1, "title": "Kindred"})
        self.addCleanup(self.define, MORE)
        self.define(MORE)
        self.assertRegex(self.deploy(), rf"stream {STREAM}: .*\bpages\b")
        self.wait_for({"id": 1, "title": "Kindred", "pages": 264})

        before = self.search(f"{STREAM}.g1/_mapping")
        self.define(OTHER)
        self.assertRegex(self.deploy(), rf"stream {STREAM}: .*\bpages\b.* began generation 2,")
        self.put(2)
        self.wait_for({"id": 2, "title": "Kindred", "pages": 264})
        self.assertEqual(self.search(f"{STREAM}.g1/_mapping"), before)

    def test_a_failing_migration_leaves_the_schema_and_the_functions_as_they_were(self):
        history = "SELECT version, name, applied_on FROM sluice.schema_history ORDER BY version"
        before = self.sql(history)
        zips = {name: self.release / f"{name}-{artifacts.version()}-{artifacts.own_architecture()}.zip" for name in functions.NAMES}
        faulty = self.pack("faulty", with_failing_migration((functions.PLACE / "migrate" / "bootstrap").read_bytes()))

        words = self.refuse("deploy", f"ARTIFACTS={self.make_release('5d6e7f8', zips | {'migrate': faulty})}")
        self.assertRegex(words, "the schema could not be migrated and is left as it was: .* already exists")
        self.assertEqual(self.sql(history), before)
        self.assertEqual((outputs()["Commit"], self.health()["commit"]), (COMMIT, COMMIT))
        self.put(3)
        self.wait_for({"id": 3, "title": "Kindred"})

    def test_a_release_that_was_changed_is_refused(self):
        changed = shutil.copytree(self.release, self.scratch / "changed")
        migrate = next(changed.glob("migrate-*.zip"))
        migrate.write_bytes(migrate.read_bytes() + b"more")
        self.assertIn(f"{migrate} is not what SHA256SUMS says", self.refuse("deploy", f"ARTIFACTS={changed}"))
        self.assertIn("holds no SHA256SUMS", self.refuse("deploy", f"ARTIFACTS={self.scratch}"))

    def test_code_that_somebody_put_under_its_hash_is_not_deployed(self):
        s3, bucket = boto3.client("s3"), "sluice-code-000000000000-us-east-1"
        content = next(self.release.glob("trigger-*.zip")).read_bytes()
        key = f"{hashlib.sha256(content).hexdigest()}.zip"
        s3.put_object(Bucket=bucket, Key=key, Body=self.pack("planted", b"#!/bin/sh").read_bytes())
        self.deploy()
        self.assertEqual(s3.get_object(Bucket=bucket, Key=key)["Body"].read(), content)

    def test_parameters_that_cannot_be_are_told_before_anything_is_made(self):
        parameters = self.scratch / "parameters.json"
        parameters.write_text(json.dumps({"SubnetId": "subnet-1"}))
        command = [sys.executable, "-B", REPOSITORY / "infra" / "deploy.py", "sluice-none", "deploy", "--parameters", parameters]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, r"^deploy +deploy: the stack sluice-none of account 000000000000, region us-east-1, at http://127")
        self.assertIn("the template has no parameter SubnetId", done.stderr)
        self.assertIn("there is no value for DATABASE_SECRET_ARN", done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def test_destroy_leaves_nothing_but_what_it_names(self):
        self.assertIn("nothing was deleted", self.refuse("destroy", "YES=sluice-prod"))
        before = inventory()
        self.assertEqual([kind for kind, found in before.items() if not found], [], "of these the test would see nothing")

        self.addCleanup(self.deploy)
        failed, words = self.make("destroy", f"YES={functions.AWS_STACK}")
        self.assertFalse(failed, words)
        # LocalStack deletes the queues, too: it passes over what the template says of them.
        self.assertEqual({kind for kind, found in inventory().items() if found}, {"secrets", "buckets"})
        self.assertIn("kept: your secrets, and the bucket of the functions' code", words)
        kept = {name for name, resource in template.load()["Resources"].items() if "DeletionPolicy" in resource}
        self.assertEqual(kept, {"Queue", "DeadLetterQueue"})


def with_failing_migration(migrate: bytes) -> bytes:
    """The first of the functions is made anew and not replaced, and it is there already."""
    first = min((REPOSITORY / "migrations" / "functions").glob("*.sql")).read_text()
    line = re.search(r"^CREATE OR REPLACE FUNCTION .*$", first, re.M)[0].encode()
    assert migrate.count(line) == 1, f"the binary has {line} {migrate.count(line)} times"
    return migrate.replace(line, line.replace(b"CREATE OR REPLACE ", b"CREATE            "))


def outputs() -> dict[str, str]:
    """What the CloudFormation stack says of itself."""
    found = boto3.client("cloudformation").describe_stacks(StackName=functions.AWS_STACK)["Stacks"][0]
    return {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}


def inventory() -> dict[str, list]:
    """All that the account has. LocalStack's are empty but for us; each stack has one of its own."""
    lists = {
        "functions": ("lambda", "list_functions", "Functions"),
        "event source mappings": ("lambda", "list_event_source_mappings", "EventSourceMappings"),
        "log groups": ("logs", "describe_log_groups", "logGroups"),
        "rules": ("events", "list_rules", "Rules"),
        "dashboards": ("cloudwatch", "list_dashboards", "DashboardEntries"),
        "roles": ("iam", "list_roles", "Roles"),
        "queues": ("sqs", "list_queues", "QueueUrls"),
        "secrets": ("secretsmanager", "list_secrets", "SecretList"),
        "buckets": ("s3", "list_buckets", "Buckets"),
    }
    found = {kind: getattr(boto3.client(service), call)().get(key, []) for kind, (service, call, key) in lists.items()}
    both = boto3.client("cloudwatch").describe_alarms(AlarmTypes=["MetricAlarm", "CompositeAlarm"])
    found["alarms"], found["composite alarms"] = both["MetricAlarms"], both["CompositeAlarms"]
    found["policies"] = boto3.client("iam").list_policies(Scope="Local")["Policies"]
    found["queues"] = [url for url in found["queues"] if f"/{functions.AWS_STACK}-" in url]  # other tests leave their own
    # LocalStack logs into groups of its own, whatever a function's LoggingConfig says.
    found["log groups"] = [group for group in found["log groups"] if not group["logGroupName"].startswith("/aws/lambda/")]
    return found


def fetch(url: str, headers: dict, method: str = "GET") -> dict:
    """The JSON; {} where there is nothing."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers, method=method), timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return {}
        raise AssertionError(f"{url} answers {error.code}: {error.read().decode()}") from error


if __name__ == "__main__":
    unittest.main()
