"""template.yaml as plain values: `!Ref Queue` is {"Ref": "Queue"}, `!GetAtt Queue.Arn` is {"Fn::GetAtt": ["Queue", "Arn"]}."""

import json
import re
from pathlib import Path

import yaml

FILE = Path(__file__).with_name("template.yaml")


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's tags."""


def _tag(loader: _Loader, suffix: str, node: yaml.Node) -> dict:
    if isinstance(node, yaml.MappingNode):
        value = loader.construct_mapping(node, deep=True)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_scalar(node)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _tag)


def load(text: str | None = None) -> dict:
    """The whole template, or another one that is given."""
    return yaml.load(text or FILE.read_text(), _Loader)


def functions(template: dict) -> dict[str, dict]:
    """The properties of each function, by its folder's name: `trigger`, `indexer` and so on."""
    found = {}
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            found[name.removesuffix("Function").lower()] = resource["Properties"]
    return found


def holds(condition: object, template: dict, given: dict[str, str]) -> bool:
    """Whether a condition is true with these parameters; a name is one of the template's."""
    if isinstance(condition, str):
        return holds(template["Conditions"][condition], template, given)
    ((kind, of),) = condition.items()
    if kind == "Condition":
        return holds(of, template, given)
    if kind == "Fn::Equals":
        values = [given.get(one["Ref"], str(template["Parameters"][one["Ref"]].get("Default", ""))) if isinstance(one, dict) else one for one in of]
        return values[0] == values[1]
    found = [holds(one, template, given) for one in of]
    return {"Fn::Not": not found[0], "Fn::And": all(found), "Fn::Or": any(found)}[kind]


def without_idle_functions(text: str, given: dict[str, str]) -> str:
    """The template's text without the functions that a condition leaves out, and what else it leaves out that names them or that they
    name; one that anything else names stays. CloudFormation passes over them; LocalStack reads the functions' roles, which are not
    there, and refuses each further change of the stack, and the first one for a type that it does not know."""
    whole = load(text)
    resources = whole["Resources"]
    idle = {name: one for name, one in (whole["Outputs"] | resources).items() if "Condition" in one and not holds(one["Condition"], whole, given)}
    texts = {name: json.dumps(one) for name, one in idle.items()}
    for function in (name for name in idle if name in resources and resources[name]["Type"] == "AWS::Serverless::Function"):
        gone = {function}
        while more := {name for name in idle.keys() - gone if any(_names({name}, texts[one]) or _names({one}, texts[name]) for one in gone)}:
            gone |= more
        rest = text
        for name in gone:  # and from the dashboard's list of alarms
            rest = re.sub(rf', "\$\{{{name}\.Arn\}}"', "", _without(name, rest))
        text = text if _names(gone, rest) else rest
    return text


def _names(names: set[str], text: str) -> bool:
    return bool(re.search(rf"\b({'|'.join(names)})\b", text))


def _without(name: str, text: str) -> str:
    """Without the entries of this name."""
    kept, is_left_out = [], False
    for line in text.splitlines(keepends=True):
        if re.match(r"(  )?[^\s]", line):
            is_left_out = line.startswith(f"  {name}:")
        if not is_left_out:
            kept.append(line)
    return "".join(kept)
