"""What `make image` has made: nothing but the binary and the authorities, for a user without rights, on a root that nobody writes to.
Needs root, and the image. `make soak` makes it; `unittest discover` passes this folder by, since compiling takes minutes."""

import json
import platform
import re
import subprocess
import tarfile
import tempfile
import tomllib
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ARCH = {"aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "x86_64")
ARCHIVE = REPOSITORY / "target" / "image" / f"sluice-{ARCH}.tar"
VERSION = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["workspace"]["package"]["version"]
RUN = """mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec chroot --userspec=65532:65532 "$1" /usr/local/bin/sluice --version"""


class Image(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """Unpacks the archive: an index names the manifest, and that the configuration and the layers."""
        if not ARCHIVE.exists():
            raise AssertionError(f"there is no {ARCHIVE}: make image")
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        archive, cls.root = Path(scratch.name) / "archive", Path(scratch.name) / "root"
        Path(scratch.name).chmod(0o755)
        with tarfile.open(ARCHIVE) as file:
            file.extractall(archive, filter="data")
        blob = lambda it: archive / "blobs" / it["digest"].replace(":", "/")  # noqa: E731
        [listed] = json.loads((archive / "index.json").read_text())["manifests"]
        manifest = json.loads(blob(listed).read_text())
        cls.image = json.loads(blob(manifest["config"]).read_text())
        cls.root.mkdir(mode=0o755)
        for layer in manifest["layers"]:
            with tarfile.open(blob(layer)) as file:
                file.extractall(cls.root, filter="tar")

    def test_there_is_nothing_but_the_binary_and_the_authorities(self):
        found = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir()}
        self.assertEqual(found, {"usr/local/bin/sluice", "etc/ssl/certs/ca-certificates.crt"})

    def test_it_starts_all_configured_parts_as_a_user_who_is_nobody(self):
        config = self.image["config"]
        self.assertEqual(config["User"], "65532:65532")
        self.assertEqual(config["Entrypoint"] + config["Cmd"], ["/usr/local/bin/sluice", "run"])
        self.assertEqual(self.image["architecture"], {"x86_64": "amd64"}.get(ARCH, ARCH))

    def test_its_labels_say_what_it_is_and_of_which_commit(self):
        labels = {name.removeprefix("org.opencontainers.image."): value for name, value in self.image["config"]["Labels"].items()}
        self.assertEqual((labels["title"], labels["version"], labels["licenses"]), ("Sluice", VERSION, "Apache-2.0"))
        self.assertRegex(labels["revision"], r"[0-9a-f]{7,}")
        self.assertTrue(labels["description"])

    def test_the_binary_runs_by_itself_on_a_root_that_is_read_only(self):
        done = subprocess.run(["unshare", "--mount", "sh", "-c", RUN, "sh", self.root], capture_output=True, text=True)
        self.assertTrue(done.returncode == 0 and re.search(rf"\b{re.escape(VERSION)}\b", done.stdout), f"{done.stdout}{done.stderr}")


if __name__ == "__main__":
    unittest.main()
