"""Builds the functions, places their binaries, deploys them, and runs migrations."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import cloud
import elasticsearch
import packages
import postgres
from console import Failure, run, say
from layout import CACHE, REPOSITORY, TARGET, Stack, lock

NAMES = sorted(folder.name for folder in (REPOSITORY / "functions").iterdir() if (folder / "Cargo.toml").exists())
PLACE = TARGET / "lambda"
DEPLOY = REPOSITORY / "infra" / "deploy.py"
AWS_STACK = "sluice"  # the CloudFormation stack's name in LocalStack; each of our stacks has a LocalStack of its own


def build(names: list[str] = NAMES) -> None:
    """Compiles in the dev profile, which the tests share, and places each binary as the `bootstrap` of a folder."""
    command = ["cargo", "build", "--bins", *(part for name in names for part in ("-p", name))]
    with lock(CACHE, "building the functions"):
        env = os.environ | {"CARGO_TARGET_DIR": str(TARGET)}
        run("functions", f"building {', '.join(names)}", command, CACHE / "build.log", lines=60, cwd=REPOSITORY, env=env)
        for name in names:
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


def deploy(stack: Stack) -> None:
    """Secrets, template, migrations; then the functions' login may do what sluice_app may, and the trigger starts."""
    folder = stack.folder / "localstack"
    files = {"parameters": folder / "parameters.json", "secrets": folder / "secrets.json"}
    for name, content in {"parameters": _parameters(stack), "secrets": _secrets(stack)}.items():
        files[name].touch(0o600)
        files[name].write_text(json.dumps(content))
    options = [part for name, file in files.items() for part in (f"--{name}", file)]
    _run_deploy(stack, "deploy", "migrate", *options, "--functions", PLACE, "--outputs", stack.outputs_file)
    postgres.psql(stack, "GRANT sluice_app TO sluice_functions;")
    _run_deploy(stack, "start")


def outputs(stack: Stack) -> dict[str, str]:
    """What the last deploy made; nothing, if there was none since LocalStack started."""
    return json.loads(stack.outputs_file.read_text()) if stack.outputs_file.exists() else {}


def update(stack: Stack, name: str) -> None:
    """Rebuilds one function and replaces its code."""
    if name not in NAMES:
        raise Failure(f"FUNCTION={name} is none of {', '.join(NAMES)}")
    if not stack.outputs_file.exists():
        raise Failure(f"nothing is deployed yet: make up{stack.argument}")
    build([name])
    _run_deploy(stack, "update", "--function", name, "--functions", PLACE)


def _run_deploy(stack: Stack, *arguments) -> None:
    command = [packages.PYTHON, DEPLOY, AWS_STACK, *arguments]
    if subprocess.run(command, env=cloud.clean_env(stack), stdin=subprocess.DEVNULL).returncode:
        raise Failure("the deploy failed; the reason is above")


def _parameters(stack: Stack) -> dict[str, str]:
    if not stack.facts.get("use_database"):
        if stack.facts["tls"]:
            return {"DatabaseCa": (stack.tls / "ca.pem").read_text()}
        return {"DatabaseSslmode": "disable"}
    connection = postgres.connection(stack.database_url)
    is_local = connection["PGHOST"] in ("localhost", "127.0.0.1")
    mode = connection.get("PGSSLMODE", "disable" if is_local else "verify-full")
    return {"DatabaseSslmode": mode if mode in ("verify-full", "require") else "disable"}


def _secrets(stack: Stack) -> dict[str, dict]:
    connection = postgres.connection(stack.database_url)
    where = {"host": connection["PGHOST"], "port": int(connection["PGPORT"]), "dbname": connection["PGDATABASE"]}
    url, user, password = elasticsearch.split_credentials(stack.elasticsearch_url)
    return {
        "DatabaseSecretArn": {"username": "sluice_functions", "password": stack.password("sluice_functions"), **where},
        "DatabaseOwnerSecretArn": {"username": "sluice_owner", "password": stack.password("sluice_owner"), **where},
        # Without security Elasticsearch looks at no credentials, but the secret has to hold some.
        "ElasticsearchSecretArn": {"url": url, "username": user or "elastic", "password": password or "unused"},
    }
