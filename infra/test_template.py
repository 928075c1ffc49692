"""What AWS asks of a template and LocalStack does not: sizes in bytes, limits, and values that are refused at once. Needs nothing."""

import os
import re
import unittest
from unittest import mock

from samtranslator.translator.transform import transform

import parameters
import template

WHOLE = template.load()
RESOURCES, PARAMETERS = WHOLE["Resources"], WHOLE["Parameters"]
TEMPLATE_BYTES, MOST_RESOURCES = 1_000_000, 500
ARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:sluice/owner-AbC1d2"
# Of each parameter with a pattern, values that it has to take and to refuse.
DURATION = (["0s", "100ms", "65s", "2m", "168h"], ["65", "1.5s", "-1s", "5 s", "s", "7d", ""])
SECRET = ([ARN, ARN.replace("arn:aws:", "arn:aws-us-gov:")], ["sluice/owner", "", ARN.removesuffix("-AbC1d2"), "arn:aws:sns:eu-central-1:123456789012:pager"])
OPTIONAL_SECRET = ([*SECRET[0], ""], [value for value in SECRET[1] if value])
TOPIC = (["", "arn:aws:sns:eu-central-1:123456789012:pager"], ["pager", ARN])
DOMAIN = "arn:aws:es:eu-central-1:123456789012:domain/search"
VALUES = {
    "DatabaseSecretArn": SECRET, "DatabaseOwnerSecretArn": SECRET, "ElasticsearchSecretArn": SECRET,
    "AdminSecretArn": OPTIONAL_SECRET, "OriginSecretArn": OPTIONAL_SECRET,
    "ClickHouseSecretArn": OPTIONAL_SECRET, "KafkaSecretArn": OPTIONAL_SECRET, "PagerTopicArn": TOPIC, "NoticeTopicArn": TOPIC,
    "IngestSecretArns": (["", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:ingest/*"], ["ingest", "*", "arn:aws:secretsmanager:*:*:secret:*", TOPIC[0][1]]),
    "AccountsSecretArn": OPTIONAL_SECRET,
    "SyncIssuer": (["", "https://issuer.example.com/realms/a"], ["http://issuer.example.com", "issuer", "https://a b"]),
    "SyncOrigins": (["", "https://app.example.com", "http://localhost:5173, https://app.example.com"], ["app.example.com", "https://app.example.com/", "https://a,"]),
    "Stay": DURATION, "PollInterval": DURATION, "Retention": DURATION, "ReReadAfter": DURATION, "SecondLookAfter": DURATION, "SyncInterval": DURATION,
    "SyncRetention": DURATION, "ValidateWithin": DURATION, "KeepPrevious": DURATION,
    "KafkaBrokers": (["", "b-1:9092", "b-1.example.com:9098,b-2.example.com:9098", "[::1]:9092, b:1"], ["b-1", "b-1:", "b-1:9092,", "https://b-1:9092", "u@b-1:9092"]),
    "ElasticsearchDomainArn": (["", DOMAIN, "arn:aws-cn:es:cn-north-1:123456789012:domain/a-1"], ["search", f"{DOMAIN}/*", "arn:aws:aoss:eu-central-1:123456789012:collection/x"]),
    "DatabasePort": (["", "5432"], ["postgres", "-1"]),
    "AdminConcurrency": (["", "5", "1000"], ["0", "-1", "many"]),
    "IndexPrefix": (["", "prod-", "stage_2"], ["Prod", "-prod", "2nd"]),
    "OriginUrl": (["", "https://profiles.example.com/changes?x=1", "http://10.0.0.7"], ["profiles.example.com", "ftp://example.com"]),
    "SyncSchedule": (["rate(1 minute)", "cron(0 12 * * ? *)"], ["1 minute", "rate()", "rate(1 minute"]),
}  # fmt: skip


def holds(assertion: object, given: dict[str, object]) -> bool:
    """A rule's assertion, as CloudFormation evaluates it; the list of nothing is a list of one empty text."""

    def value(part: object) -> object:
        return given[part["Ref"]] if isinstance(part, dict) and "Ref" in part else part

    match assertion:
        case {"Fn::Equals": [left, right]}:
            return value(left) == value(right)
        case {"Fn::EachMemberEquals": [members, wanted]}:
            return all(member == value(wanted) for member in value(members))
        case {"Fn::Not": [one]}:
            return not holds(one, given)
        case {"Fn::And": parts}:
            return all(holds(part, given) for part in parts)
        case {"Fn::Or": parts}:
            return any(holds(part, given) for part in parts)
    raise ValueError(f"{assertion} is no assertion that this test knows")


def refusals(**given: object) -> list[str]:
    """The sentences of the rules that refuse these parameters."""
    values = {
        name: [parameter["Default"]] if parameter["Type"] == "CommaDelimitedList" else parameter.get("Default", "") for name, parameter in PARAMETERS.items()
    } | given
    rules = [rule for rule in WHOLE["Rules"].values() if holds(rule.get("RuleCondition", {"Fn::And": []}), values)]
    return [one["AssertDescription"] for rule in rules for one in rule["Assertions"] if not holds(one["Assert"], values)]


class Sizes(unittest.TestCase):
    def test_the_template_is_ascii_and_small_enough_by_its_url(self):
        content = template.FILE.read_bytes()
        self.assertTrue(content.isascii(), "CloudFormation gives back a question mark for each other character")
        self.assertLess(len(content) + 200 * content.count(b"CodeUri: "), TEMPLATE_BYTES)

    def test_it_makes_fewer_resources_than_a_stack_may_have(self):
        text = re.sub(r"(?<=CodeUri: )\S+", "s3://bucket/key", template.FILE.read_text())
        with mock.patch.dict(os.environ, {"AWS_DEFAULT_REGION": "eu-central-1"}):
            made = transform(template.load(text), {"Tracing": "Active"}, NoPolicies())["Resources"]
        self.assertGreater(len(made), len(RESOURCES))
        self.assertLessEqual(len(made), MOST_RESOURCES)

    def test_the_variables_of_each_function_fit_with_the_longest_values_that_are_allowed(self):
        sizes = parameters.environments(WHOLE, parameters.longest(WHOLE))
        self.assertEqual(set(sizes), set(template.functions(WHOLE)))
        self.assertEqual({name: size for name, size in sizes.items() if size > parameters.ENVIRONMENT_BYTES}, {})

    def test_no_alarm_looks_back_further_than_cloudwatch_does(self):
        for name, resource in RESOURCES.items():
            if resource["Type"] != "AWS::CloudWatch::Alarm":
                continue
            properties = resource["Properties"]
            periods = [properties["Period"]] if "Period" in properties else [one["MetricStat"]["Period"] for one in properties["Metrics"] if "MetricStat" in one]
            count = properties["EvaluationPeriods"]
            count = PARAMETERS[count["Ref"]]["MaxValue"] if isinstance(count, dict) else count
            with self.subTest(name):
                self.assertLessEqual(max(periods) * count, 7 * 86_400 if max(periods) >= 3600 else 86_400)


class NoPolicies:
    """The transform asks for AWS's own policies by their names, and the template names none."""

    def load(self) -> dict:
        return {}


class Told(unittest.TestCase):
    """What is wrong is said before anything is made."""

    def test_each_pattern_takes_what_is_right_and_refuses_what_is_wrong(self):
        patterns = {name: parameter["AllowedPattern"] for name, parameter in PARAMETERS.items() if "AllowedPattern" in parameter}
        self.assertEqual(set(patterns), set(VALUES))
        for name, (right, wrong) in VALUES.items():
            for value in right:
                self.assertRegex(value, patterns[name], name)
            for value in wrong:
                self.assertNotRegex(value, patterns[name], name)

    def test_each_default_is_allowed(self):
        for name, parameter in PARAMETERS.items():
            if "Default" in parameter:
                with self.subTest(name):
                    self.assertIn(parameter["Default"], parameter.get("AllowedValues", [parameter["Default"]]))
                    self.assertRegex(str(parameter["Default"]), parameter.get("AllowedPattern", ".*"))

    def test_logs_are_kept_for_as_many_days_as_cloudwatch_has(self):
        self.assertNotIn(31, PARAMETERS["LogRetentionDays"]["AllowedValues"])
        self.assertIn(30, PARAMETERS["LogRetentionDays"]["AllowedValues"])

    def test_subnets_and_groups_go_together(self):
        here = {"AdminUrl": "none"}
        self.assertEqual(refusals(**here), [])
        self.assertEqual(refusals(**here, SubnetIds=["subnet-1", "subnet-2"], SecurityGroupIds=["sg-1"]), [])
        for half in ({"SubnetIds": ["subnet-1"]}, {"SecurityGroupIds": ["sg-1"]}):
            self.assertRegex("".join(refusals(**here, **half)), "Give both, or neither")

    def test_tokens_need_their_secret(self):
        self.assertRegex("".join(refusals()), "AdminSecretArn is needed")
        self.assertEqual(refusals(AdminSecretArn=ARN), [])


    def test_tokens_of_clients_need_an_issuer_and_accounts_their_secret(self):
        here = {"AdminUrl": "none", "SyncIssuer": "https://issuer.example.com", "SyncAudience": "app"}
        self.assertEqual(refusals(**here, Sync="oidc"), [])
        for missing in ("SyncIssuer", "SyncAudience"):
            self.assertRegex("".join(refusals(**here | {missing: ""}, Sync="oidc")), "Sync needs SyncIssuer and SyncAudience")
        self.assertRegex("".join(refusals(**here, Sync="builtin")), "AccountsSecretArn is needed")
        self.assertEqual(refusals(**here, Sync="builtin", AccountsSecretArn=ARN), [])


class Targets(unittest.TestCase):
    """What stands in the template once for each direct target."""

    def test_all_of_a_target_is_there_with_it_alone(self):
        for target in ("Clickhouse", "Kafka", "Sync"):
            for kind in ("Resources", "Outputs"):
                own = {name: one.get("Condition") for name, one in WHOLE[kind].items() if name.startswith(target)}
                self.assertEqual(set(own.values()), {f"Has{target}"})

    def test_whoever_is_told_of_clickhouse_may_read_its_secret_and_only_where_there_is_one(self):
        only = {"Fn::If": ["HasClickhouse", {"Ref": "ClickHouseSecretArn"}, {"Ref": "AWS::NoValue"}]}
        for name in ("MigrateFunction", "ValidateFunction"):
            own = RESOURCES[name]["Properties"]
            self.assertEqual(own["Environment"]["Variables"]["CLICKHOUSE_SECRET_ARN"], {"Ref": "ClickHouseSecretArn"})
            read = [resource for policy in own["Policies"] for statement in policy.get("Statement", []) for resource in statement["Resource"]]
            self.assertIn(only, read)

    def test_what_stands_twice_is_the_same_but_for_the_targets_name(self):
        text, place = template.FILE.read_text(), re.compile(r"^  # The log -> (ClickHouse|Kafka), without a queue\.\n(.*?)\n\n", re.MULTILINE | re.DOTALL)
        parts = [[re.sub(name, "TARGET", line, flags=re.IGNORECASE) for line in part.splitlines()] for name, part in place.findall(text)]
        clickhouse, kafka = ([line for line in part if not line.strip().startswith(("#", "TARGET_", "MemorySize", "Resource:"))] for part in parts)
        self.assertGreater(len(clickhouse), 80)
        self.assertEqual(clickhouse, kafka)


    def test_the_alarms_of_live_sync_are_those_of_any_target(self):
        for kind in ("Silent", "Lag", "Streams", "Letters"):
            kafka, sync = (dict(RESOURCES[f"{target}{kind}Alarm"]["Properties"]) for target in ("Kafka", "Sync"))
            (told,), (own,) = kafka.pop("AlarmDescription").values(), sync.pop("AlarmDescription").values()
            self.assertEqual(told.partition(". What")[2], own.partition(". What")[2])
            self.assertEqual([dimension["Value"] for dimension in sync["Dimensions"] if dimension["Name"] == "service"], ["sync"])
            self.assertEqual(kafka | {"Dimensions": sync["Dimensions"]}, sync)


class LiveSync(unittest.TestCase):
    def test_the_function_pokes_and_ends_connections_of_its_own_stage_alone(self):
        own = RESOURCES["SyncFunction"]["Properties"]
        stage = RESOURCES["SyncStage"]["Properties"]["StageName"]
        self.assertTrue(own["Environment"]["Variables"]["SYNC_CONNECTIONS_URL"]["Fn::Sub"].endswith(f"/{stage}"))
        [manage] = [one for policy in own["Policies"] for one in policy.get("Statement", []) if one["Action"] == "execute-api:ManageConnections"]
        paths = [resource["Fn::Sub"].partition("${SyncApi}")[2] for resource in manage["Resource"]]
        self.assertEqual(paths, [f"/{stage}/POST/@connections/*", f"/{stage}/DELETE/@connections/*"])
        self.assertTrue(RESOURCES["SyncIsInvokedByItsApi"]["Properties"]["SourceArn"]["Fn::Sub"].endswith(f"/{stage}/*"))

    def test_an_answer_of_its_url_is_a_stream_as_the_code_gives_it(self):
        self.assertEqual(RESOURCES["SyncFunctionUrl"]["Properties"]["InvokeMode"], "RESPONSE_STREAM")


class Domain(unittest.TestCase):
    """A domain of Amazon OpenSearch Service, to which requests are signed."""

    def test_whoever_signs_may_send_to_the_domain_alone_and_only_where_there_is_one(self):
        signers = {name: one["Properties"] for name, one in RESOURCES.items() if "ELASTICSEARCH_AUTH" in one.get("Properties", {}).get("Environment", {}).get("Variables", {})}
        self.assertEqual(set(signers), {"MigrateFunction", "IndexerFunction", "ValidateFunction", "AdminFunction"})
        for name, own in signers.items():
            self.assertEqual(own["Environment"]["Variables"]["ELASTICSEARCH_AUTH"], {"Fn::If": ["HasDomain", "iam", "secret"]})
            [(condition, policy, otherwise)] = [one["Fn::If"] for one in own["Policies"] if "Fn::If" in one]
            [statement] = policy["Statement"]
            with self.subTest(name):
                self.assertEqual((condition, otherwise), ("HasDomain", {"Ref": "AWS::NoValue"}))
                self.assertEqual(statement["Resource"], {"Fn::Sub": "${ElasticsearchDomainArn}/*"})
                self.assertLessEqual(set(statement["Action"]), {f"es:ESHttp{method}" for method in ("Get", "Put", "Post", "Delete")})


class Loops(unittest.TestCase):
    def test_a_function_that_sends_to_its_own_queue_may(self):
        """Else Lambda refuses whole batches, once sixteen invocations of one lineage are counted: the simulation shows it."""
        sources = {one["Properties"]["FunctionName"]["Ref"]: one["Properties"]["EventSourceArn"] for one in RESOURCES.values() if one["Type"].endswith("EventSourceMapping")}
        for name, queue in sources.items():
            sent_to = [
                resource
                for policy in RESOURCES[name]["Properties"]["Policies"]
                for statement in policy.get("Statement", [])
                if "sqs:SendMessage" in statement["Action"]
                for resource in statement["Resource"]
            ]
            if queue in sent_to:
                self.assertEqual(RESOURCES[name]["Properties"].get("RecursiveLoop"), "Allow", name)
        self.assertIn("IndexerFunction", sources)


if __name__ == "__main__":
    unittest.main()
