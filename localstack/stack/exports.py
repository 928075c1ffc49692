"""What `make env` prints: the addresses and the test credentials of a stack."""

import board
import cloud
import functions
import postgres
import sluice
from choices import targets
from layout import Stack

# The deploy's outputs that tests and tools want, by the names that the functions know them by.
DEPLOYED = {
    "QUEUE_URL": "QueueUrl",
    "DEAD_LETTER_QUEUE_URL": "DeadLetterQueueUrl",
    "TRIGGER_FUNCTION": "TriggerFunction",
    "INDEXER_FUNCTION": "IndexerFunction",
    "MIGRATE_FUNCTION": "MigrateFunction",
    "ADMIN_FUNCTION": "AdminFunction",
    "INGEST_FUNCTION": "IngestFunction",
    "VALIDATE_FUNCTION": "ValidateFunction",
    "CLICKHOUSE_FUNCTION": "ClickhouseFunction",
    "KAFKA_FUNCTION": "KafkaFunction",
    "DATABASE_SECRET_ARN": "DatabaseSecretArn",
    "DATABASE_OWNER_SECRET_ARN": "DatabaseOwnerSecretArn",
    "ELASTICSEARCH_SECRET_ARN": "ElasticsearchSecretArn",
    "CLICKHOUSE_SECRET_ARN": "ClickHouseSecretArn",
}


def of(stack: Stack) -> dict[str, str]:
    """By variable; what is not deployed yet is left out."""
    found = {
        "SLUICE_STACK": stack.name,  # for tests that stop a server and start it again
        "SLUICE_RUN": stack.run or "functions",
        "DATABASE_URL": stack.database_url,
        "DATABASE_CA_FILE": str(stack.tls / "ca.pem"),
        "ELASTICSEARCH_URL": stack.elasticsearch_url,
    }
    for target in targets(stack):
        found |= target.client_env(stack)
    if not stack.facts.get("docker"):
        found["POSTGRES_BIN"] = str(postgres.install(stack))
    if stack.facts.get("live"):
        found |= {"SYNC_URL": sluice.sync_url(stack), "BOARD_URL": board.url(stack)}
    if stack.run != sluice.DIRECT:
        found |= cloud.client_env(stack)
    return found | (sluice.client_env(stack) if stack.run else _deployed(stack))


def _deployed(stack: Stack) -> dict[str, str]:
    outputs = functions.outputs(stack)
    found = {name: outputs[key] for name, key in DEPLOYED.items() if key in outputs}
    if not stack.facts.get("docker"):
        found["FUNCTIONS_LOGS"] = str(cloud.functions_logs(stack))
    if "AdminFunction" in outputs:
        found |= {"ADMIN_URL": cloud.admin_url(stack), "ADMIN_TOKEN": stack.password("operator"), "ADMIN_READ_TOKEN": stack.password("reader")}
    return found
