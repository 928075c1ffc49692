"""The manifests, as `kubectl apply -k` would send them. Needs kubernetes-validate; no cluster."""

import re
import shutil
import tempfile
import unittest
from pathlib import Path

import kubernetes_validate
import kustomize
import prometheus_rule
import yaml
from kustomize import containers, pod
from variables import read_by_code

FOLDER = Path(__file__).with_name("kubernetes")
VERSIONS = ("1.31", kubernetes_validate.latest_version())  # a Job's podFailurePolicy is stable since the first
OF_OTHERS = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "TriggerAuthentication"}  # of which Kubernetes has no schema


def overlays(scratch: Path) -> dict[str, list[dict]]:
    """Each overlay as it stands, and with all that it has as a comment."""
    whole = Path(shutil.copytree(FOLDER, scratch / "whole"))
    for file in whole.glob("overlays/*/kustomization.yaml"):
        file.write_text(re.sub(r"^  # - ", "  - ", file.read_text(), flags=re.M))
    found = {f"{root.name} {folder.name}": folder for root in (FOLDER, whole) for folder in (root / "overlays").iterdir()}
    return {name: kustomize.render(folder) for name, folder in found.items()}


def labels_match(selector: dict, labels: dict) -> bool:
    return bool(selector) and selector.items() <= labels.items()


class Manifests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as scratch:
            cls.rendered = overlays(Path(scratch))
        cls.monitoring = kustomize.render(FOLDER / "monitoring")

    def workloads(self) -> list[tuple[str, dict, list[dict]]]:
        """Each Deployment and Job of each overlay: its name, itself, and all that is there."""
        return [(f"{overlay}: {it['metadata']['name']}", it, resources) for overlay, resources in self.rendered.items() for it in resources if pod(it)]

    def test_each_is_valid_for_the_oldest_and_the_newest_kubernetes(self):
        for resource in [*sum(self.rendered.values(), []), *self.monitoring]:
            for version in VERSIONS if resource["kind"] not in OF_OTHERS else ():
                with self.subTest(resource["metadata"]["name"], kind=resource["kind"], version=version):
                    kubernetes_validate.validate(resource, version, strict=True)

    def test_each_file_is_part_of_an_overlay(self):
        named = set()
        for file in FOLDER.rglob("kustomization.yaml"):
            said = yaml.safe_load(re.sub(r"^  # - ", "  - ", file.read_text(), flags=re.M))
            parts = said.get("resources", []) + said.get("components", []) + [it["path"] for it in said.get("patches", []) if "path" in it]
            named |= {(file.parent / part).resolve() for part in parts}
        there = {file for file in FOLDER.rglob("*.yaml") if file.name != "kustomization.yaml"}
        self.assertEqual(there, {path for path in named if not path.is_dir()})

    def test_each_variable_is_one_that_the_binary_knows(self):
        known = read_by_code() | {"AWS_REGION"}  # the SDK's own
        for name, resource, resources in self.workloads():
            with self.subTest(name):
                [config] = [it for it in resources if it["kind"] == "ConfigMap"]
                for container in containers(resource):
                    self.assertEqual(container["envFrom"], [{"configMapRef": {"name": config["metadata"]["name"]}}])
                    self.assertEqual((config["data"].keys() | {one["name"] for one in container["env"]}) - known, set())

    def test_each_secret_is_mounted_where_its_variable_says(self):
        for name, resource, _ in self.workloads():
            with self.subTest(name):
                [container] = containers(resource)
                files = {one["value"] for one in container["env"] if one["name"].endswith("_SECRET_FILE")}
                mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
                self.assertEqual(files, mounts.keys())
                self.assertEqual(set(mounts.values()), {volume["name"] for volume in pod(resource)["spec"]["volumes"]})

    def test_the_owners_login_is_the_migrations_alone(self):
        for name, resource, _ in self.workloads():
            with self.subTest(name):
                secrets = {volume["secret"]["secretName"] for volume in pod(resource)["spec"]["volumes"]}
                self.assertEqual("sluice-database-owner" in secrets, resource["kind"] == "Job")

    def test_each_pod_is_hardened_and_has_time_to_end(self):
        for name, resource, _ in self.workloads():
            with self.subTest(name):
                spec, [container] = pod(resource)["spec"], containers(resource)
                self.assertTrue(spec["securityContext"]["runAsNonRoot"])
                self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
                self.assertFalse(spec["automountServiceAccountToken"])
                self.assertGreater(spec["terminationGracePeriodSeconds"], 30)
                self.assertEqual(
                    container["securityContext"],
                    {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
                )
                self.assertEqual(container["resources"]["limits"].keys(), {"memory"})
                self.assertIn(":", container["image"])
                self.assertNotIn("latest", container["image"])

    def test_each_probe_asks_a_port_that_is_there(self):
        for name, resource, _ in self.workloads():
            with self.subTest(name):
                [container] = containers(resource)
                asked = {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe") if resource["kind"] == "Deployment"}
                self.assertLessEqual(asked, {port["name"] for port in container.get("ports", [])})

    def test_each_selector_finds_pods_and_their_ports(self):
        for overlay, resources in self.rendered.items():
            pods = [(pod(it)["metadata"]["labels"], containers(it)[0]) for it in resources if pod(it)]
            for resource in resources:
                spec = resource.get("spec", {})
                selector = spec.get("podSelector") or spec.get("selector") or {}
                selector = selector.get("matchLabels", selector)
                with self.subTest(overlay, kind=resource["kind"], name=resource["metadata"]["name"]):
                    found = [container for labels, container in pods if labels_match(selector, labels)]
                    self.assertEqual(bool(found), bool(selector))
                    if resource["kind"] == "Deployment":
                        self.assertTrue(labels_match(selector, pod(resource)["metadata"]["labels"]))
                        self.assertEqual(len(found), 1)
                    ports = {port["name"] for container in found for port in container.get("ports", [])}
                    wanted = [port["targetPort"] for port in spec.get("ports", [])]
                    wanted += [port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]]
                    self.assertLessEqual(set(wanted), ports)

    def test_one_process_alone_is_scraped(self):
        [monitor] = [it for it in self.monitoring if it["kind"] == "ServiceMonitor"]
        [endpoint] = monitor["spec"]["endpoints"]
        for overlay, resources in self.rendered.items():
            with self.subTest(overlay):
                [service] = [it for it in resources if it["kind"] == "Service" and labels_match(monitor["spec"]["selector"]["matchLabels"], it["metadata"]["labels"])]
                self.assertIn(endpoint["port"], {port["name"] for port in service["spec"]["ports"]})
                [replicas] = [it["spec"]["replicas"] for it in resources if pod(it) and labels_match(service["spec"]["selector"], pod(it)["metadata"]["labels"])]
                self.assertEqual(replicas, 1)
                self.assertIn(f'up{{job="{service["metadata"]["labels"][monitor["spec"]["jobLabel"]]}"}}', prometheus_rule.RULES.read_text())

    def test_the_indexers_are_counted_by_the_queues_length_alone(self):
        resources = {(it["kind"], it["metadata"]["name"]): it for it in self.rendered["kubernetes queue"]}
        [scaled] = [it["spec"] for (kind, _), it in resources.items() if kind == "ScaledObject"]
        target = resources["Deployment", scaled["scaleTargetRef"]["name"]]
        self.assertNotIn("replicas", target["spec"])
        [trigger] = scaled["triggers"]
        self.assertIn(("TriggerAuthentication", trigger["authenticationRef"]["name"]), resources)
        data = resources["ConfigMap", "sluice"]["data"]
        self.assertIn(trigger["metadata"]["queueURLFromEnv"], data)
        self.assertEqual(trigger["metadata"]["awsRegion"], data["AWS_REGION"])

    def test_the_rules_are_those_of_prometheus(self):
        self.assertEqual(prometheus_rule.RESOURCE.read_text(), prometheus_rule.resource(), "python3 infra/prometheus_rule.py --write")


if __name__ == "__main__":
    unittest.main()
