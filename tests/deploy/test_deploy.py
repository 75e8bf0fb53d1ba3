"""What `deploy/` holds is taken by the programs that read it, and speaks of settings, metrics and images that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.docs.test_configurations import COMPOSE
from tests.docs.test_references import known_settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DEPLOYMENT = (ROOT / "docs" / "deployment.md").read_text()
METRICS = {
    name
    for line in re.findall(r"^\| `spectrum_.*", DEPLOYMENT, re.MULTILINE)
    for name in re.findall(r"`(spectrum_\w+)", line)
}
NOT_SHOWN = {
    "spectrum_redis_up",
    "spectrum_event_listeners",
    "spectrum_queue_messages",
    "spectrum_jobs_accepted_total",
    "spectrum_jobs_cached_total",
    "spectrum_attempts_total",
    "spectrum_give_backs_total",
    "spectrum_webhook_attempts_total",
}
RULES = yaml.safe_load((DEPLOY / "prometheus" / "spectrum-rules.yml").read_text())
DASHBOARD = json.loads((DEPLOY / "grafana" / "spectrum-dashboard.json").read_text())
KUBERNETES_VERSIONS = ("1.30", "1.37")


def manifests(*names: str) -> list[dict[str, Any]]:
    files = [DEPLOY / "kubernetes" / f"{name}.yaml" for name in names]
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


RESOURCES = manifests("redis", "service", "worker")
PODS = {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in RESOURCES if "template" in each["spec"]}


def metrics_in(expression: str) -> set[str]:
    named = re.findall(r"\bspectrum_\w+", expression)
    return {re.sub("_(count|bucket|sum)$", "", name) for name in named}


def test_rules_are_those_of_the_documentation_with_what_they_mean() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", DEPLOYMENT, re.DOTALL)
    (documented,) = (yaml.safe_load(block) for block in blocks if block.startswith("groups"))
    rules = RULES["groups"][0]["rules"]
    kept = [{name: rule[name] for name in ("alert", "expr", "for") if name in rule} for rule in rules]
    assert kept == documented["groups"][0]["rules"]
    for rule in rules:
        assert metrics_in(rule["expr"]) <= METRICS
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_promtool_takes_the_rules() -> None:
    promtool = shutil.which("promtool") or pytest.skip("promtool is not installed")
    command = [promtool, "check", "rules", DEPLOY / "prometheus" / "spectrum-rules.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_takes_the_dashboard_and_shows_every_metric_of_jobs_and_workers() -> None:
    read = Dashboard.from_json(DASHBOARD)
    assert read.title == "Spectrum server"
    assert len(read.panels or []) == len(DASHBOARD["panels"])
    shown = {name for panel in DASHBOARD["panels"] for each in panel["targets"] for name in metrics_in(each["expr"])}
    assert shown <= METRICS
    assert METRICS - shown == NOT_SHOWN


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("resource", RESOURCES, ids=lambda each: f"{each['kind']} {each['metadata']['name']}")
def test_kubernetes_knows_every_field(resource: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(resource, version, strict=True)


def test_kustomize_has_every_file_but_the_one_that_needs_keda() -> None:
    (kustomization,) = manifests("kustomization")
    files = {path.name for path in (DEPLOY / "kubernetes").iterdir()}
    assert files == {*kustomization["resources"], "kustomization.yaml", "scaling.yaml"}
    images = {image["name"] for image in kustomization["images"]}
    assert images == {container["image"] for pod in PODS.values() for container in pod["containers"]}
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert {image.removeprefix("spectrum-") for image in images} <= targets


def test_keda_scales_a_deployment_by_a_metric_that_exists() -> None:
    (scaled,) = manifests("scaling")
    assert (scaled["apiVersion"], scaled["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"] in PODS
    assert 0 <= scaled["spec"]["minReplicaCount"] <= scaled["spec"]["maxReplicaCount"]
    for trigger in scaled["spec"]["triggers"]:
        assert trigger["type"] == "prometheus"
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
        assert set(trigger["metadata"]) == {"serverAddress", "query", "threshold"}
        assert metrics_in(trigger["metadata"]["query"]) <= METRICS


@pytest.mark.parametrize("name", PODS)
def test_pods_have_few_rights_and_known_settings(name: str) -> None:
    pod = PODS[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    volumes = {volume["name"] for volume in pod["volumes"]} | {"data"}
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        variables = {each["name"] for each in container["env"]} - {"REDISCLI_AUTH"}
        assert variables <= known_settings()


def test_redis_has_the_user_of_the_compose_file() -> None:
    (container,) = PODS["spectrum-redis"]["containers"]
    composed = COMPOSE["services"]["redis"]["command"][0].replace("$$", "$")
    users = [line.strip() for line in composed.splitlines() if line.strip().startswith("user ")]
    assert users
    for line in users:
        assert line in container["args"][0]
