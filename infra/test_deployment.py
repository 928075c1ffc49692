"""What a deploy does where AWS behaves as LocalStack never does: pages of events, functions that sleep, silent connections.

Needs nothing: AWS's answers are made up, as its documentation has them.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import unittest
from argparse import Namespace
from base64 import b64encode
from contextlib import redirect_stderr, redirect_stdout
from hashlib import sha256
from io import BytesIO, StringIO
from pathlib import Path
from unittest import mock

import boto3
from botocore.stub import ANY, Stubber

import deploy
import validation
from bucket import Bucket, BucketRefused

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "localstack" / "stack"))

import artifacts  # noqa: E402
import commands  # noqa: E402
import functions  # noqa: E402
from console import Failure  # noqa: E402

HERE = {"AWS_DEFAULT_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
CODE_SHA256 = b64encode(sha256(b"code").digest()).decode()
STACK_ID = "arn:aws:cloudformation:eu-central-1:123456789012:stack/sluice-prod/1"


class Made(unittest.TestCase):
    """A deployment whose clients are told AWS's answers."""

    @classmethod
    def setUpClass(cls):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        cls.enterClassContext(mock.patch.dict(os.environ, kept | HERE, clear=True))
        cls.clients = {name: boto3.client(name) for name in ("cloudformation", "lambda", "logs", "s3", "sqs", "sts")}

    def setUp(self):
        self.stubs = {name: self.enterContext(Stubber(client)) for name, client in self.clients.items()}
        self.words = self.enterContext(redirect_stderr(StringIO()))
        self.answer("sts", "get_caller_identity", {"Account": "123456789012"})
        self.enterContext(mock.patch("boto3.client", lambda service, **_: self.clients[service]))
        self.enterContext(mock.patch("deploy.lambda_client", lambda: self.clients["lambda"]))
        self.deployment = deploy.Deployment(Namespace(stack="sluice-prod", steps=["deploy"], bucket=None))

    def answer(self, service: str, call: str, answer: dict, asked: dict | None = None) -> None:
        self.stubs[service].add_response(call, answer, asked)


def event(number: int, name: str, status: str, reason: str = "") -> dict:
    """The stack's own events have its id as the physical one."""
    told = {"StackId": STACK_ID, "EventId": str(number), "StackName": "sluice-prod", "Timestamp": 1_790_000_000 + number, "LogicalResourceId": name}
    physical = STACK_ID if name == "sluice-prod" else f"{name}-1"
    return told | {"PhysicalResourceId": physical, "ResourceStatus": status} | ({"ResourceStatusReason": reason} if reason else {})


class Events(Made):
    def test_each_failure_of_this_operation_is_told_the_first_one_first_however_many_pages_follow(self):
        happened = [
            event(1, "sluice-prod", "CREATE_IN_PROGRESS"), event(2, "Old", "CREATE_FAILED", "an earlier deploy"), event(3, "sluice-prod", "ROLLBACK_COMPLETE"),
            event(4, "sluice-prod", "UPDATE_IN_PROGRESS"), event(5, "TriggerLogs", "UPDATE_FAILED", "31 is no number of days"),
            event(6, "Queue", "UPDATE_FAILED", "Resource update cancelled"), event(7, "sluice-prod", "UPDATE_ROLLBACK_IN_PROGRESS"),
            *(event(8 + number, f"Alarm{number}", "UPDATE_COMPLETE") for number in range(250)),
            event(300, "sluice-prod", "UPDATE_ROLLBACK_COMPLETE"),
        ]  # fmt: skip
        newest_first = happened[::-1]
        pages = [newest_first[first : first + 100] for first in range(0, len(newest_first), 100)]
        for number, page in enumerate(pages):
            self.answer("cloudformation", "describe_stack_events", {"StackEvents": page} | ({"NextToken": str(number)} if number < len(pages) - 1 else {}))
        told = [(one["LogicalResourceId"], one["ResourceStatusReason"]) for one in self.deployment._failed_events()]
        self.assertEqual(told, [("TriggerLogs", "31 is no number of days"), ("Queue", "Resource update cancelled")])

    def test_a_state_that_no_deploy_leads_out_of_is_told_with_what_does(self):
        for status, remedy in (("ROLLBACK_FAILED", "make destroy"), ("DELETE_FAILED", "make destroy"), ("UPDATE_ROLLBACK_FAILED", "continue-update-rollback --stack-name sluice-prod")):
            stack = {"StackName": "sluice-prod", "CreationTime": 0, "StackStatus": status}
            self.answer("cloudformation", "describe_stacks", {"Stacks": [stack]})
            with self.assertRaisesRegex(SystemExit, f"is in {status}: .*{remedy}"):
                self.deployment._change_set_type()


class Buckets(Made):
    """Where the code is put."""

    def bucket(self, *answers: str | None, name: str | None = None) -> Bucket:
        """Made where S3 answers a look for it so, and each later request with success."""
        stub = self.stubs["s3"]
        for code in answers:
            if code:
                stub.add_client_error("head_bucket", code, http_status_code=int(code))
            else:
                stub.add_response("head_bucket", {}, {"Bucket": name or "sluice-code-123456789012-eu-central-1", "ExpectedBucketOwner": "123456789012"})
        if "404" in answers:
            stub.add_response("create_bucket", {})
        made = Bucket(name, "123456789012")
        stub.assert_no_pending_responses()
        return made

    def test_one_that_is_there_is_used_and_not_made(self):
        self.assertEqual(self.bucket(None).name, "sluice-code-123456789012-eu-central-1")
        self.assertEqual(self.bucket(None, name="ours").name, "ours")

    def test_one_that_is_not_there_is_made(self):
        self.bucket("404")

    def test_one_of_another_account_is_refused(self):
        with self.assertRaisesRegex(BucketRefused, "another account's.*BUCKET="):
            self.bucket("403")

    def test_what_another_put_there_under_a_known_hash_is_put_anew(self):
        for planted in ({"ChecksumSHA256": "cGxhbnRlZA=="}, {}):  # with another content, or in a way without a checksum
            bucket = self.bucket(None)
            owned = {"Bucket": bucket.name, "Key": ANY, "ExpectedBucketOwner": "123456789012"}
            self.stubs["s3"].add_response("head_object", planted, {**owned, "ChecksumMode": "ENABLED"})
            self.stubs["s3"].add_response("put_object", {}, {**owned, "Body": b"code", "ChecksumSHA256": CODE_SHA256})
            self.assertEqual(bucket.put(b"code", ".zip")[1], True)
            self.stubs["s3"].assert_no_pending_responses()

    def test_what_is_there_with_its_own_checksum_is_not_put_again(self):
        bucket = self.bucket(None)
        self.stubs["s3"].add_response("head_object", {"ChecksumSHA256": CODE_SHA256})
        self.assertEqual(bucket.put(b"code", ".zip")[1], False)


class Logs(Made):
    def test_a_log_group_that_late_lines_made_anew_is_deleted_again(self):
        self.answer("logs", "delete_log_group", {}, {"logGroupName": "sluice-prod-TriggerLogs-1"})
        self.stubs["logs"].add_client_error("delete_log_group", "ResourceNotFoundException")
        self.deployment._delete_what_came_back(["sluice-prod-TriggerLogs-1", "sluice-prod-AdminLogs-1"])
        self.stubs["logs"].assert_no_pending_responses()
        self.assertIn("sluice-prod-TriggerLogs-1 was made anew", self.words.getvalue())
        self.assertNotIn("AdminLogs", self.words.getvalue())


class Functions(Made):
    def test_a_function_that_slept_for_weeks_is_waited_for_and_invoked_again(self):
        self.stubs["lambda"].add_client_error("invoke", "ResourceNotReadyException")
        self.answer("lambda", "get_function", {"Configuration": {"State": "Active"}})
        self.answer("lambda", "invoke", {"StatusCode": 200})
        self.assertEqual(self.deployment._invoke("migrate", {"command": "migrate"})["StatusCode"], 200)
        self.stubs["lambda"].assert_no_pending_responses()
        self.assertIn("inactive", self.words.getvalue())

    def test_a_rebase_is_invoked_until_it_has_finished(self):
        stack = {"StackName": "sluice-prod", "CreationTime": 0, "StackStatus": "UPDATE_COMPLETE", "Outputs": [{"OutputKey": "MigrateFunction", "OutputValue": "migrate"}]}
        for told in ({"finished": False, "lines": ["to be continued"]}, {"finished": False, "lines": []}, {"finished": True, "lines": ["that is all"]}):
            self.answer("cloudformation", "describe_stacks", {"Stacks": [stack]})
            payload = json.dumps({"ok": True, **told}).encode()
            self.answer("lambda", "invoke", {"StatusCode": 200, "Payload": BytesIO(payload)}, {"FunctionName": "migrate", "Payload": '{"command": "rebase"}'})
        self.deployment.invoke_migrate("rebase")
        self.stubs["lambda"].assert_no_pending_responses()
        self.assertRegex(self.words.getvalue(), "(?s)to be continued.*that is all")


def row(stream: str, verdict: str | None = "equal", state: str = "done", classes: tuple = (), **more) -> dict:
    """Of the validate function's answer; a class is its name, its state, how many, and some keys."""
    told = {"stream": stream, "subscription": "elasticsearch", "state": state, "repair": False, "dry_run": False, "by": "make validate", "checked": 1_200,
            "walked": 1_198, "printed_differently": 0, "repaired": 0, "verdict": verdict, "problem": None, "begun_at": None, "updated_at": None, "verdict_at": None}  # fmt: skip
    found = [dict(zip(("class", "state", "count", "keys"), one)) for one in classes]
    return told | {"classes": found} | more


class Validations(Made):
    """What `make validate` asks, what it says, and when it fails."""

    def setUp(self):
        super().setUp()
        self.enterContext(mock.patch.object(deploy, "PACE_S", 0))
        self.printed = self.enterContext(redirect_stdout(StringIO()))
        outputs = [{"OutputKey": "ValidateFunction", "OutputValue": "validate"}]
        self.stack = {"StackName": "sluice-prod", "CreationTime": 0, "StackStatus": "UPDATE_COMPLETE", "Outputs": outputs}
        self.answer("cloudformation", "describe_stacks", {"Stacks": [self.stack]})

    def told(self, asked: dict, answer: dict, **more: str) -> None:
        payload = BytesIO(json.dumps(answer).encode())
        self.answer("lambda", "invoke", {"StatusCode": 200, "Payload": payload, **more}, {"FunctionName": "validate", "Payload": json.dumps(asked)})

    def validate(self, *rounds: list[dict], stream: str | None = None, target: str | None = None, repair: bool = False, dry_run: bool = False) -> None:
        """With these answers, of which the last one is that it has finished."""
        names = [one["stream"] for one in rounds[-1]]
        named = {"target": target} if target else {}
        self.deployment.step = "validate"
        self.deployment.arguments = Namespace(stream=stream, target=target, repair=repair, dry_run=dry_run)
        self.told({"command": "begin", "stream": stream, "repair": repair, "dry_run": dry_run, "actor": "make validate"} | named, {"streams": names})
        for number, rows in enumerate(rounds, 1):
            self.told({"command": "go_on", "streams": names} | named, {"finished": number == len(rounds), "streams": rows})
        self.deployment.validate()
        self.stubs["lambda"].assert_no_pending_responses()

    def fails(self, *rounds: list[dict], **options) -> str:
        """The words with which it fails."""
        with self.assertRaises(SystemExit) as failed:
            self.validate(*rounds, **options)
        return str(failed.exception)

    def test_a_round_is_gone_on_with_until_it_has_finished_and_a_line_says_what_moved(self):
        waits = row("authors", None, "confirming", problem="somebody holds a lock")
        self.validate(
            [row("books", None, "source", checked=200, walked=0), waits], [row("books", None, "source", checked=200, walked=0), waits],
            [row("books", None, "index", classes=(("missing", "candidate", 2, ["1", "2"]),)), waits], [row("books"), row("authors")],
        )  # fmt: skip
        lines = [line for line in self.words.getvalue().splitlines() if " books: " in line]
        self.assertEqual([line.split(": ")[1].split(",")[0] for line in lines], ["source", "index", "done"])
        self.assertIn("1,200 compared, 1,198 of the target, 2 differences so far", lines[1])
        self.assertIn("authors: confirming, 1,200 compared, 1,198 of the target, 0 differences so far, and waits: somebody holds a lock", self.words.getvalue())
        self.assertIn("nothing is left to do", self.words.getvalue())
        lines = [line.split()[:4] for line in self.printed.getvalue().splitlines()[1:]]
        self.assertEqual(lines, [["books", "elasticsearch", "equal", "1,200"], ["authors", "elasticsearch", "equal", "1,200"]])

    def test_each_target_has_its_own_progress_line_notes_and_faults(self):
        there = {"subscription": "clickhouse"}
        found = (("missing", "confirmed", 2, ["1", "2"]), ("waiting", "confirmed", 5, []))
        words = self.fails(
            [row("books", None, "source", checked=200), row("books", None, "source", checked=300, **there)],
            [row("books", None, "source", checked=200), row("books", None, "index", **there)],
            [row("books", repaired=1), row("books", "different", classes=found, problem="it is full", **there)],
        )  # fmt: skip
        lines = [line.split()[1:] for line in self.words.getvalue().splitlines() if " compared, " in line]
        self.assertEqual([(" ".join(line).split(",")[0]) for line in lines], [
            "books: source", "books in clickhouse: source", "books in clickhouse: index", "books: done", "books in clickhouse: done",
        ])  # fmt: skip
        self.assertIn("books: 1 are repaired", self.words.getvalue())
        self.assertIn("books in clickhouse: 5 wait for an index, or a table", self.words.getvalue())
        self.assertRegex(words, "^validate +books in clickhouse differs from its source: 2 missing\nvalidate +books in clickhouse: it is full\n")
        self.assertEqual([line.split()[:3] for line in self.printed.getvalue().splitlines()[1:3]], [["books", "elasticsearch", "equal"], ["books", "clickhouse", "different"]])

    def test_a_target_is_asked_for_and_one_that_cannot_be_compared_is_told_by_the_functions_words(self):
        self.validate([row("books", subscription="clickhouse")], stream="books", target="clickhouse")
        self.deployment.arguments = Namespace(stream=None, target="kafka", repair=False, dry_run=False)
        self.answer("cloudformation", "describe_stacks", {"Stacks": [self.stack]})
        asked = {"command": "begin", "stream": None, "repair": False, "dry_run": False, "actor": "make validate", "target": "kafka"}
        self.told(asked, {"errorType": "Error", "errorMessage": "streams cannot be compared with what kafka has"}, FunctionError="Unhandled")
        with self.assertRaisesRegex(SystemExit, "^validate: streams cannot be compared with what kafka has$"):
            self.deployment.validate()

    def test_one_stream_is_asked_for_with_what_was_said(self):
        self.validate([row("books", repair=True)], stream="books", repair=True)

    def test_what_is_confirmed_and_not_repaired_fails(self):
        for name in ("missing", "stale", "extra", "unreadable", "version_ahead", "untracked"):
            for state in ("confirmed", "repairing", "stuck"):
                with self.subTest(name, state=state):
                    found = validation.faults([row("books", "different", classes=((name, state, 12, ["7"]),))])
                    self.assertEqual(found, [f"books differs from its source: 12 {name}"])
            for state in ("candidate", "repaired"):
                self.assertEqual(validation.faults([row("books", "different", classes=((name, state, 12, ["7"]),))]), [])

    def test_it_fails_with_a_table_of_streams_and_classes(self):
        found = (("missing", "confirmed", 12, [str(key) for key in range(10)]), ("stale", "stuck", 1, ['["7", "Leipzig"]']), ("extra", "repaired", 3, ["a", "b", "c"]))
        words = self.fails([row("books", "different", classes=found), row("authors")])
        self.assertIn("books differs from its source: 12 missing, 1 stale\n", words)
        self.assertRegex(words, "docs/runbooks.md#differencesalarm$")
        self.assertEqual(self.printed.getvalue(), """\
stream   target         verdict    compared  in the target  class    state      count  keys
books    elasticsearch  different     1,200          1,198  missing  confirmed     12  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …
                                                            stale    stuck          1  ["7", "Leipzig"]
                                                            extra    repaired       3  a, b, c
authors  elasticsearch  equal         1,200          1,198
""")  # fmt: skip

    def test_a_key_says_nothing_to_the_terminal(self):
        self.assertIn(r"'\x1b[2J'", validation.table([row("books", classes=(("missing", "confirmed", 1, ["\x1b[2J"]),))]))

    def test_what_is_explained_is_told_and_no_failure(self):
        explained = (("dead_lettered", "confirmed", 2, ["1", "2"]), ("waiting", "confirmed", 5_000, []))
        self.validate([row("books", "different", classes=explained, printed_differently=3, repaired=4)])
        for words in ("2 cannot be written", "5,000 wait for an index", "3 documents are written in another way", "4 are repaired"):
            self.assertIn(f"books: {words}", self.words.getvalue())

    def test_a_stream_with_nothing_to_compare_is_no_failure_and_one_that_cannot_be_compared_is(self):
        for problem in ("its documents come from sluice.emit, so there is no source", "it has no index yet: run migrate", "it has no table yet: run migrate"):
            self.assertEqual(validation.faults([row("books", "not compared", problem=problem)]), [])
            self.assertEqual(validation.notes([row("books", "not compared", problem=problem)]), [f"books: {problem}"])
        words = "permission denied for view book_documents"
        self.assertEqual(validation.faults([row("books", "not compared", problem=words)]), [f"books was not compared: {words}"])

    def test_a_dry_run_says_what_it_would_repair_and_fails(self):
        found = (("missing", "confirmed", 2, ["1", "2"]), ("untracked", "confirmed", 1, ["3"]))
        words = self.fails([row("books", "different", classes=found, repair=True, dry_run=True)], repair=True, dry_run=True)
        self.assertIn("books differs from its source: 2 missing, 1 untracked", words)
        self.assertIn("books: would be repaired: 2 missing. DRY_RUN=1, so nothing was written", self.words.getvalue())

    def test_a_stream_that_is_not_there_is_told_by_the_functions_words(self):
        self.deployment.step = "validate"
        self.deployment.arguments = Namespace(stream="bocks", target=None, repair=False, dry_run=False)
        asked = {"command": "begin", "stream": "bocks", "repair": False, "dry_run": False, "actor": "make validate"}
        self.told(asked, {"errorType": "Error", "errorMessage": "there is no stream bocks"}, FunctionError="Unhandled")
        with self.assertRaisesRegex(SystemExit, "^validate: there is no stream bocks$"):
            self.deployment.validate()


class Connections(unittest.TestCase):
    def test_a_long_migrate_keeps_its_connection_alive(self):
        """By what the kernel says of the connection while nobody answers."""
        with socket.create_server(("127.0.0.1", 0)) as server, mock.patch.dict(os.environ, HERE | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.getsockname()[1]}"}):
            client = deploy.lambda_client()
            caller = threading.Thread(target=lambda: client.invoke(FunctionName="migrate", Payload=b"{}"), daemon=True)
            caller.start()
            connection, (_, port) = server.accept()
            with connection:
                connection.recv(65536)
                self.assertLessEqual(keep_alive_s(port, server.getsockname()[1]), 60)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            caller.join(timeout=30)
            self.assertFalse(caller.is_alive())


def keep_alive_s(port: int, remote_port: int) -> float:
    """Until the kernel asks whether the other side of the local connection between these ports is there. Another one may have left
    the first of them a moment ago, and what was sent may not be acknowledged yet."""
    deadline, kind = time.monotonic() + 60, "none"
    while time.monotonic() < deadline:
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if [int(end.rpartition(":")[2], 16) for end in fields[1:3]] == [port, remote_port]:
                kind, left = fields[5].split(":")
                if kind == "02":
                    return int(left, 16) / os.sysconf("SC_CLK_TCK")
        time.sleep(0.01)
    raise AssertionError(f"the timer of the connection is {kind}, and should be 02, that of keep-alive")


class Shell(unittest.TestCase):
    """What a deploy to AWS takes of the shell."""

    def test_a_shell_that_was_set_up_for_a_local_stack_takes_no_deploy_there(self):
        local = {"AWS_ENDPOINT_URL": "http://127.0.0.1:4566", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:4566", "AWS_PROFILE": "prod"}
        for run in (lambda: commands.destroy({"STAGE": "prod", "YES": "sluice-prod"}), lambda: commands.migrate({"STAGE": "prod"})):
            with mock.patch.dict(os.environ, local), mock.patch.object(functions.subprocess, "run") as called, mock.patch.object(functions.packages, "install"):
                called.return_value.returncode = 0
                run()
            env = called.call_args.kwargs["env"]
            self.assertEqual({name for name in env if name.startswith("AWS_ENDPOINT_URL")}, set())
            self.assertEqual(env["AWS_PROFILE"], "prod")

    def test_a_validation_is_asked_for_by_its_arguments_and_others_are_refused(self):
        with mock.patch.object(functions, "on_aws") as called:
            commands.validate({"STAGE": "prod"})
            commands.validate({"STAGE": "prod", "STREAM": "books", "TARGET": "clickhouse", "REPAIR": "1", "DRY_RUN": "1"})
            for argument in ("REPAIR", "DRY_RUN"):
                with self.assertRaisesRegex(Failure, f"{argument}=0: say {argument}=1, or leave it out"):
                    commands.validate({"STAGE": "prod", argument: "0"})
        self.assertEqual([call.args for call in called.call_args_list], [("sluice-prod", "validate"), ("sluice-prod", "validate", "--stream=books", "--target=clickhouse", "--repair", "--dry-run")])

    def test_the_bucket_of_the_code_may_be_named(self):
        with mock.patch.object(functions, "on_aws") as called, mock.patch.object(functions.artifacts, "open_folder"):
            functions.deploy_on_aws("sluice-prod", Path(__file__), Path("dist"), "arm64", "ours")
        arguments = list(called.call_args.args)
        self.assertEqual(arguments[arguments.index("--bucket") + 1], "ours")

    def test_without_credentials_nothing_is_built_and_the_remedy_is_told(self):
        nobody = {"AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_CONFIG_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true"}
        others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        asked = (
            lambda: functions.deploy_on_aws("sluice-prod", Path(__file__), None, "arm64", ""),
            lambda: commands.trial({"REGION": "eu-central-1"}),
        )
        for ask in asked:
            with mock.patch.dict(os.environ, others | nobody, clear=True), mock.patch.object(functions.packages, "install", return_value=sys.executable):
                with mock.patch.object(functions.artifacts, "build") as built, mock.patch.object(commands, "release", built):
                    self.assertRaisesRegex(Failure, "nothing was built", ask)
            built.assert_not_called()
        found = subprocess.run([sys.executable, functions.ACCOUNT], env=others | nobody | {"AWS_REGION": "eu-central-1"}, capture_output=True, text=True)
        self.assertEqual(found.returncode, 1)
        self.assertRegex(found.stderr, "^AWS does not say whose account this is: .* set AWS_PROFILE and AWS_REGION")


class Built(unittest.TestCase):
    def test_the_functions_have_nothing_that_the_one_binary_alone_wants(self):
        """Cargo gives a library all that anybody wants of it, of those who are built together."""
        tree = ["cargo", "tree", "--locked", "--edges", "normal", "--prefix", "none"]
        built = lambda *chosen: subprocess.run([*tree, *chosen], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout  # noqa: E731
        for name in ("hickory-resolver", "otlp"):
            self.assertIn(f"\n{name} v", built("--package", "sluice"))
            self.assertNotIn(f"\n{name} v", built(*artifacts.selection(functions.NAMES)))


if __name__ == "__main__":
    unittest.main()
