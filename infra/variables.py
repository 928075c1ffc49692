"""The variables that the code reads, found in the code."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
READ = re.compile(r'\.(?:required|optional|parsed|duration)\(\s*"([A-Z][A-Z_]+)"')
# The one binary has tables, and helpers that take a name, beside it.
CREDENTIALS = re.compile(r'\("([A-Z][A-Z_]+)", (?:None|Some\("([A-Z][A-Z_]+)"\))\)')
AUTHORITIES = re.compile(r"const AUTHORITIES: .*? = \[(.*?)\];", re.S)
HELPERS = re.compile(r'(?:\baddress\(&mut \w+, |\btoken\(|\bvalues\.get\()"([A-Z][A-Z_]+)"')


def read_by_code() -> set[str]:
    """Those that functions and libraries ask for, tests left out."""
    found = set()
    for folder in ("functions", "shared"):
        for file in (REPOSITORY / folder).glob("*/src/**/*.rs"):
            found |= set(READ.findall(_text(file)))
    for file in (REPOSITORY / "functions" / "sluice" / "src").glob("**/*.rs"):
        found |= _read_by_the_binary(_text(file))
    return found


def _read_by_the_binary(text: str) -> set[str]:
    found = set(HELPERS.findall(text))
    for name, variable in CREDENTIALS.findall(text):
        found |= {f"{name}_SECRET_FILE", f"{name}_SECRET_ARN", variable or f"{name}_SECRET_FILE"}
    for names in AUTHORITIES.findall(text):
        found |= {f"{name}_FILE" for name in re.findall(r'"(\w+)"', names)}
    return found


def _text(file: Path) -> str:
    """Without the tests at its end."""
    return file.read_text().partition("#[cfg(test)]\nmod ")[0]
