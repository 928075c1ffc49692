"""What each function's role may do, out of template.yaml into infra/README.md. Fails where anything is allowed on `*`.

    roles.py --check | --write
"""

import re
import sys
from pathlib import Path

import blocks
import template

PAGE = Path(__file__).with_name("README.md")
FOR_ALL = "NotForTheCode"  # the policy that denies; each function has it


def listed(value: object) -> list:
    """IAM writes a list of one without the list."""
    return value if isinstance(value, list) else [value]


def in_words(resource: object) -> str:
    """A resource as the page has it: the template's name of a queue, the parameter of a secret."""
    match resource:
        case {"Ref": name}:
            return f"`{name}`"
        case {"Fn::GetAtt": [name, "Arn"]}:
            return f"`{name}`"
        case {"Fn::If": [condition, yes, {"Ref": "AWS::NoValue"}]}:
            return f"{in_words(yes)} (if {condition})"
        # What is below one thing, such as a domain of OpenSearch: its paths.
        case {"Fn::Sub": str() as path} if below := re.fullmatch(r"\$\{(\w+)\}/\*", path):
            return f"`{below[1]}/*`"
        # One method of API Gateway's way to its connections.
        case {"Fn::Sub": str() as path} if of := re.search(r":\$\{(\w+)\}/(\w+)/(POST|DELETE)/@connections/\*$", path):
            return f"`{of[3]}` of the connections of `{of[1]}`, stage `{of[2]}`"
        case str() if "*" not in resource:
            return f"`{resource}`"
    sys.exit(f"roles: {resource} is not one resource; name it")


def rows(name: str, function: dict) -> list[list[str]]:
    """One for each action and the resources that it is allowed on."""
    if strangers := [event for event in function.get("Events", {}).values() if event["Type"] != "Schedule"]:
        sys.exit(f"roles: for an event of type {strangers[0]['Type']}, SAM lets {name} read from all there are; write an AWS::Lambda::EventSourceMapping")
    found = []
    policies = list(function.get("Policies", []))
    if {"Ref": FOR_ALL} not in policies:
        sys.exit(f"roles: {name} may do what {FOR_ALL} denies to all others; add it to its policies")
    policies.remove({"Ref": FOR_ALL})
    for policy in policies:
        only = ""
        match policy:
            case {"Fn::If": [condition, policy, {"Ref": "AWS::NoValue"}]}:
                only = f" (if {condition})"
        if not isinstance(policy, dict) or policy.keys() != {"Statement"}:
            sys.exit(f"roles: {name} has the policy {policy}; write its statements out")
        for statement in policy["Statement"]:
            if statement["Effect"] != "Allow" or statement.keys() - {"Sid", "Effect", "Action", "Resource"}:
                sys.exit(f"roles: {name}: the statement {statement.get('Sid')} is more than actions on resources; teach roles.py to tell it")
            for action in listed(statement["Action"]):
                if "*" in action:
                    sys.exit(f"roles: {name} may {action}; name the actions")
                resources = [in_words(resource) for resource in listed(statement["Resource"])]
                found.append([name, f"`{action}`", ", ".join(resources) + only])
    return found


def denied(policy: dict) -> list[list[str]]:
    """One row for each action that no function may do, and when."""
    found = []
    for statement in policy["PolicyDocument"]["Statement"]:
        if statement["Effect"] != "Deny" or statement["Resource"] != "*":
            sys.exit(f"roles: {FOR_ALL} is for what is denied everywhere; {statement.get('Sid')} is something else")
        who = "the code; Lambda itself may" if "Condition" in statement else "the code and Lambda"
        found += [[f"`{action}`", who] for action in listed(statement["Action"])]
    return found


def main() -> None:
    resources = template.load()["Resources"]
    # AdminCallers is for people, who are no function; docs/security.md tells it, and test_admin.py holds it.
    if strangers := [name for name, resource in resources.items() if resource["Type"].startswith("AWS::IAM::") and name not in (FOR_ALL, "AdminCallers")]:
        sys.exit(f"roles: {', '.join(strangers)} would be missing from the page; put statements beside their function")
    functions = template.functions({"Resources": resources})
    table = blocks.table(["function", "action", "resource"], [row for name, function in functions.items() for row in rows(name, function)])
    denials = blocks.table(["action", "denied to"], denied(resources[FOR_ALL]["Properties"]))
    blocks.main("infra/roles.py", PAGE, {"roles": table, "denied": denials})


main()
