"""ClickHouse: Debian 12's release, of 2018, out of its packages. A newer server than this one is `chdb`."""

import hashlib
import shutil
import subprocess
import urllib.request
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import process
from console import Failure
from download import debian_folder
from layout import CLICKHOUSE_NATIVE_PORT, CLICKHOUSE_PORT, SERVERS, Stack

NAME = "clickhouse"
PORTS = {"ClickHouse": CLICKHOUSE_PORT, "ClickHouse (native)": CLICKHOUSE_NATIVE_PORT}
USER = "sluice"
HERE = Path(__file__).parent
HOME = SERVERS / "clickhouse-18.16.1"
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")


def check() -> None:
    """Fails where it cannot be had."""
    if not HOME.exists() and not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise Failure("TARGETS=clickhouse takes Debian 12's packages, and this machine has no apt-get; or use Docker:  make up DOCKER=1 TARGETS=clickhouse")


def install(stack: Stack) -> Path:
    """The folder into which its packages are unpacked."""
    try:
        return debian_folder(NAME, HERE / "clickhouse.txt", HOME)
    except Failure as failure:
        raise Failure(f"{failure}\n    It is in Debian 12; elsewhere use Docker:  make up DOCKER=1 TARGETS=clickhouse") from failure


def start(stack: Stack) -> subprocess.Popen | None:
    """Starts the server unless it runs; `wait` has to follow."""
    if process.find(stack, NAME):
        return None
    home, folder = install(stack), process.own_folder(stack.folder / NAME)
    _write_config(stack, folder)
    env = {"HOME": str(folder), "LD_LIBRARY_PATH": ":".join(str(home / part) for part in LIBRARIES)}
    command = [home / "usr/sbin/clickhouse-server", f"--config-file={folder}/config/config.xml"]
    return process.start(stack, NAME, command, env, folder, log(stack), **process.as_server_user())


def wait(stack: Stack, launched: subprocess.Popen | None) -> None:
    """Waits for health."""
    process.wait_until(lambda: is_healthy(stack), "ClickHouse", launched, log(stack), 60)


def stop(stack: Stack) -> bool:
    """Ends queries that are under way, too."""
    return process.stop(stack, NAME)


def is_healthy(stack: Stack) -> bool:
    """True when it answers its user."""
    return answers(client_env(stack)["CLICKHOUSE_URL"])


def log(stack: Stack) -> Path:
    """The server's log."""
    return stack.folder / NAME / "server.log"


def client_env(stack: Stack) -> dict[str, str]:
    """What its clients have to know."""
    return {"CLICKHOUSE_URL": stack.facts.get("use_clickhouse") or http_url(stack, NAME, CLICKHOUSE_PORT)}


def http_url(stack: Stack, name: str, first_port: int) -> str:
    """Of ClickHouse's HTTP interface, credentials included."""
    return f"http://{USER}:{quote(stack.password(name))}@127.0.0.1:{stack.port(first_port)}"


def secret(stack: Stack) -> dict[str, str]:
    """What the function and migrate are told."""
    url, user, password, database = split(client_env(stack)["CLICKHOUSE_URL"])
    return {"url": url, "username": user, "password": password} | ({"database": database} if database else {})


def split(url: str) -> tuple[str, str, str, str]:
    """A URL without its credentials, the user's name, the password, and the database (empty: the user's own)."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Failure("USE_CLICKHOUSE should look like http://user:password@host:8123/database")
    bare = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return bare, unquote(parts.username or "default"), unquote(parts.password or ""), unquote(parts.path.strip("/"))


def answers(url: str) -> bool:
    """True when a statement of the URL's user is executed there, in its database."""
    bare, user, password, database = split(url)
    credentials = {"X-ClickHouse-User": user, "X-ClickHouse-Key": password} | ({"X-ClickHouse-Database": database} if database else {})
    request = urllib.request.Request(f"{bare}/?query=SELECT+1", headers=credentials)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
            return answer.read() == b"1\n"
    except OSError:
        return False


def _write_config(stack: Stack, folder: Path) -> None:
    """There is one user, who has a password. A request that names none is the user `default`, who does not exist."""
    config = folder / "config"
    config.mkdir(exist_ok=True)
    (config / "config.xml").write_text(f"""<yandex>
    <logger><level>information</level><console>1</console></logger>
    <listen_host>127.0.0.1</listen_host>
    <http_port>{stack.port(CLICKHOUSE_PORT)}</http_port>
    <tcp_port>{stack.port(CLICKHOUSE_NATIVE_PORT)}</tcp_port>
    <path>{folder}/data/</path>
    <tmp_path>{folder}/tmp/</tmp_path>
    <user_files_path>{folder}/files/</user_files_path>
    <format_schema_path>{folder}/schemas/</format_schema_path>
    <users_config>users.xml</users_config>
    <default_profile>default</default_profile>
    <default_database>default</default_database>
    <timezone>UTC</timezone>
    <mark_cache_size>67108864</mark_cache_size>
</yandex>
""")
    (config / "users.xml").write_text(f"""<yandex>
    <profiles><default><max_memory_usage>2000000000</max_memory_usage></default></profiles>
    <quotas><default/></quotas>
    <users>
        <{USER}>
            <password_sha256_hex>{hashlib.sha256(stack.password(NAME).encode()).hexdigest()}</password_sha256_hex>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
        </{USER}>
    </users>
</yandex>
""")
