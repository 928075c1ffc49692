"""The functions as Lambda runs them: built, checked, packed, and laid into a folder that can be deployed without Rust."""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import machine
import npm
import packages
from console import Failure, run, say
from layout import CACHE, REPOSITORY, lock

sys.path.append(str(REPOSITORY / "infra"))
from archive import architecture, needed_glibc, pack  # noqa: E402

PLACE = REPOSITORY / "target" / "lambda"  # where the template looks for <function>/bootstrap.zip
TEMPLATE = REPOSITORY / "infra" / "template.yaml"
WHEELS = Path(__file__).with_name("cargo-lambda.txt")
TARGETS = {"arm64": "aarch64-unknown-linux-gnu", "x86_64": "x86_64-unknown-linux-gnu"}
GLIBC = (2, 34)  # what provided.al2023 has
LARGEST_MB = 5  # each zip; loading it is part of a cold start
SUMS = "SHA256SUMS"


def build(names: list[str], wanted: str) -> str:
    """Builds the functions for an architecture, and packs them. Which one it was in the end is the answer."""
    if wanted not in TARGETS:
        raise Failure(f"ARCH={wanted} is none of {', '.join(TARGETS)}")
    if not shutil.which("cargo"):
        raise Failure(f"building needs cargo:\n    {machine.RUSTUP}\n    or deploy a release, without it: ARTIFACTS=folder")
    arch = _choose(wanted)
    target = binaries(arch).parent
    with lock(target, f"building for {arch}"):
        compile_release("functions", names, TARGETS[arch], target)
        _pack({name: binaries(arch) / name / "bootstrap" for name in names}, arch)
    return arch


def compile_release(subject: str, names: list[str], triple: str, target: Path) -> None:
    """Compiles binaries for a target of Rust's; Zig brings the C compiler, the linker and the libc of each. Their places are
    `lambda/<name>/bootstrap` in the target folder."""
    npm.build()
    packages.make_venv()
    with lock(CACHE, "the Python environment"):
        packages.once("cargo-lambda", [WHEELS], _install_cargo_lambda)
    command = [packages.VENV / "bin" / "cargo-lambda", "lambda", "build", "--release", "--locked", "--target", triple, "--config", _remap(target)]
    # Of the workspace's packages these alone: else they would have what others want of the same libraries.
    command += [*selection(names), *(part for name in names for part in ("--bin", name))]
    # Flags of the shell would win over those that are set here.
    env = {name: value for name, value in os.environ.items() if name not in ("RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS")} | {
        "CARGO_TARGET_DIR": str(target),
        "CARGO_ZIGBUILD_PYTHON_PATH": str(packages.PYTHON),
        "CARGO_ZIGBUILD_CACHE_DIR": str(CACHE / "zig"),
        "ZIG_GLOBAL_CACHE_DIR": str(CACHE / "zig"),
    }
    run(subject, f"building for {triple} (11 minutes of CPU the first time)", command, CACHE / "build-release.log", lines=60, cwd=REPOSITORY, env=env)


def selection(names: list[str]) -> list[str]:
    """Cargo's arguments for the packages of functions. One whose name is a library's, too, is called otherwise."""
    manifests = (tomllib.loads((REPOSITORY / "functions" / name / "Cargo.toml").read_text()) for name in names)
    return [part for manifest in manifests for part in ("--package", manifest["package"]["name"])]


def binaries(arch: str) -> Path:
    """Where `build` leaves each function's own."""
    return CACHE / f"target-release-{arch}" / "lambda"


def _choose(wanted: str) -> str:
    """The wanted architecture, or the other one where Rust's standard library for the first is not to be had."""
    for arch in sorted(TARGETS, key=lambda arch: arch != wanted):
        refusal = install_target(TARGETS[arch])
        if not refusal:
            return arch
        say("functions", f"Rust's standard library for {arch} cannot be installed: {refusal}")
    raise Failure("neither architecture can be built here; deploy a release instead: ARTIFACTS=folder")


def install_target(target: str) -> str:
    """Installs Rust's standard library for a target. What is in the way of it; nothing, if it is there."""
    libraries = subprocess.run(["rustc", "--print", "target-libdir", "--target", target], cwd=REPOSITORY, capture_output=True, text=True)
    if list(Path(libraries.stdout.strip()).glob("libstd-*")):
        return ""
    if not shutil.which("rustup"):
        return "there is no rustup"
    say("functions", f"installing Rust's standard library for {target}")
    done = subprocess.run(["rustup", "target", "add", target], cwd=REPOSITORY, capture_output=True, text=True)
    return (done.stderr.strip().splitlines() or ["rustup failed"])[-1] if done.returncode else ""


def _install_cargo_lambda() -> None:
    command = [packages.PYTHON, "-m", "pip", "install", "--progress-bar=off", "--no-deps", "--require-hashes", "-r", WHEELS]
    run("packages", "installing cargo-lambda and Zig from PyPI (103 MB)", command, CACHE / "pip-cargo-lambda.log")


def _remap(target: Path) -> str:
    """This machine's folders, out of the binaries: the same sources are the same bytes in any folder."""
    cargo_home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    folders = {REPOSITORY: "/sluice", cargo_home: "/cargo", target: "/target"}
    return f"build.rustflags={[f'--remap-path-prefix={folder}={name}' for folder, name in folders.items()]}"


def _pack(binaries: dict[str, Path], arch: str) -> None:
    """Zips that hold up: the right machine, a libc that Lambda has, no larger than they may be."""
    faults, zips = [], {}
    row = "{:<12}{:>8}{:>12}{:>9}".format
    print(row(arch, "zip", "bootstrap", "glibc"))
    for name, binary in binaries.items():
        content = binary.read_bytes()
        packed, glibc = zips.setdefault(name, pack(content, level=9)), needed_glibc(content)
        print(row(name, f"{len(packed) / 1e6:.2f} MB", f"{len(content) / 1e6:.2f} MB", ".".join(map(str, glibc)) or "?"))
        if architecture(content) != arch:
            faults.append(f"{name} is built for {architecture(content)}")
        if not glibc or glibc > GLIBC:
            faults.append(f"{name} asks for a newer glibc than Lambda's {'.'.join(map(str, GLIBC))}, or names none")
        if len(packed) > LARGEST_MB * 1e6:
            faults.append(f"{name} is larger than {LARGEST_MB} MB")
    if faults:
        raise Failure("these functions cannot be deployed:\n    " + "\n    ".join(faults))
    for name, packed in zips.items():
        (PLACE / name).mkdir(parents=True, exist_ok=True)
        (PLACE / name / "bootstrap.zip").write_bytes(packed)


def version() -> str:
    """Of the workspace."""
    return tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["workspace"]["package"]["version"]


def commit() -> str:
    """What is checked out, by its tag if it has one."""
    if not shutil.which("git"):
        return "unknown"
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def facts(arch: str) -> dict[str, str]:
    """What the template's parameters say of the code."""
    return {"Architecture": arch, "Version": version(), "Commit": commit()}


def own_architecture() -> str:
    """This machine's, in Lambda's words."""
    return "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"


def make_folder(folder: Path, zips: dict[str, Path], arch: str) -> None:
    """The zips by their version, a template that names them, and the checksums of all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    template = TEMPLATE.read_text()
    for parameter, value in facts(arch).items():
        template = _replace_once(rf"(?<=^  {parameter}: {{ Type: String, Default: )\w+", f'"{value}"', template)
    made = ["template.yaml"]
    for name, packed in zips.items():
        file = f"{name}-{version()}-{arch}.zip"
        shutil.copyfile(packed, folder / file)
        template = _replace_once(rf"(?<=CodeUri: )\S*/{name}/bootstrap\.zip$", file, template)
        made.append(file)
    (folder / "template.yaml").write_text(template)
    (folder / SUMS).write_text("".join(f"{_sha256(folder / file)}  {file}\n" for file in made))
    say("release", f"{version()} of {commit()}, for {arch}: {folder}")


def _replace_once(pattern: str, value: str, text: str) -> str:
    text, count = re.subn(pattern, lambda _: value, text, flags=re.MULTILINE)
    if count != 1:
        raise Failure(f"{TEMPLATE} has {count} places for {value}, and should have one")
    return text


def open_folder(folder: Path) -> Path:
    """The template of a release whose files are what they were when it was made."""
    if not (folder / SUMS).exists():
        raise Failure(f"ARTIFACTS={folder} holds no {SUMS}: `make release` makes such a folder")
    sums = dict(reversed(line.split("  ", 1)) for line in (folder / SUMS).read_text().splitlines())
    used = ["template.yaml", *re.findall(r"CodeUri: (\S+)", (folder / "template.yaml").read_text())]
    for file in used:
        if not (folder / file).exists() or _sha256(folder / file) != sums.get(file):
            raise Failure(f"{folder / file} is not what {SUMS} says; take the release anew")
    return folder / "template.yaml"


def require_own_architecture(template: Path) -> None:
    """LocalStack runs the binaries on this machine."""
    arch = re.search(r"^  Architecture: { Type: String, Default: \"(\w+)\"", template.read_text(), re.MULTILINE)[1]
    if arch != own_architecture():
        raise Failure(f"the release is for {arch}, and this machine is {own_architecture()}: make release ARCH={own_architecture()}")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
