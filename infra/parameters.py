"""The parameters of a deploy: where they are written, and what is wrong with them, told before anything is made."""

import json
import re
import sys
from pathlib import Path

import template
from older_names import INSTEAD

ENVIRONMENT_BYTES = 4096  # Lambda's limit on all variables of a function, their names included
VALUE_BYTES = 4096  # CloudFormation's on one parameter
# Of what is made only while a deploy goes on, the longest that AWS may give: a queue's URL, and that of a function.
QUEUE_URL = len("https://sqs..amazonaws.com.cn//") + len("ap-southeast-99") + 12 + 80
FUNCTION_URL = len("https://.lambda-url..on.aws/") + 32 + len("ap-southeast-99")
WEBSOCKET_URL = len("https://.execute-api..amazonaws.com.cn/live") + 10 + len("ap-southeast-99")
STACK_NAME = 128
# AWS has no function URLs there, as of June 2026: Lambda's developer guide, "Creating and managing Lambda function URLs".
WITHOUT_FUNCTION_URLS = {
    "ap-east-2", "ap-south-2", "ap-southeast-4", "ap-southeast-5", "ap-southeast-6", "ap-southeast-7", "ca-west-1", "eu-central-2", "eu-south-2",
    "il-central-1", "me-central-1",
}  # fmt: skip
# A word that has more than one capital letter.
WORDS = {"CLICKHOUSE": "ClickHouse"}


def read(file: Path | None) -> dict[str, str]:
    """A JSON object, or lines `DATABASE_SECRET_ARN=…` as in .env (`@file` stands for its text)."""
    if not file:
        return {}
    if file.suffix == ".json":
        return json.loads(file.read_text())
    parameters = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[A-Z0-9_]+", name.strip()):
            sys.exit(f"{file}, line {number}: expected NAME=value")
        value = value.strip().strip("'\"")
        if value:
            parameter = "".join(WORDS.get(word, word.capitalize()) for word in name.strip().split("_"))
            is_path = value.startswith("@") and parameter not in INSTEAD  # among those is a password
            parameters[parameter] = Path(value[1:]).read_text() if is_path else value
    return parameters


def as_written(name: str) -> str:
    """`DatabaseSecretArn` as .env has it."""
    for written, word in WORDS.items():
        name = name.replace(word, written.capitalize())
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()


def problems(whole: dict, given: dict[str, str], region: str) -> list[str]:
    """All that is wrong with them, by name. What a value has to look like, and which go together, CloudFormation says itself."""
    known = whole["Parameters"]
    found = [f"{as_written(name)} is a name of another service: {INSTEAD[name]}" for name in sorted(given.keys() & INSTEAD.keys())]
    found += [f"the template has no parameter {name}" for name in sorted(given.keys() - known.keys() - INSTEAD.keys())]
    needed = {name for name, parameter in known.items() if "Default" not in parameter}
    found += [f"there is no value for {as_written(name)}" for name in sorted(needed - given.keys())]
    if found:
        return found
    for name, value in given.items():
        if (size := len(value.encode())) > VALUE_BYTES:
            found.append(f"{as_written(name)} has {size:,} bytes, and CloudFormation takes {VALUE_BYTES:,}")
    values = {name: str(parameter.get("Default", "")) for name, parameter in known.items()} | given
    for function, size in environments(whole, {name: len(value.encode()) for name, value in values.items()}).items():
        if size > ENVIRONMENT_BYTES:
            found.append(f"the variables of {function} would have {size:,} bytes, and Lambda takes {ENVIRONMENT_BYTES:,}: shorten what is longest")
    if region in WITHOUT_FUNCTION_URLS:
        where = f"AWS has no function URLs in {region}"
        if values["AdminUrl"] != "none":
            found.append(f"{where}, so there is no dashboard: set ADMIN_URL=none")
        if values["Sync"]:
            found.append(f"{where}, so clients cannot pull: leave SYNC empty")
        if values["Demo"] == "true" and not values["OriginUrl"]:
            found.append(f"{where}, so the demo's own origin cannot be there: set DEMO=false, or ORIGIN_URL")
    return found


def longest(whole: dict) -> dict[str, int]:
    """The most bytes that each parameter may have, by what the template allows; without a limit, CloudFormation's."""
    found = {}
    for name, parameter in whole["Parameters"].items():
        if "AllowedValues" in parameter:
            found[name] = max(len(str(value)) for value in parameter["AllowedValues"])
        elif parameter["Type"] == "Number":
            found[name] = len(str(parameter.get("MaxValue", 2**63)))
        else:
            found[name] = parameter.get("MaxLength", VALUE_BYTES)
    return found


def environments(whole: dict, sizes: dict[str, int]) -> dict[str, int]:
    """The bytes of each function's variables, where the parameters have these sizes: never less than they will be."""
    for_all = whole["Globals"]["Function"]["Environment"]["Variables"]
    return {
        function: sum(len(name) + _size(value, sizes, whole["Resources"]) for name, value in variables.items())
        for function, properties in template.functions(whole).items()
        for variables in [for_all | properties.get("Environment", {}).get("Variables", {})]
    }


def _size(value: object, sizes: dict[str, int], resources: dict) -> int:
    match value:
        case {"Ref": "AWS::StackName"}:
            return STACK_NAME
        case {"Ref": name} if name in sizes:
            return sizes[name]
        case {"Ref": name} if resources[name]["Type"] == "AWS::SQS::Queue":
            return QUEUE_URL
        case {"Fn::If": [_, yes, no]}:
            return max(_size(yes, sizes, resources), _size(no, sizes, resources))
        case {"Fn::Sub": str(text)} if re.findall(r"\$\{(.+?)\}", text) == ["OriginFunctionUrl.FunctionUrl"]:
            return FUNCTION_URL + len(text)
        case {"Fn::Sub": str(text)} if re.findall(r"\$\{(.+?)\}", text) == ["SyncApi", "AWS::Region", "AWS::URLSuffix"]:
            return WEBSOCKET_URL
        case str() | int() | float():
            return len(str(value))
    raise ValueError(f"parameters: how long {value} may be is not known; teach parameters.py")
