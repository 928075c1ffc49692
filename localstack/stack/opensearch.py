"""OpenSearch: its smallest build, out of Maven Central. It has no security, and of the modules the one for HTTP."""

import subprocess
from pathlib import Path

import process
import search
from layout import Stack

NAME = "opensearch"
PORTS = search.ports("OpenSearch")
RELEASE = search.Release(
    "2.19.6",
    "org.opensearch.distribution.integ-test-zip:opensearch:2.19.6",
    "opensearch-2.19.6",
    "8adbfaa13162b8d42b388ece6b39bfb7f1a349ab9c128d4eced78ba1dd43b5a10850b43b8aac19fa5ab11f4d5c355ddf6f6617514d6112b0936a1903005d1d36",
    17,
    24,  # which has no Security Manager any more
)


def release(_stack: Stack) -> search.Release:
    """The only one."""
    return RELEASE


def install(stack: Stack) -> Path:
    """OpenSearch's home, downloaded if need be."""
    return search.install(stack, NAME, RELEASE, {"transport-netty4"})


def start(stack: Stack) -> subprocess.Popen | None:
    """Starts the server unless it runs; `wait` has to follow."""
    if process.find(stack, NAME):
        return None
    home = install(stack)
    folder = search.write_config(stack, NAME, home, {})
    env = {
        "HOME": str(folder), "OPENSEARCH_PATH_CONF": str(folder / "config"), "OPENSEARCH_TMPDIR": str(folder / "tmp"),
        "OPENSEARCH_JAVA_HOME": str(RELEASE.find_java()), "OPENSEARCH_JAVA_OPTS": f"-Xms{search.HEAP} -Xmx{search.HEAP}", "HOSTNAME": "localhost",
    }  # fmt: skip
    return process.start(stack, NAME, ["bash", home / "bin/opensearch"], env, home, log(stack), **process.as_server_user())


def wait(stack: Stack, launched: subprocess.Popen | None) -> None:
    """Waits for health."""
    process.wait_until(lambda: is_healthy(stack), "OpenSearch", launched, log(stack), 240)


def stop(stack: Stack) -> bool:
    """By SIGTERM."""
    return process.stop(stack, NAME)


is_healthy = search.is_healthy


def log(stack: Stack) -> Path:
    """The server's log."""
    return stack.folder / NAME / "server.log"
