"""What each command does."""

import os
import re
import shlex
import sys
import time
from functools import partial
from pathlib import Path
from signal import Signals

import artifacts
import board
import cloud
import docker
import env_local
import exports
import functions
import image as images
import kafka
import machine
import npm
import packages
import postgres
import process
import sluice
from choices import SEARCH, TARGETS, add_targets, address, given_to, made, require_search, search_server, servers_of, targets, uses_own
from console import Failure, say, say_times, timed, together
from layout import REPOSITORY, Stack, lock

# The functions by what SERVICE calls them: a target's own name is its server's.
FUNCTIONS = {f"{name}-function" if name in TARGETS else name: name for name in functions.NAMES}


def existing(arguments: dict[str, str]) -> Stack:
    """The stack that the arguments name; a Failure if there is none."""
    stack = Stack(arguments.get("STACK", "default"))
    if not stack.exists:
        raise Failure(f"there is no stack `{stack.name}` yet: make up{stack.argument}")
    return stack


def start_servers(stack: Stack, wanted: list, *meanwhile) -> None:
    """Starts all of them at the same time, each as soon as it is installed; what needs none of them is done meanwhile."""

    def begin(server) -> None:
        if server is cloud:
            packages.install()
        with timed(server.NAME):
            server.wait(stack, server.start(stack) if uses_own(stack, server) else None)
        say(server.NAME, where(stack, server))

    together(*(partial(begin, server) for server in wanted), *meanwhile)


def admin_url(stack: Stack) -> str:
    """Where the dashboard is."""
    return sluice.admin_url(stack) if stack.run else cloud.admin_url(stack)


def service_of(stack: Stack, name: str | None) -> str | None:
    """What a name means: where one process does all, each function's name means that process; and either search server's name the
    one that the stack has."""
    if name in SEARCH:
        return stack.search
    return sluice.NAME if stack.run and name in FUNCTIONS else name


def where(stack: Stack, server) -> str:
    """The address, without credentials."""
    if uses_own(stack, server):
        return f"127.0.0.1:{stack.port(next(iter(server.PORTS.values())))}"
    return f"{address(given_to(stack, server))} (given)"


def with_env_local(arguments: dict[str, str]) -> dict[str, str]:
    """With the servers that `.env.local` names. What the tests delete must be their own."""
    stack = Stack(arguments.get("STACK", "default"))
    return arguments if stack.is_for_tests else env_local.servers(arguments)


def servers(arguments: dict[str, str]) -> None:
    """PostgreSQL, the search server and the targets alone."""
    with made(with_env_local(arguments)) as stack:
        start_servers(stack, [search_server(stack), postgres, *targets(stack)])


def fetch(arguments: dict[str, str]) -> None:
    """Downloads everything; starts nothing, and makes no stack."""
    stack = Stack(arguments.get("STACK", "default"))
    require_search(arguments)
    named = {"search": "SEARCH", "elasticsearch": "ELASTICSEARCH_VERSION", "maven_repository": "MAVEN_REPOSITORY"}
    stack.facts = {fact: arguments[argument] for fact, argument in named.items() if argument in arguments} | stack.facts
    add_targets(stack, arguments)
    machine.check(stack, search_server(stack).release(stack))
    downloads = [lambda server=server: say(server.NAME, str(server.install(stack))) for server in (postgres, search_server(stack), *targets(stack))]
    together(packages.install, npm.install, *downloads)


def up(arguments: dict[str, str]) -> None:
    """All of it: what runs is left alone, what does not is started."""
    with made(with_env_local(arguments)) as stack:
        if stack.facts.get("docker"):
            return docker.up(stack)
        start_servers(stack, [server for server in servers_of(stack) if server is not sluice], partial(functions.build, stack))
        sluice.deploy(stack) if stack.run else functions.deploy(stack)
    say_times()
    say("ready", f"psql: make psql{stack.argument}   shell: eval \"$(make env{stack.argument})\"")
    functions.announce(stack, admin_url(stack))
    if board in servers_of(stack):
        say("board", f"{board.url(stack)}   make demo{stack.argument} LIVE=1 defines it")


def down(arguments: dict[str, str]) -> None:
    """The writers before what they write to; data stays."""
    stack = Stack(arguments.get("STACK", "default"))
    if stack.exists:
        with lock(stack.folder, "this stack"):
            stop_servers(stack)


def stop_servers(stack: Stack) -> None:
    """Whatever runs of it."""
    if stack.facts.get("docker"):
        return docker.compose(stack, "stop")
    for server in reversed(servers_of(stack)):
        say(server.NAME, "stopped" if server.stop(stack) else "was not running")


def clean(arguments: dict[str, str]) -> None:
    """The stack and its data; downloads and builds stay."""
    stack = Stack(arguments.get("STACK", "default"))
    if stack.folder.exists():
        with lock(stack.folder, "this stack"):
            if stack.exists:
                stop_servers(stack)
            if stack.facts.get("docker"):
                docker.compose(stack, "down", "--volumes")
            stack.remove()
    say("stack", f"`{stack.name}` is gone")


def signal(arguments: dict[str, str]) -> None:
    """A signal to one server, or to one function's processes, to see what follows. Where it ends them, that is waited for."""
    stack = existing(arguments)
    service = service_of(stack, arguments.get("SERVICE"))
    known = [server.NAME for server in servers_of(stack)]
    number = getattr(Signals, f"SIG{arguments.get('SIGNAL')}", None)
    if number is None:
        raise Failure("which one? SIGNAL=KILL, TERM, INT, QUIT, STOP or CONT")
    if service in FUNCTIONS:
        name = functions.outputs(stack).get(f"{FUNCTIONS[service].capitalize()}Function", "")
        found = process.find_all(stack, cloud.FUNCTION, AWS_LAMBDA_FUNCTION_NAME=name)
    elif service in known:
        found = process.find_all(stack, service)
    else:
        raise Failure(f"SERVICE={service} is none of {', '.join([*known, *FUNCTIONS])}")
    for one in found:
        one.signal(number)
    if number not in (Signals.SIGSTOP, Signals.SIGCONT) and not process.wait_for_end(found, 60):
        raise Failure(f"{service} does not end by {number.name}")
    say(service, f"{number.name} to {len(found)} process{'es' * (len(found) != 1)}")


def start(arguments: dict[str, str]) -> None:
    """PostgreSQL, the search server, a target or the process `sluice` again, with the data that it had."""
    stack = existing(arguments)
    startable = {server.NAME: server for server in servers_of(stack) if server is not cloud}  # which keeps nothing
    server = startable.get(service_of(stack, arguments.get("SERVICE")))
    if not server:
        raise Failure(f"which one? SERVICE={'|'.join(startable)}")
    with lock(stack.folder, "this stack"):
        start_servers(stack, [server])


def status(arguments: dict[str, str]) -> None:
    """A table: what, which process, since when, healthy or not, where."""
    stack = existing(arguments)
    if stack.facts.get("docker"):
        return docker.compose(stack, "ps")
    row = "{:<17}{:<9}{:<18}{:<9}{}".format
    print(row(stack.name, "pid", "since", "healthy", "where"))
    for server in servers_of(stack):
        found = process.find(stack, server.NAME) if uses_own(stack, server) else None
        pid, since = (found.pid, time.strftime("%d %b %H:%M:%S", time.localtime(found.since))) if found else ("-", "-")
        is_up = server.is_healthy(stack) if found or not uses_own(stack, server) else False
        print(row(server.NAME, pid, since, "yes" if is_up else "no", where(stack, server)))
    if not stack.run:
        deployed = stack.outputs_file.exists()
        since = time.strftime("%d %b %H:%M:%S", time.localtime(stack.outputs_file.stat().st_mtime)) if deployed else "-"
        print(row("functions", "-", since, "-", admin_url(stack) if deployed else "not deployed"))
    print(row("files", "", "", "", stack.folder))


def health(arguments: dict[str, str]) -> None:
    """The same as an exit code."""
    stack = existing(arguments)
    sick = [server.NAME for server in servers_of(stack) if not server.is_healthy(stack)]
    sick += [] if stack.run or stack.outputs_file.exists() else ["functions"]
    if sick:
        raise Failure(f"not healthy: {', '.join(sick)}; see make status{stack.argument}, or mend it: make up{stack.argument}")
    print("healthy")


def logs(arguments: dict[str, str]) -> None:
    """The end of the logs; of one service, followed on a terminal."""
    stack = existing(arguments)
    if stack.facts.get("docker"):
        return docker.compose(stack, "logs", "--tail", "200", *filter(None, [arguments.get("SERVICE")]))
    files = {server.NAME: server.log(stack) for server in servers_of(stack)}
    for service, name in () if stack.run else FUNCTIONS.items():
        function = functions.outputs(stack).get(f"{name.capitalize()}Function", name)
        files[service] = cloud.functions_logs(stack) / f"{function}.log"
    service = service_of(stack, arguments.get("SERVICE"))
    if service and service not in files:
        raise Failure(f"SERVICE={service} is none of {', '.join(files)}")
    shown = [str(file) for name, file in files.items() if service in (None, name) and file.exists()]
    if not shown:
        raise Failure(f"no log of {service or 'anything'} yet")
    follow = ["-F"] if service and sys.stdout.isatty() else []
    os.execvp("tail", ["tail", "-n", "200" if service else "15", *follow, *shown])


def psql(arguments: dict[str, str]) -> None:
    """The administrator's psql."""
    stack = existing(arguments)
    program = postgres.find_psql(stack, is_interactive=True)
    os.execvpe(program, [program], os.environ | postgres.connection(stack.database_url))


def list_kafka_topics(arguments: dict[str, str]) -> None:
    """Of the stack's Kafka, or of the one that it was given."""
    stack = existing(arguments)
    if kafka not in targets(stack):
        raise Failure(f"this stack has no Kafka: make up{stack.argument} TARGETS=kafka")
    for name, partitions in sorted(kafka.topics(stack).items()):
        print(f"{name:<40} {partitions:>4} partition{'s' * (partitions != 1)}")


def env(arguments: dict[str, str]) -> None:
    """`export` lines and nothing else, for eval."""
    for name, value in exports.of(existing(arguments)).items():
        print(f"export {name}={shlex.quote(value)}")


def build(arguments: dict[str, str]) -> str:
    """The functions as Lambda takes them, and for which architecture that is."""
    return artifacts.build(functions.NAMES, arguments.get("ARCH", "arm64"))


def release(arguments: dict[str, str]) -> None:
    """A folder that can be deployed without Rust."""
    arch = build(arguments)
    zips = {name: artifacts.PLACE / name / "bootstrap.zip" for name in functions.NAMES}
    artifacts.make_folder(Path(arguments.get("RELEASE", REPOSITORY / "dist")), zips, arch)


def binary(arguments: dict[str, str]) -> None:
    """All parts as one binary, for this machine's architecture or another one."""
    images.build(arguments.get("ARCH") or artifacts.own_architecture())


def image(arguments: dict[str, str]) -> None:
    """The same in a container image."""
    images.make(arguments.get("ARCH") or artifacts.own_architecture(), arguments.get("IMAGE") or images.name())


def stage(arguments: dict[str, str]) -> str:
    """One of several deploys to AWS; empty, if none was named."""
    name = arguments.get("STAGE", "")
    if not re.fullmatch(r"([a-z][a-z0-9-]*)?", name) or name == "example":
        raise Failure(f"STAGE={name} is no name of a stage: use small letters, digits and dashes, as in STAGE=prod")
    return name


def on_aws(arguments: dict[str, str]) -> str:
    """The name of a CloudFormation stack on AWS; empty, if the local stack is meant."""
    name = stage(arguments)
    return arguments.get("STACK_NAME") or (f"sluice-{name}" if name else "")


def parameters_file(arguments: dict[str, str]) -> Path:
    """The parameters of a deploy to AWS, one file for each stage."""
    name = stage(arguments)
    return REPOSITORY / (f".env.{name}" if name else ".env")


def deploy(arguments: dict[str, str]) -> None:
    """Builds, or takes a release, deploys and migrates: on AWS with STAGE or STACK_NAME, else in the local stack."""
    taken = Path(arguments["ARTIFACTS"]) if arguments.get("ARTIFACTS") else None
    if name := on_aws(arguments):
        return functions.deploy_on_aws(name, parameters_file(arguments), taken, arguments.get("ARCH", "arm64"), arguments.get("BUCKET", ""))
    stack = existing(arguments)
    with lock(stack.folder, "this stack"):
        if stack.facts.get("docker"):
            if taken:
                raise Failure("ARTIFACTS is for AWS, and for stacks without Docker")
            return docker.deploy(stack)
        if taken and stack.run:
            raise Failure(f"ARTIFACTS has the functions, and the stack `{stack.name}` runs none of them")
        if not taken:
            functions.build(stack)
        sluice.deploy(stack) if stack.run else functions.deploy(stack, taken)


def destroy(arguments: dict[str, str]) -> None:
    """Deletes the CloudFormation stack, once its name was typed, or given."""
    given = ["--yes", arguments["YES"]] if arguments.get("YES") else []
    if name := on_aws(arguments):
        return functions.on_aws(name, "destroy", *given)
    stack = existing(arguments)
    if stack.run:
        raise Failure(f"the stack `{stack.name}` has no deploy: what Sluice made is removed by make uninstall{stack.argument}")
    with lock(stack.folder, "this stack"):
        docker.invoke(stack, "destroy", *given) if stack.facts.get("docker") else functions.destroy(stack, *given)


def trial(arguments: dict[str, str]) -> None:
    """Asks an account of AWS what only AWS can answer, by a stack that is deleted in the end."""
    if not arguments.get("REGION"):
        raise Failure("in which region? make trial REGION=eu-central-1")
    if not arguments.get("ARTIFACTS"):
        functions.require_account(arguments["REGION"])
        release(arguments)
    folder = Path(arguments.get("ARTIFACTS") or arguments.get("RELEASE", REPOSITORY / "dist"))
    artifacts.open_folder(folder)
    servers = ["--servers", arguments["SERVERS"]] if arguments.get("SERVERS") else []
    functions.try_on_aws(arguments["REGION"], folder, *servers, *(["--yes"] if arguments.get("YES") else []))


def migrate(arguments: dict[str, str], command: str = "migrate") -> None:
    """The migrate function's code: from this shell, or with STAGE or STACK_NAME on AWS."""
    if name := on_aws(arguments):
        return functions.on_aws(name, command)
    stack = existing(arguments)
    with lock(stack.folder, "this stack"):
        if stack.run:
            functions.build(stack)
            return sluice.command(stack, command)
        docker.invoke(stack, command) if stack.facts.get("docker") else functions.run_migrate(stack, command)


def rebase(arguments: dict[str, str]) -> None:
    """After a dump was restored into another cluster: positions and versions begin anew, every stream is read again."""
    migrate(arguments, "rebase")


def validate(arguments: dict[str, str]) -> None:
    """Compares the streams with what their targets have, by the deployed function: of the local stack, or with STAGE or STACK_NAME on AWS."""
    options = options_of(arguments, "STREAM", "TARGET", flags=("REPAIR", "DRY_RUN"))
    if name := on_aws(arguments):
        return functions.on_aws(name, "validate", *options)
    stack = existing(arguments)
    if stack.run:
        return sluice.command(stack, "validate", *options)
    docker.invoke(stack, "validate", *options) if stack.facts.get("docker") else functions.ask(stack, "validate", *options)


def replay(arguments: dict[str, str]) -> None:
    """Delivers again what changed since a checkpoint: of the local stack, or with STAGE or STACK_NAME on AWS."""
    if not (since := arguments.get("FROM")):
        raise Failure("since when? make replay FROM=name, or FROM=2030-12-31T23:59:59Z; DRY_RUN=1 says what it would be")
    options = options_of(arguments, "STREAM", "TARGET", flags=("DRY_RUN",))
    if name := on_aws(arguments):
        return functions.on_aws(name, "replay", f"--since={since}", *options)
    stack = existing(arguments)
    if stack.run:
        return sluice.command(stack, "replay", *options, "--", since)
    asked = [f"--since={since}", *options]
    docker.invoke(stack, "replay", *asked) if stack.facts.get("docker") else functions.ask(stack, "replay", *asked)


def reindex(arguments: dict[str, str]) -> None:
    """Builds another generation of a stream's index, or does something with those that there are: of the local stack, or with STAGE or STACK_NAME on AWS."""
    if not arguments.get("STREAM") and arguments.get("ACTION") != "status":
        raise Failure("which stream? make reindex STREAM=name; ACTION=status tells of all")
    options = options_of(arguments, "STREAM", "ACTION", flags=("ACCEPT_DEAD_LETTERS",))
    if name := on_aws(arguments):
        return functions.on_aws(name, "reindex", *options)
    stack = existing(arguments)
    if stack.run:
        return sluice.command(stack, "reindex", *options)
    docker.invoke(stack, "reindex", *options) if stack.facts.get("docker") else functions.ask(stack, "reindex", *options)


def options_of(arguments: dict[str, str], *named: str, flags: tuple[str, ...]) -> list[str]:
    """Arguments of a command as options of whoever carries it out."""
    options = [f"--{name.lower()}={arguments[name]}" for name in named if arguments.get(name)]
    for flag in flags:
        if (value := arguments.get(flag, "")) not in ("", "1"):
            raise Failure(f"{flag}={value}: say {flag}=1, or leave it out")
        options += [f"--{flag.lower().replace('_', '-')}"] if value else []
    return options


def uninstall(arguments: dict[str, str]) -> None:
    """Takes away what Sluice made in the database and in Elasticsearch, and nothing else."""
    migrate(arguments, "uninstall")


def redeploy(arguments: dict[str, str]) -> None:
    """One function, rebuilt; where one process does all, that one."""
    stack = existing(arguments)
    if stack.run:
        return deploy({"STACK": stack.name})
    if not arguments.get("FUNCTION"):
        raise Failure(f"which one? make redeploy FUNCTION={'|'.join(functions.NAMES)}")
    with lock(stack.folder, "this stack"):
        functions.update(stack, arguments["FUNCTION"])


def dashboard(arguments: dict[str, str]) -> None:
    """The dashboard's page, and that of the board, alone."""
    npm.build()
    npm.build_board()


def init(arguments: dict[str, str]) -> None:
    """The file of parameters for a deploy to AWS."""
    target = parameters_file(arguments)
    if target.exists():
        return say("init", f"{target.name} is there already; it was left as it is")
    target.touch(0o600)
    target.write_text((REPOSITORY / ".env.example").read_text())
    where = f"STAGE={stage(arguments)}" if stage(arguments) else "STACK_NAME=sluice"
    say("init", f"wrote {target.name}; fill it in, then: make deploy {where}")


COMMANDS = {
    command.__name__.replace("_", "-"): command
    for command in (up, down, signal, start, status, health, logs, psql, list_kafka_topics, clean, servers, env, build, release, binary, image, deploy, destroy, trial, redeploy, migrate, rebase, validate, replay, reindex, uninstall, dashboard, init, fetch)
}
