"""The container image of `sluice`: all parts as one static binary, so that an image needs no distribution."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import artifacts
import machine
import packages
from console import Failure, run, say
from layout import CACHE, REPOSITORY, lock

BINARY = "sluice"
# With musl the C library is part of the binary.
TARGETS = {"arm64": "aarch64-unknown-linux-musl", "x86_64": "x86_64-unknown-linux-musl"}
OCI = {"arm64": "arm64", "x86_64": "amd64"}  # how images call the architectures
RECIPE = REPOSITORY / "infra" / "container" / "Containerfile"
PLACE = REPOSITORY / "target" / "image"
LARGEST_MB = 25  # compressed, as it is pulled
LOG = CACHE / "image.log"


def name() -> str:
    """Of an image that is given no other."""
    return f"{BINARY}:{artifacts.version()}"


def build(arch: str) -> Path:
    """The folder of an image's files: the binary, and the public authorities."""
    if arch not in TARGETS:
        raise Failure(f"ARCH={arch} is none of {', '.join(TARGETS)}")
    if not shutil.which("cargo"):
        raise Failure(f"building needs cargo:\n    {machine.RUSTUP}")
    if refusal := artifacts.install_target(TARGETS[arch]):
        raise Failure(f"Rust's standard library for {TARGETS[arch]} cannot be installed: {refusal}")
    target, files = CACHE / f"target-image-{arch}", PLACE / arch
    with lock(target, f"building {BINARY} for {arch}"):
        artifacts.compile_release(BINARY, [BINARY], TARGETS[arch], target)
        files.mkdir(parents=True, exist_ok=True)
        shutil.copy(target / "lambda" / BINARY / "bootstrap", files / BINARY)
        shutil.copy(_authorities(), files / "ca-certificates.crt")
    say(BINARY, f"{artifacts.version()} of {artifacts.commit()}: {files / BINARY}")
    return files


def make(arch: str, tag: str) -> None:
    """Builds the binary and packs it under this name: an archive in OCI's format."""
    pack = _packer()
    files, archive = build(arch), PLACE / f"{BINARY}-{arch}.tar"
    facts = {"VERSION": artifacts.version(), "REVISION": artifacts.commit()}
    archive.unlink(missing_ok=True)
    pack(files, OCI[arch], tag, [part for fact, value in facts.items() for part in ("--build-arg", f"{fact}={value}")], archive)
    megabytes = archive.stat().st_size / 1e6
    if megabytes > LARGEST_MB:
        raise Failure(f"{archive} has {megabytes:.1f} MB, and {LARGEST_MB} are the most")
    say("image", f"{tag}, {megabytes:.1f} MB: {archive}")


def _packer():
    """Docker, which then has the image for Compose, or else buildah, which needs no daemon."""
    if shutil.which("docker") and not subprocess.run(["docker", "info"], capture_output=True).returncode:
        return _docker
    if shutil.which("buildah"):
        return _buildah
    raise Failure(f"an image is made by a Docker daemon that answers, or by buildah:\n    {machine.APT} --no-install-recommends buildah crun")


def _buildah(files: Path, arch: str, tag: str, given: list[str], archive: Path) -> None:
    with tempfile.TemporaryDirectory() as storage:  # `vfs` works in containers, too, where overlays do not
        buildah = ["buildah", "--root", f"{storage}/root", "--runroot", f"{storage}/run", "--storage-driver", "vfs"]
        made = ["bud", "--isolation", "chroot", "--timestamp", _committed_at(), "--arch", arch, *given, "-t", tag, "-f", RECIPE, files]
        run("image", "packing it by buildah", [*buildah, *made], LOG)
        run("image", "writing the archive", [*buildah, "push", tag, f"oci-archive:{archive}:{tag}"], LOG)


def _docker(files: Path, arch: str, tag: str, given: list[str], archive: Path) -> None:
    run("image", "packing it by Docker", ["docker", "build", "--platform", f"linux/{arch}", *given, "-t", tag, "-f", RECIPE, files], LOG)
    run("image", "writing the archive", ["docker", "save", "-o", archive, tag], LOG)


def _committed_at() -> str:
    """Stands for all dates in the image, so that the same commit gives the same one."""
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=REPOSITORY, capture_output=True, text=True)
    return done.stdout.strip() or "0"


def _authorities() -> str:
    """Mozilla's, as the Python environment has them: pinned, whatever this machine trusts."""
    packages.install()
    done = subprocess.run([packages.PYTHON, "-c", "import certifi; print(certifi.where())"], capture_output=True, text=True, check=True)
    return done.stdout.strip()
