"""A function's binary, and the zip in which Lambda takes it."""

import io
import re
import struct
import zipfile

MACHINES = {62: "x86_64", 183: "arm64"}  # ELF's numbers, Lambda's names


def pack(bootstrap: bytes, level: int) -> bytes:
    """The zip; the same from the same binary, whenever and wherever it is made."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        entry = zipfile.ZipInfo("bootstrap")  # its date is 1980's, always
        entry.create_system, entry.external_attr = 3, 0o755 << 16
        archive.writestr(entry, bootstrap, zipfile.ZIP_DEFLATED, level)
    return packed.getvalue()


def architecture(bootstrap: bytes) -> str | None:
    """For which machine it is built; None if for neither that Lambda has."""
    return MACHINES.get(struct.unpack_from("<H", bootstrap, 18)[0]) if bootstrap.startswith(b"\x7fELF") else None


def needed_glibc(bootstrap: bytes) -> tuple[int, ...]:
    """The newest version of glibc that its symbols ask for, by their versions' names in the string table."""
    versions = re.findall(rb"\0GLIBC_(\d+(?:\.\d+)+)(?=\0)", bootstrap)
    return max((tuple(map(int, version.split(b"."))) for version in versions), default=())
