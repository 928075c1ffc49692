"""The Java that servers run on: alone, since Kafka wants one as the search servers do."""

import os
import re
import shutil
from pathlib import Path


def find_java(major: int, below: int | None = None) -> Path | None:
    """A Java home of at least `major`: JAVA_HOME, the one on the PATH, or any in /usr/lib/jvm."""
    homes = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    if on_path := shutil.which("java"):
        homes.append(Path(on_path).resolve().parents[1])
    homes += sorted(Path("/usr/lib/jvm").glob("*"))
    for home in homes:
        facts = home / "release"
        found = re.search(r'JAVA_VERSION="(\d+)', facts.read_text()) if facts.exists() else None
        if not found or int(found[1]) < major or (below and int(found[1]) >= below):
            continue
        # From 9 on Elasticsearch needs the module jdk.jlink, which a JRE lacks.
        if major < 21 or (home / "bin" / "jlink").exists():
            return home
    return None
