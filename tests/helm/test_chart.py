"""The chart renders to what Kubernetes accepts, for every value set."""

import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

import errata
from tests.helm.conftest import CHART, VALUE_SETS, template

CUSTOM = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "ScaledObject"}


def test_lints_without_a_warning(helm: Path, value_set: str) -> None:
    values = VALUE_SETS[value_set]
    arguments = ["--values", values] if values else []
    done = subprocess.run(
        [helm, "lint", "--strict", CHART, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kubernetes", ["1.27", "1.37"])
def test_is_valid_to_kubernetes(render, value_set: str, kubernetes: str) -> None:
    resources = [each for each in render(value_set) if each["kind"] not in CUSTOM]
    assert len(resources) >= 8
    for each in resources:
        kubernetes_validate.validate(each, kubernetes, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_noticed(render) -> None:
    deployment = yaml.safe_load(yaml.safe_dump(_one(render(), "Deployment")))
    deployment["spec"]["template"]["spec"]["hostNetworking"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.37", strict=True)


def test_custom_resources_are_valid_to_their_operators(render, custom_resource_problems) -> None:
    resources = [each for name in VALUE_SETS for each in render(name) if each["kind"] in CUSTOM]
    assert {each["kind"] for each in resources} == CUSTOM
    assert custom_resource_problems(resources) == []
    assert custom_resource_problems([{**resources[0], "spec": {"endpoints": "none"}}])


def test_names_are_unique_and_fit_a_label(render, value_set: str) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in render(value_set)]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for _, name in names)


def test_selectors_find_their_pods(render, value_set: str) -> None:
    resources = render(value_set)
    pods = [
        each["spec"]["template"]["metadata"]["labels"]
        for each in resources
        if each["kind"] in ("Deployment", "DaemonSet", "StatefulSet")
    ]
    selectors = [each["spec"]["selector"] for each in resources if each["kind"] == "Service"]
    selectors += [
        each["spec"]["selector"]["matchLabels"]
        for each in resources
        if each["kind"] in ("Deployment", "DaemonSet", "StatefulSet", "PodDisruptionBudget")
    ]
    for selector in selectors:
        assert sum(selector.items() <= labels.items() for labels in pods) == 1


def test_every_volume_that_is_mounted_exists(render, value_set: str) -> None:
    for each in render(value_set):
        pod = pod_of(each)
        if pod is None:
            continue
        there = {volume["name"] for volume in pod.get("volumes", [])}
        there |= {
            claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])
        }
        for container in pod["containers"]:
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= there


def test_the_image_is_the_code_that_stands_here(render) -> None:
    container = _one(render(), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == f"errata:{errata.__version__}"


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("serve.replicaz=2", "replicaz"),
        ("image.tag=latest", "/image/tag"),
        ("serve.autoscaling.kind=magic", "/serve/autoscaling/kind"),
        ("redis.enabled=false", "existingSecret"),
        ("score.enabled=true", "score.command"),
        ("retrain.schedule=nightly", "/retrain/schedule"),
        ("workers.stream=kafka://broker/flows", "/workers/stream"),
        ("feedback.autoscaling.kind=lag", "/feedback/autoscaling/kind"),
    ],
)
def test_a_wrong_value_is_refused_by_name(helm: Path, assignment: str, said: str) -> None:
    done = template(helm, "default", assignment)
    assert done.returncode != 0
    assert said in done.stderr


def test_a_sensor_that_could_not_reach_its_model_or_redis_is_refused(helm: Path) -> None:
    no_route = template(helm, "sensor", "networkPolicy.nodeCIDRs=null")
    assert "nodeCIDRs" in no_route.stderr
    one_node = template(helm, "sensor", "registry.persistence.accessModes={ReadWriteOnce}")
    assert "ReadWriteMany" in one_node.stderr


def test_an_upgrade_does_not_restart_redis_for_a_change_elsewhere(render) -> None:
    before = _one(render("small"), "StatefulSet")["spec"]["template"]["metadata"]
    after = _one(render("small", "serve.replicas=3"), "StatefulSet")["spec"]["template"]["metadata"]
    resized = _one(render("small", "redis.maxMemory=64mb"), "StatefulSet")["spec"]["template"]
    assert before == after
    assert before != resized["metadata"]


def test_models_and_feedback_outlive_the_release(render) -> None:
    claims = [each for each in render() if each["kind"] == "PersistentVolumeClaim"]
    assert len(claims) == 2
    for claim in claims:
        assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_number_of_replicas_has_one_owner(render) -> None:
    assert "replicas" in _one(render(), "Deployment")["spec"]
    for name in ("production", "gpu", "stream", "kafka"):
        scaled = {
            each["spec"]["scaleTargetRef"]["name"]
            for each in render(name)
            if each["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
        }
        assert scaled
        for each in render(name):
            if each["kind"] == "Deployment":
                assert ("replicas" in each["spec"]) is (each["metadata"]["name"] not in scaled)


def pod_of(resource):
    """The pod's specification in a workload, or None."""
    spec = resource.get("spec", {})
    if resource["kind"] == "Pod":
        return spec
    if resource["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return spec.get("template", {}).get("spec")


def _one(resources, kind: str):
    (found,) = (each for each in resources if each["kind"] == kind)
    return found
