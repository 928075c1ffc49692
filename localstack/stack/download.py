"""Fetches what the stack is made of: once, verified, resumed where it was interrupted."""

import hashlib
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import zipfile
from contextlib import suppress
from pathlib import Path

import packages
from console import Failure, run, say
from layout import DOWNLOADS, lock

MAVEN_CENTRAL = "https://repo.maven.apache.org/maven2"


def digest_of(file: Path, algorithm: str = "sha512") -> str:
    """The file's checksum, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def maven_artifact(subject: str, artifact: str, kind: str, digest: str, repository: str | None = None) -> Path:
    """An artifact `group:name:version` of Maven Central, as a zip or a jar whose SHA-512 is `digest`."""
    group, name, version = artifact.split(":")
    path = f"{group.replace('.', '/')}/{name}/{version}/{name}-{version}.{kind}"
    file = DOWNLOADS / Path(path).name
    with lock(DOWNLOADS, "a download"):
        if file.exists():
            return file  # it got its name after it was verified
        local = Path.home() / ".m2" / "repository" / path
        if local.exists() and digest_of(local) == digest:
            return local
        partial = file.with_suffix(".part")
        try:
            _resume(subject, f"{repository or MAVEN_CENTRAL}/{path}", partial)
        except (urllib.error.URLError, OSError) as error:
            if repository or not shutil.which("mvn"):
                raise Failure(
                    f"{subject}: {file.name} cannot be downloaded from {repository or MAVEN_CENTRAL}: {error}\n"
                    f"    Run the command again (it resumes), or name a mirror:  make up MAVEN_REPOSITORY=https://…/maven2"
                ) from error
            goal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:get"
            run(subject, f"no direct way to Maven Central ({error}); fetching {file.name} by mvn",
                ["mvn", "-q", "-B", goal, f"-Dartifact={artifact}:{kind}", "-Dtransitive=false"], DOWNLOADS / "mvn.log")  # fmt: skip
            shutil.copyfile(local, partial)
        if (found := digest_of(partial)) != digest:
            partial.unlink()
            raise Failure(f"{subject}: {file.name} is not what it should be (SHA-512 {found[:16]}…); it was thrown away")
        partial.replace(file)
    return file


def maven_folder(subject: str, listed: Path, home: Path, repository: str | None = None) -> Path:
    """The jars that a file lists, in the folder `home`, once. A line is `group:name:version` and the SHA-512."""
    with lock(home.parent / subject, f"installing {subject}"):
        if not home.exists():
            scratch = home.with_name(f"{home.name}.new")
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            wanted = [line.split() for line in listed.read_text().splitlines() if not line.startswith("#")]
            say(subject, f"downloading {home.name}, {len(wanted)} jars")
            for artifact, digest in wanted:
                shutil.copy(maven_artifact(subject, artifact, "jar", digest, repository), scratch)
            scratch.rename(home)
    return home


def _resume(subject: str, url: str, partial: Path) -> None:
    """Downloads to `partial`, going on where an earlier try ended; a lost connection is taken up again five times."""
    for attempt in range(6):
        try:
            return _fetch_rest(subject, url, partial)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing is left to fetch
                return None
            raise
        except OSError as error:
            if attempt == 5:
                raise
            say(subject, f"  … connection lost ({error}); going on")
            time.sleep(attempt)
    return None


def _fetch_rest(subject: str, url: str, partial: Path) -> None:
    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        if answer.status != 206:
            done = 0
        total = done + int(answer.headers.get("Content-Length", 0))
        if total > 5e6:  # Kafka is many small files
            say(subject, f"downloading {Path(url).name}, {total / 1e6:.0f} MB" + (f", from {done / 1e6:.0f} MB on" if done else ""))
        told = time.monotonic()
        with partial.open("ab" if done else "wb") as out:
            while chunk := answer.read(1 << 20):
                done += out.write(chunk)
                if time.monotonic() - told > 5:
                    told = time.monotonic()
                    say(subject, f"  … {done / 1e6:.0f} of {total / 1e6:.0f} MB")
        if done < total:
            raise OSError(f"{total - done} bytes are missing")


def unpack(archive: Path, into: Path, below: str = "") -> None:
    """Extracts a zip as `into`: all of it, or what is in the folder `below` (a part of its name may be `*`)."""
    wanted = Path(below).parts
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            parts = Path(info.filename).parts
            if info.is_dir() or ".." in parts or not all(want in ("*", have) for want, have in zip(wanted, parts)):
                continue
            target = into.joinpath(*parts[len(wanted) :])
            target.parent.mkdir(parents=True, exist_ok=True)
            with zipped.open(info) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out)
            target.chmod(info.external_attr >> 16 & 0o777 | 0o644)  # the servers' user must be able to read it


def pip_download(subject: str, requirements: Path, into: Path) -> Path:
    """The one wheel that `requirements` names, verified against the hash there."""
    into.mkdir(parents=True, exist_ok=True)
    command = [packages.make_venv(), "-m", "pip", "download", "--no-deps", "--require-hashes", "-r", requirements, "-d", into]
    run(subject, f"downloading {requirements.read_text().split()[0]} from PyPI", command, into / "pip.log")
    return next(into.glob("*.whl"))


def debian_folder(subject: str, listed: Path, home: Path) -> Path:
    """The packages that a file lists, unpacked into `home`, once; nothing is installed on the machine."""
    with lock(DOWNLOADS / subject, f"installing {subject}"):
        if not home.exists():
            scratch = home.with_name(f"{home.name}.new")
            shutil.rmtree(scratch, ignore_errors=True)
            for package in debian_packages(subject, listed, scratch / "packages"):
                subprocess.run(["dpkg-deb", "-x", package, scratch], check=True)
            shutil.rmtree(scratch / "packages")
            scratch.rename(home)
    return home


def debian_packages(subject: str, listed: Path, into: Path) -> list[Path]:
    """The packages that a file lists, by apt, which verifies Debian's signatures. It works in `into`, on lists of its own: so it
    needs no root, and the machine's lists may be old or missing. A line is a name, or `name=version` and the SHA-256."""
    wanted = [line.split() for line in listed.read_text().splitlines() if not line.startswith("#")]
    for part in ("lists/partial", "cache/archives/partial"):
        (into / part).mkdir(parents=True, exist_ok=True)
    apt = ["apt-get", "-q", "-o", f"Dir::State::lists={into}/lists", "-o", f"Dir::Cache={into}/cache"]
    with suppress(Failure):  # of a source that has nothing to do with it; what is missing is missed below
        run(subject, "reading which packages Debian has", [*apt, "update"], into / "update.log")
    names = [name for name, *_ in wanted]
    run(subject, f"downloading {names[0]} and {len(wanted) - 1} more from Debian", [*apt, "download", *names], into / "apt.log", cwd=into)
    for name, *digest in wanted:
        file = next(into.glob(f"{name.partition('=')[0]}_*.deb"))
        if digest and digest_of(file, "sha256") != digest[0]:
            raise Failure(f"{subject}: {file.name} is not what it should be (SHA-256 {digest_of(file, 'sha256')[:16]}…)")
    return sorted(into.glob("*.deb"))
