"""What `kubectl kustomize` makes of a folder, as far as the folders in infra/kubernetes use it, so that tests need no kubectl. A
generated ConfigMap has no hash in its name."""

import re
from pathlib import Path

import yaml

KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "configMapGenerator", "patches", "images"}
# The lists that a patch merges by a field; any other list is replaced.
MERGED_BY = {"containers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath", "ports": "containerPort"}


def render(folder: Path) -> list[dict]:
    """The resources of an overlay."""
    found: list[dict] = []
    _add(folder, found)
    return found


def _add(folder: Path, found: list[dict]) -> None:
    """In kustomize's order: resources, components, what is generated, what is changed."""
    said = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := said.keys() - KNOWN:
        raise ValueError(f"{folder}: {', '.join(unknown)} is nothing that kustomize.py knows; teach it")
    for name in said.get("resources", []):
        if (folder / name).is_dir():
            _add(folder / name, found)
        else:
            found += yaml.safe_load_all((folder / name).read_text())
    for name in said.get("components", []):
        _add(folder / name, found)
    for one in said.get("configMapGenerator", []):
        _generate(one, found)
    for one in said.get("patches", []):
        patch = yaml.safe_load(one["patch"] if "patch" in one else (folder / one["path"]).read_text())
        for resource in found:
            if all(re.fullmatch(wanted, {"kind": resource["kind"], "name": resource["metadata"]["name"]}[field]) for field, wanted in one["target"].items()):
                _merge(resource, {part: value for part, value in patch.items() if part not in ("apiVersion", "kind")} | _metadata(patch))
    for image in said.get("images", []):
        for container in (container for resource in found for container in containers(resource)):
            if container["image"] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
    if namespace := said.get("namespace"):
        for resource in found:
            resource["metadata"]["namespace"] = namespace


def _metadata(patch: dict) -> dict:
    """Whatever a patch is called, a resource keeps its name."""
    return {"metadata": {field: value for field, value in patch["metadata"].items() if field != "name"}}


def _generate(one: dict, found: list[dict]) -> None:
    data = dict(literal.split("=", 1) for literal in one["literals"])
    if one.get("behavior") == "merge":
        [there] = [it for it in found if it["kind"] == "ConfigMap" and it["metadata"]["name"] == one["name"]]
        there["data"] |= data
    else:
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": one["name"]}, "data": data})


def _merge(into: dict, patch: dict) -> None:
    """A strategic merge."""
    for field, value in patch.items():
        if isinstance(value, dict):
            _merge(into.setdefault(field, {}), value)
        elif field in MERGED_BY:
            key, there = MERGED_BY[field], into.setdefault(field, [])
            for item in value:
                for known in (known for known in there if known[key] == item[key]):
                    _merge(known, item)
                    break
                else:
                    there.append(item)
        else:
            into[field] = value


def pod(resource: dict) -> dict | None:
    """The template of a workload's pods; None if it has none."""
    return resource.get("spec", {}).get("template")


def containers(resource: dict) -> list[dict]:
    """Those of a workload's pods."""
    template = pod(resource)
    return template["spec"]["containers"] if template else []
