"""The trial on AWS, against the stack's LocalStack: that it works, says what LocalStack cannot answer, and leaves nothing.

`make test` runs it. It deploys beside the stack's own deploy, in another region.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import boto3

import trial_before
import trial_stack
from archive import pack
from try_on_aws import Trial

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "localstack" / "stack"))

import artifacts  # noqa: E402
import commands  # noqa: E402
import functions  # noqa: E402
import postgres  # noqa: E402

REGION = "eu-central-1"


class TryOnAws(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.scratch)
        zips = {name: cls.scratch / f"{name}.zip" for name in functions.NAMES}
        for name, file in zips.items():
            file.write_bytes(pack((functions.PLACE / name / "bootstrap").read_bytes(), level=1))
        with mock.patch.object(artifacts, "commit", lambda: "7e57ed1"):
            artifacts.make_folder(cls.scratch / "dist", zips, artifacts.own_architecture())

    def run_it(self, *options: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-B", REPOSITORY / "infra" / "try_on_aws.py", REGION, "--artifacts", self.scratch / "dist", *options]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def test_it_asks_before_it_makes_anything(self):
        done = self.run_it()
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stdout, f"^account 000000000000, region {REGION}, at http://127.* makes the stack sluice-trial-")
        self.assertIn("nothing was made", done.stderr)
        self.assertEqual(left(), {})

    def test_each_question_has_its_line_and_nothing_is_left(self):
        done = self.run_it("--yes")
        told = done.stdout + done.stderr
        self.assertEqual(done.returncode, 0, told)
        lines = [line for line in done.stdout.splitlines() if re.match("(ok|WRONG|says|left out) ", line)]
        self.assertEqual([line for line in lines if line.startswith("WRONG")], [])
        self.assertGreater(len([line for line in lines if line.startswith("ok")]), 15, told)
        self.assertGreaterEqual(len(lines), len(trial_before.CHECKS) + len(trial_stack.CHECKS))
        for line in lines:
            if line.startswith("left out"):
                self.assertIn("LocalStack ", line)
        self.assertEqual(left(), {})

    def test_with_servers_a_row_becomes_a_document(self):
        """With the stack's own, in a database that is made for it; the stack's own schema and indexes go before."""
        stack = commands.existing({"STACK": os.environ["SLUICE_STACK"]})
        functions.run_migrate(stack, "uninstall")
        of_its_own = "sluice_of_a_trial"
        drop = f"DROP DATABASE IF EXISTS {of_its_own} WITH (FORCE);"
        self.addCleanup(postgres.psql, stack, drop, "postgres")
        make = f"CREATE DATABASE {of_its_own}; GRANT CREATE, CONNECT ON DATABASE {of_its_own} TO sluice_owner;"
        postgres.psql(stack, drop + make, "postgres")
        connection = postgres.connection(stack.database_url)
        where = {"host": connection["PGHOST"], "port": int(connection["PGPORT"]), "dbname": of_its_own}
        client, given = boto3.client("secretsmanager", region_name=REGION), {"DatabaseSslmode": "disable"}
        for parameter, value in functions.secrets(stack, where, stack.elasticsearch_url, "").items():
            if parameter != "AdminSecretArn":
                given[parameter] = client.create_secret(Name=f"servers/{parameter}", SecretString=json.dumps(value))["ARN"]
                self.addCleanup(client.delete_secret, SecretId=given[parameter], ForceDeleteWithoutRecovery=True)
        file = self.scratch / "servers.json"
        file.write_text(json.dumps(given))
        with mock.patch.dict(os.environ, {"PSQL": postgres.find_psql(stack)}):
            done = self.run_it("--yes", "--servers", file)
        told = done.stdout + done.stderr
        self.assertEqual(done.returncode, 0, told)
        for question in ("deploy and migrate, with servers", "a row becomes a document", "after a rest"):
            self.assertRegex(done.stdout, f"(?m)^ok +{question} ", told)
        left_in_it = postgres.psql(stack, "SELECT nspname FROM pg_namespace WHERE nspname ~ '^sluice'", of_its_own)
        self.assertEqual(left_in_it.strip(), "", told)
        self.doCleanups()
        self.assertEqual(left(), {})

    def test_whatever_happens_it_is_taken_back(self):
        """A check that nobody foresaw to fail, and a deploy that ends in the middle."""
        with mock.patch.dict(os.environ, {"AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}):
            trial = Trial(REGION, self.scratch / "dist")
            try:
                trial.check(trial_before.a_bucket_of_its_own)
                trial.make_secrets()
                trial.later(f"the stack {trial.name}", lambda: trial_stack.end(trial))
                with mock.patch.object(Trial, "deploy", side_effect=KeyboardInterrupt), self.assertRaises(KeyboardInterrupt):
                    trial.deploy("deploy")
                trial.later("something that cannot be deleted", lambda: 1 / 0)
            finally:
                trial.clean_up()
        self.assertEqual(trial.wrong, 1)
        self.assertEqual(left(), {})


def left() -> dict[str, list]:
    """What the trial has made and not deleted."""
    session = boto3.Session(region_name=REGION)
    names = {
        "stacks": [one["StackName"] for one in session.client("cloudformation").describe_stacks()["Stacks"] if one["StackStatus"] != "DELETE_COMPLETE"],
        "functions": [one["FunctionName"] for one in session.client("lambda").list_functions()["Functions"]],
        "queues": session.client("sqs").list_queues().get("QueueUrls", []),
        "secrets": [one["Name"] for one in session.client("secretsmanager").list_secrets()["SecretList"]],
        "buckets": [one["Name"] for one in session.client("s3").list_buckets()["Buckets"] if "trial" in one["Name"]],
        "roles": [one["RoleName"] for one in session.client("iam").list_roles()["Roles"] if "trial" in one["RoleName"]],
        "policies": [one["PolicyName"] for one in session.client("iam").list_policies(Scope="Local")["Policies"] if "trial" in one["PolicyName"]],
        "rules": [one["Name"] for one in session.client("events").list_rules()["Rules"]],
    }
    return {kind: found for kind, found in names.items() if found}


if __name__ == "__main__":
    unittest.main()
