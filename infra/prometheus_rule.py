"""infra/prometheus/rules.yaml as a resource of the Prometheus Operator: `--write` puts it into infra/kubernetes/monitoring, without it
a difference is a failure."""

import sys
from pathlib import Path

RULES = Path(__file__).parent / "prometheus" / "rules.yaml"
RESOURCE = Path(__file__).parent / "kubernetes" / "monitoring" / "prometheus-rule.yaml"
HEAD = """# Written by infra/prometheus_rule.py: edit infra/prometheus/rules.yaml instead.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: sluice
  labels: { app.kubernetes.io/name: sluice }
spec:
"""


def resource() -> str:
    """The rules, two columns to the right."""
    return HEAD + "".join(f"  {line}" if line.strip() else line for line in RULES.read_text().splitlines(keepends=True))


def main() -> None:
    if "--write" in sys.argv:
        RESOURCE.write_text(resource())
    elif RESOURCE.read_text() != resource():
        sys.exit(f"{RESOURCE} is not what {RULES} says: python3 infra/prometheus_rule.py --write")


if __name__ == "__main__":
    main()
