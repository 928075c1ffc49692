"""template.yaml as plain values: `!Ref Queue` is {"Ref": "Queue"}, `!GetAtt Queue.Arn` is {"Fn::GetAtt": ["Queue", "Arn"]}."""

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
