"""What is wrong with parameters is told before anything is made. Needs nothing."""

import tempfile
import unittest
from pathlib import Path

import parameters
import template

WHOLE = template.load()
ARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:sluice-AbC1d2"
GIVEN = {"DatabaseSecretArn": ARN, "DatabaseOwnerSecretArn": ARN, "ElasticsearchSecretArn": ARN}


class Problems(unittest.TestCase):
    def problems(self, region: str = "eu-central-1", **more: str) -> list[str]:
        return parameters.problems(WHOLE, GIVEN | more, region)

    def test_what_is_complete_has_none(self):
        self.assertEqual(self.problems(), [])

    def test_all_that_is_missing_or_unknown_is_told_at_once(self):
        told = parameters.problems(WHOLE, {"ElasticsearchSecretArn": ARN, "ElasticSearchUrl": "x"}, "eu-central-1")
        self.assertEqual(len(told), 3)
        for name in ("ElasticSearchUrl", "DATABASE_SECRET_ARN", "DATABASE_OWNER_SECRET_ARN"):
            self.assertTrue(any(name in one for one in told), name)

    def test_a_name_of_the_older_service_is_told_with_what_to_write_and_without_its_value(self):
        secrets = {
            "DATABASE_URL": (["owner", "functions"], "DATABASE_OWNER_SECRET_ARN and DATABASE_SECRET_ARN"),
            "ELASTICSEARCH_URL": (["elasticsearch"], "ELASTICSEARCH_SECRET_ARN"),
            "CLICKHOUSE_HOST": (["clickhouse"], "CLICKHOUSE_SECRET_ARN"),
            "CLICKHOUSE_DATABASE": (["clickhouse"], "CLICKHOUSE_SECRET_ARN"),
            "CLICKHOUSE_USER": (["clickhouse"], "CLICKHOUSE_SECRET_ARN"),
            "CLICKHOUSE_PASSWORD": (["clickhouse"], "CLICKHOUSE_SECRET_ARN"),
        }
        others = {"CDC_POLLING_INTERVAL": "POLL_INTERVAL=100ms", "CDC_BATCH_SIZE": "PAGE_SIZE=2000"}
        with tempfile.TemporaryDirectory() as folder:
            lines = [f"{name}=@s3cret" for name in (*secrets, *others)]  # a password may begin like that
            (Path(folder) / ".env").write_text("\n".join([*lines, "KAFKA_BROKERS=broker:9092"]))
            told = self.problems(**parameters.read(Path(folder) / ".env"))
        self.assertEqual(len(told), len(secrets) + len(others))
        for name, (made, instead) in secrets.items():
            [said] = [one for one in told if one.startswith(f"{name} ")]
            self.assertIn(instead, said)
            for secret in made:
                self.assertIn(f"aws secretsmanager create-secret --name sluice/{secret} --query ARN", said)
        for name, instead in others.items():
            self.assertTrue(any(one.startswith(f"{name} ") and instead in one for one in told), name)
        self.assertNotIn("s3cret", "".join(told))

    def test_a_region_without_function_urls_is_told_with_what_to_set(self):
        for region in ("eu-south-2", "il-central-1"):
            for how in ("token", "iam"):
                self.assertRegex("".join(self.problems(region, AdminUrl=how)), f"no function URLs in {region}.*ADMIN_URL=none")
            self.assertEqual(self.problems(region, AdminUrl="none"), [])
            self.assertRegex("".join(self.problems(region, AdminUrl="none", Demo="true")), "DEMO=false")
            self.assertEqual(self.problems(region, AdminUrl="none", Demo="true", OriginUrl="https://profiles.example.com"), [])

    def test_variables_that_would_not_fit_are_told_by_their_function(self):
        """Bytes, which a letter with an accent has two of."""
        self.assertEqual(self.problems(OriginUrl="https://example.com/" + "e" * 980), [])
        told = self.problems(OriginUrl="https://example.com/" + "\N{LATIN SMALL LETTER E WITH ACUTE}" * 1_960)
        self.assertRegex("".join(told), r"the variables of ingest would have \d,\d+ bytes, and Lambda takes 4,096")

    def test_a_value_is_counted_with_its_name_and_never_as_less_than_it_will_be(self):
        whole = {
            "Globals": {"Function": {"Environment": {"Variables": {"STACK_NAME": {"Ref": "AWS::StackName"}}}}},
            "Resources": {
                "Q": {"Type": "AWS::SQS::Queue"},
                "OneFunction": {
                    "Type": "AWS::Serverless::Function",
                    "Properties": {"Environment": {"Variables": {"A": {"Ref": "P"}, "B": {"Fn::If": ["C", {"Ref": "P"}, "12345"]}, "QUEUE": {"Ref": "Q"}, "N": 1000}}},
                },
            },
        }
        name, queue = "s" * 128, "https://sqs.ap-southeast-1.amazonaws.com/123456789012/" + "q" * 80
        least = len("STACK_NAME" + name + "A" + "pp" + "B" + "12345" + "QUEUE" + queue + "N" + "1000")
        found = parameters.environments(whole, {"P": 2})["one"]
        self.assertGreaterEqual(found, least)
        self.assertLess(found, least + 20)

    def test_a_file_takes_a_text_by_its_path(self):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "url").write_text("https://profiles.example.com")
            (Path(folder) / ".env").write_text(f"# a comment\nDATABASE_SECRET_ARN='{ARN}'\nORIGIN_URL=@{folder}/url\nDATABASE_HOST=\n")
            found = parameters.read(Path(folder) / ".env")
        self.assertEqual(found, {"DatabaseSecretArn": ARN, "OriginUrl": "https://profiles.example.com"})

    def test_a_function_that_is_not_wanted_is_left_out_where_a_condition_is_not_enough(self):
        text = template.FILE.read_text()
        whole = template.load(text)
        none = template.load(template.without_idle_functions(text, {"Demo": "true"}))
        functions, logs = ({f"{target}{part}" for target in ("Clickhouse", "Kafka", "Sync")} for part in ("Function", "Logs"))
        url = {"SyncFunctionUrl", "SyncUrlIsPublic", "SyncIsInvokedByItsUrl", "LiveSyncErrorsAlarm"}
        api = {"SyncApi", "SyncStage", "SyncIntegration", "SyncMessageRoute", "SyncDisconnectRoute", "SyncIsInvokedByItsApi"}
        self.assertEqual(whole["Resources"].keys() - none["Resources"].keys(), functions | logs | url | api)
        self.assertEqual(whole["Outputs"].keys() - none["Outputs"].keys(), functions | {"SyncUrl", "SyncLiveUrl"})
        given = {"Demo": "true", "ClickHouseSecretArn": ARN, "KafkaBrokers": "broker:9092", "Sync": "oidc"}
        self.assertEqual(template.without_idle_functions(text, given), text)

    def test_a_name_is_the_parameters_and_back(self):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / ".env").write_text("CLICKHOUSE_SECRET_ARN=a\nPAGER_TOPIC_ARN=b\n")
            found = parameters.read(Path(folder) / ".env")
        self.assertEqual(list(found), ["ClickHouseSecretArn", "PagerTopicArn"])
        self.assertEqual([parameters.as_written(name) for name in found], ["CLICKHOUSE_SECRET_ARN", "PAGER_TOPIC_ARN"])


if __name__ == "__main__":
    unittest.main()
