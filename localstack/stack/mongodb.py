"""MongoDB: mongo-java-server out of Maven Central's jars, which speaks MongoDB's protocol and keeps all in memory. `MongoDB.java` has
what its change streams lack."""

import socket
import subprocess
from pathlib import Path

import certificate
import process
from console import Failure
from download import maven_folder
from java import find_java
from layout import MONGODB_PORT, MONGODB_TLS_PORT, SERVERS, Stack

NAME = "mongodb"
PORTS = {"MongoDB": MONGODB_PORT, "MongoDB (TLS)": MONGODB_TLS_PORT}
VERSION = "1.47.0"
JAVA = 17
HERE = Path(__file__).parent
HOME = SERVERS / f"mongo-java-server-{VERSION}"


def install(stack: Stack) -> Path:
    """The folder of the jars, downloaded if need be."""
    return maven_folder(NAME, HERE / "mongodb.txt", HOME, stack.facts.get("maven_repository"))


def start(stack: Stack) -> subprocess.Popen | None:
    """Starts the server unless it runs; `wait` has to follow."""
    if process.find(stack, NAME):
        return None
    folder, tls = process.own_folder(stack.folder / NAME), certificate.make(stack)
    java, jars = find_java(JAVA) / "bin/java", f"{install(stack)}/*"
    compiler = [java, "-cp", jars, "org.eclipse.jdt.internal.compiler.batch.Main", "-17", "-nowarn"]
    done = subprocess.run([*compiler, "-d", folder, HERE / "MongoDB.java"], env={"CLASSPATH": ""}, capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"MongoDB.java cannot be compiled: {done.stderr.strip()}")
    ports = [str(stack.port(port)) for port in (MONGODB_PORT, MONGODB_TLS_PORT)]
    command = [java, "-XX:+UseSerialGC", "-Xmx256m", "-cp", f"{folder}:{jars}", "MongoDB", *ports, tls / "server.pem", tls / "server.key"]
    return process.start(stack, NAME, command, {"HOME": str(folder)}, folder, log(stack), **process.as_server_user())


def wait(stack: Stack, launched: subprocess.Popen | None) -> None:
    """Waits for health."""
    process.wait_until(lambda: is_healthy(stack), "MongoDB", launched, log(stack), 60)


def stop(stack: Stack) -> bool:
    """What it has is gone with it."""
    return process.stop(stack, NAME)


def is_healthy(stack: Stack) -> bool:
    """True when it takes connections with TLS, which is the last that it does."""
    try:
        socket.create_connection(("127.0.0.1", stack.port(MONGODB_TLS_PORT)), timeout=5).close()
    except OSError:
        return False
    return True


def log(stack: Stack) -> Path:
    """The server's log."""
    return stack.folder / NAME / "server.log"


def client_env(stack: Stack) -> dict[str, str]:
    """What its clients have to know. It asks nobody who he is."""
    return {
        "MONGODB_URL": f"mongodb://127.0.0.1:{stack.port(MONGODB_PORT)}/",
        "MONGODB_TLS_URL": f"mongodb://127.0.0.1:{stack.port(MONGODB_TLS_PORT)}/?tls=true",
    }
