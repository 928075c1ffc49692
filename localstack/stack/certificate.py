"""A private authority of a stack's own, and a server certificate by it, so that TLS can be tried on every machine."""

import os
import subprocess
from pathlib import Path

import process
from console import Failure
from layout import Stack, lock


def make(stack: Stack) -> Path:
    """The folder with `ca.pem`, `server.pem` and `server.key`, made if need be."""
    with lock(stack.tls, "making a certificate"):
        if not (stack.tls / "server.pem").exists():
            _make(stack.tls)
    return stack.tls


def _make(tls: Path) -> None:
    key, certificate, names = tls / "server.key", tls / "server.pem", tls / "names"
    names.write_text("basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    signed = ["-CA", tls / "ca.pem", "-CAkey", tls / "ca.key", "-CAcreateserial", "-extfile", names, "-days", "3650"]
    for command in (
        ["req", "-x509", *new_key, "-keyout", tls / "ca.key", "-out", tls / "ca.pem", "-days", "3650", "-subj", "/CN=Sluice stack"],
        ["req", *new_key, "-keyout", key, "-out", tls / "server.csr", "-subj", "/CN=localhost"],
        ["x509", "-req", "-in", tls / "server.csr", *signed, "-out", certificate],
    ):
        done = subprocess.run(["openssl", *command], capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"openssl {command[0]} failed: {done.stderr.strip()}")
    key.chmod(0o600)  # PostgreSQL refuses a key that others can read
    if os.geteuid() == 0:
        os.chown(key, process.SERVER_USER, process.SERVER_USER)
