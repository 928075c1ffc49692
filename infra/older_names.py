"""Names that an older CDC service has in its `.env`. On AWS logins are in Secrets Manager: each name is told with what to write instead,
and never with its value, which may hold a password."""


def _secret(name: str, fields: str) -> str:
    """The command that makes it."""
    return f"\n      aws secretsmanager create-secret --name sluice/{name} --query ARN --output text --secret-string \\\n        '{fields}'"


def _login(name: str) -> str:
    return f'{{"username": "{name}", "password": "PASSWORD", "host": "HOST", "port": 5432, "dbname": "DATABASE"}}'


def _of_clickhouse(field: str) -> str:
    fields = '{"url": "https://HOST:8443", "username": "USER", "password": "PASSWORD", "database": "DATABASE"}'
    return f"put it into ClickHouse's secret as {field}, and set CLICKHOUSE_SECRET_ARN to its ARN:{_secret('clickhouse', fields)}"


# By the name of a parameter, as parameters.read has it.
INSTEAD = {
    "DatabaseUrl": "make two secrets, and set DATABASE_OWNER_SECRET_ARN and DATABASE_SECRET_ARN to their ARNs:"
    + _secret("owner", _login("sluice_owner")) + _secret("functions", _login("sluice_functions")),
    "ElasticsearchUrl": "make a secret, and set ELASTICSEARCH_SECRET_ARN to its ARN:"
    + _secret("elasticsearch", '{"url": "https://HOST:9200", "username": "USER", "password": "PASSWORD"}'),
    "ClickHouseHost": _of_clickhouse('"url"'),
    "ClickHouseDatabase": _of_clickhouse('"database"'),
    "ClickHouseUser": _of_clickhouse('"username"'),
    "ClickHousePassword": _of_clickhouse('"password"'),
    "CdcPollingInterval": "write POLL_INTERVAL, with a unit and 5s at most, as in POLL_INTERVAL=100ms",
    "CdcBatchSize": "write PAGE_SIZE, from 1 to 10000, as in PAGE_SIZE=2000",
}  # fmt: skip
