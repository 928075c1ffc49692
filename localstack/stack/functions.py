"""Builds the functions for this machine, places their binaries, deploys them here and on AWS, and runs migrations."""

import json
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import artifacts
import clickhouse
import cloud
import env_local
import image
import kafka
import npm
import packages
import postgres
import search
from console import Failure, run, say, timed, together
from layout import CACHE, REPOSITORY, TARGET, Stack, lock

# All but the binary that has the others' libraries, which is no function.
# Those that are a function of Lambda, too.
NAMES = sorted(main.parts[-3] for main in (REPOSITORY / "functions").glob("*/src/main.rs") if main.parts[-3] != image.BINARY)
PLACE = TARGET / "lambda"
DEPLOY = REPOSITORY / "infra" / "deploy.py"
# The migrations make the role; who is in it is the operator's to say.
GRANT = "SELECT format('GRANT %s TO sluice_functions', app) FROM sluice.roles \\gexec\n"
TRIAL = REPOSITORY / "infra" / "try_on_aws.py"
ACCOUNT = REPOSITORY / "infra" / "account.py"
AWS_STACK = "sluice"  # the CloudFormation stack's name in LocalStack; each of our stacks has a LocalStack of its own


def build(stack: Stack | None = None) -> None:
    """What a stack runs, or all. The dashboard's page is beside the functions: in the dev profile it is read, not built in."""
    (npm.DASHBOARD / "dist").mkdir(exist_ok=True)  # it has to be there when the compiler comes by, which may be before the page is made
    together(npm.build, partial(_compile, _names(stack)))


def _names(stack: Stack | None) -> list[str]:
    """Binaries. LocalStack has no API for live sync; a newcomer waits for nothing else that is not deployed."""
    if not stack or stack.is_for_tests:
        return [*NAMES, image.BINARY]
    if stack.run:
        return [image.BINARY]
    return [name for name in NAMES if name not in ("sync", clickhouse.NAME, kafka.NAME) or name in stack.targets]


@timed("functions")
def _compile(names: list[str]) -> None:
    """Compiles in the dev profile, and places each function's binary as the `bootstrap` of a folder."""
    # Of the whole workspace, as the tests are: cargo chooses features by what is built together, and would build twice.
    command = ["cargo", "build", "--workspace", *(part for name in names for part in ("--bin", name))]
    with lock(PLACE, "building the functions"):
        env = os.environ | {"CARGO_TARGET_DIR": str(TARGET)}
        run("functions", f"building {', '.join(names)}", command, CACHE / "build.log", lines=60, cwd=REPOSITORY, env=env)
        for name in names:
            if name in NAMES:
                _place(TARGET / "debug" / name, PLACE / name / "bootstrap")


def _place(binary: Path, bootstrap: Path) -> None:
    if bootstrap.exists() and bootstrap.stat().st_mtime > binary.stat().st_mtime:
        return
    bootstrap.parent.mkdir(parents=True, exist_ok=True)
    scratch = bootstrap.with_suffix(".new")
    # Line tables are three quarters of the file, and nobody reads them out of a zip.
    if not shutil.which("strip") or subprocess.run(["strip", "-o", scratch, binary], capture_output=True).returncode:
        shutil.copyfile(binary, scratch)
    scratch.chmod(0o755)
    scratch.rename(bootstrap)


@timed("deploy")
def deploy(stack: Stack, release: Path | None = None) -> None:
    """Secrets, template, migrations; then the functions' login may do what the functions need, and the trigger starts."""
    if release:
        template = artifacts.open_folder(release)
        artifacts.require_own_architecture(template)
        code = ["--template", template]
    else:
        code = ["--functions", PLACE, *settings(artifacts.own_architecture())]
    given, wanted = _parameters(stack), own_secrets(stack)
    if (deployed := outputs(stack)) and (given | wanted).keys() - deployed.keys():
        say("localstack", "begins anew: it cannot add a target's function to what it has deployed")
        cloud.stop(stack)
        cloud.wait(stack, cloud.start(stack))
    files = write_parameters(stack, given, wanted)
    _run_deploy(stack, "deploy", "migrate", *files, *code, "--outputs", stack.outputs_file)
    postgres.psql(stack, GRANT)
    _run_deploy(stack, "start")


def settings(arch: str) -> list[str]:
    """What the code is, as options of the deploy."""
    return [part for name, value in artifacts.facts(arch).items() for part in ("--set", f"{name}={value}")]


def announce(stack: Stack, admin_url: str) -> None:
    """Where operators look."""
    say("dashboard", f"{admin_url}   sign in with the ADMIN_TOKEN of: make env{stack.argument}")


def write_parameters(stack: Stack, parameters: dict, secrets_by_parameter: dict) -> list:
    """The files that the deploy reads, as its options. The demo's domain is part of every local stack, and so is an ingest
    from its origin; both the ingest and the validator leave the tests alone until they are asked."""
    options = []
    own = {"SyncSchedule": "rate(1 day)", "ValidateWithin": "0s"} if stack.is_for_tests else env_local.parameters()
    parameters = parameters | {"Demo": "true"} | own
    for name, content in {"parameters": parameters, "secrets": secrets_by_parameter}.items():
        file = stack.folder / "localstack" / f"{name}.json"
        file.parent.mkdir(exist_ok=True)
        file.touch(0o600)
        file.write_text(json.dumps(content))
        options += [f"--{name}", file]
    return options


def run_migrate(stack: Stack, command: str) -> None:
    """The migrate function's code, from a shell: the same binary, told the same."""
    deployed = outputs(stack)
    if not deployed:
        raise Failure(f"nothing is deployed, so there are no secrets to read: make up{stack.argument}")
    build(stack)
    env = cloud.clean_env(stack) | {
        "DATABASE_SECRET_ARN": deployed["DatabaseOwnerSecretArn"],
        "ELASTICSEARCH_SECRET_ARN": deployed["ElasticsearchSecretArn"],
        "CLICKHOUSE_SECRET_ARN": deployed.get("ClickHouseSecretArn", ""),
        "KAFKA_BROKERS": deployed.get("KafkaBrokers", ""),
        "DATABASE_SSLMODE": deployed.get("DatabaseSslmode", ""),
        "DATABASE_CA": deployed.get("DatabaseCa", ""),
        "DEMO": deployed.get("Demo", "false"),
        "INGEST": "true" if "IngestFunction" in deployed else "false",
    }
    if subprocess.run([PLACE / "migrate" / "bootstrap", command], env=env, stdin=subprocess.DEVNULL).returncode:
        raise Failure(f"{command} failed; the reason is above")
    if command == "migrate":
        postgres.psql(stack, GRANT)


def ask(stack: Stack, step: str, *options: str) -> None:
    """Asks a deployed function."""
    if not outputs(stack):
        raise Failure(f"nothing is deployed, so there is nobody to ask: make up{stack.argument}")
    _run_deploy(stack, step, *options)


def deploy_on_aws(name: str, parameters: Path, release: Path | None, arch: str, bucket: str) -> None:
    """A release, or what is checked out, as a CloudFormation stack of the caller's own AWS account."""
    if not parameters.exists():
        stage = parameters.name.removeprefix(".env").replace(".", " STAGE=")
        raise Failure(f"there is no {parameters.name} with the parameters: make init{stage}, fill it in, and try again")
    if not release:
        require_account()
    code = ["--template", artifacts.open_folder(release)] if release else settings(artifacts.build(NAMES, arch))
    own = ["--bucket", bucket] if bucket else []
    on_aws(name, "deploy", "migrate", "start", "show", "--parameters", parameters, *code, *own)


def on_aws(name: str, *arguments) -> None:
    """Steps of the deploy there, with their options. The shell says whose account it is, and never that it is another endpoint's:
    one that `make env` has set up for a local stack must not take a deploy of production there."""
    if subprocess.run([packages.install(), DEPLOY, name, *arguments], env=_without_endpoints()).returncode:
        raise Failure(f"{name} on AWS: that failed; the reason is above")


def require_account(region: str = "") -> None:
    """Before minutes are spent on a build: the shell has credentials of an account."""
    env = _without_endpoints() | ({"AWS_REGION": region, "AWS_DEFAULT_REGION": region} if region else {})
    if subprocess.run([packages.install(), ACCOUNT], env=env).returncode:
        raise Failure("nothing was built, and nothing was done on AWS")


def try_on_aws(region: str, release: Path, *options) -> None:
    """A stack of its own, tried and deleted."""
    if subprocess.run([packages.install(), TRIAL, region, "--artifacts", release, *options], env=_without_endpoints()).returncode:
        raise Failure("the trial on AWS: not all is as it should be, see above")


def _without_endpoints() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_ENDPOINT_URL")}


def destroy(stack: Stack, *options: str) -> None:
    """The CloudFormation stack; LocalStack and the other servers go on."""
    _run_deploy(stack, "destroy", *options)
    stack.outputs_file.unlink(missing_ok=True)


def outputs(stack: Stack) -> dict[str, str]:
    """What the last deploy made; nothing, if there was none since LocalStack started."""
    return json.loads(stack.outputs_file.read_text()) if stack.outputs_file.exists() else {}


def update(stack: Stack, name: str) -> None:
    """Rebuilds one function and replaces its code."""
    if name not in NAMES:
        raise Failure(f"FUNCTION={name} is none of {', '.join(NAMES)}")
    if not stack.outputs_file.exists():
        raise Failure(f"nothing is deployed yet: make up{stack.argument}")
    build()
    _run_deploy(stack, "update", "--function", name, "--functions", PLACE)


def _run_deploy(stack: Stack, *arguments) -> None:
    command = [packages.PYTHON, DEPLOY, AWS_STACK, *arguments]
    if subprocess.run(command, env=cloud.clean_env(stack)).returncode:
        raise Failure(f"{arguments[0]} failed; the reason is above")


def _parameters(stack: Stack) -> dict[str, str]:
    brokers = {"KafkaBrokers": kafka.client_env(stack)["KAFKA_BROKERS"]} if kafka.NAME in stack.targets else {}
    return database_parameters(stack) | brokers


def database_parameters(stack: Stack) -> dict[str, str]:
    """How the database is reached, where that is not as the template has it."""
    if not stack.facts.get("use_database"):
        return {} if stack.facts["tls"] else {"DatabaseSslmode": "disable"}
    connection = postgres.connection(stack.database_url)
    is_local = connection["PGHOST"] in ("localhost", "127.0.0.1")
    mode = connection.get("PGSSLMODE", "disable" if is_local else "verify-full")
    return {"DatabaseSslmode": mode if mode in ("verify-full", "require") else "disable"}


def secrets(stack: Stack, database: dict, elasticsearch_url: str, clickhouse_url: str = "") -> dict[str, dict]:
    """What a person keeps in Secrets Manager on AWS, by the parameter that takes the ARN. ClickHouse may have another URL for the
    functions than for this shell."""
    url, user, password = search.split_credentials(elasticsearch_url)
    found = {
        "DatabaseSecretArn": {"username": "sluice_functions", "password": stack.password("sluice_functions"), **database},
        "DatabaseOwnerSecretArn": {"username": "sluice_owner", "password": stack.password("sluice_owner"), **database},
        # Without security Elasticsearch looks at no credentials, but the secret has to hold some.
        "ElasticsearchSecretArn": {"url": url, "username": user or "elastic", "password": password or "unused"},
        "AdminSecretArn": {role: stack.password(role) for role in ("operator", "reader")},
    }
    if clickhouse.NAME in stack.targets:
        found["ClickHouseSecretArn"] = clickhouse.secret(stack) | ({"url": clickhouse_url} if clickhouse_url else {})
    return found


def own_secrets(stack: Stack) -> dict[str, dict]:
    """The same of the stack's own servers, as this machine reaches them."""
    connection = postgres.connection(stack.database_url)
    where = {"host": connection["PGHOST"], "port": int(connection["PGPORT"]), "dbname": connection["PGDATABASE"]}
    if not stack.facts.get("use_database") and stack.facts["tls"]:
        where["ca"] = (stack.tls / "ca.pem").read_text()
    return secrets(stack, where, stack.elasticsearch_url)
