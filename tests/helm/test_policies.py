"""What every pod of the chart must be, whatever the values."""

import re

import pytest

from tests.helm.conftest import ROOT, VALUE_SETS


def pods(resources):
    """(component, pod, container) of every container."""
    for each in resources:
        spec = each.get("spec", {})
        if each["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        template = each if each["kind"] == "Pod" else spec.get("template")
        if not template:
            continue
        component = template["metadata"]["labels"]["app.kubernetes.io/component"]
        for container in template["spec"]["containers"]:
            yield component, template["spec"], container


def test_every_component_is_rendered_somewhere(render) -> None:
    found = {component for name in VALUE_SETS for component, _, _ in pods(render(name))}
    assert found == {
        *("serve", "sensor", "workers", "feedback", "retrain", "score", "redis", "test")
    }


def test_nothing_runs_as_root_or_writes_to_its_image(render, value_set: str) -> None:
    for _, pod, container in pods(render(value_set)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert not container["securityContext"].get("privileged", False)


def test_only_the_sensor_has_a_capability_and_the_hosts_network(render, value_set: str) -> None:
    for component, pod, container in pods(render(value_set)):
        context = container["securityContext"]
        assert context["capabilities"]["drop"] == ["ALL"]
        assert pod.get("hostNetwork", False) is (component == "sensor")
        assert not pod.get("hostPID", False)
        assert not pod.get("hostIPC", False)
        assert not any("hostPath" in volume for volume in pod.get("volumes", []))
        if component == "sensor":
            assert context["capabilities"]["add"] == ["NET_RAW"]
        else:
            assert "add" not in context["capabilities"]
            assert context["allowPrivilegeEscalation"] is False


def test_no_pod_holds_a_token_of_the_cluster(render, value_set: str) -> None:
    for _, pod, _ in pods(render(value_set)):
        assert pod["automountServiceAccountToken"] is False


def test_images_are_pinned(render, value_set: str) -> None:
    for _, _, container in pods(render(value_set)):
        tag = re.search(r"(?:@sha256:[0-9a-f]{64}|:[\w.-]+)$", container["image"])
        assert tag, container["image"]
        assert tag.group() != ":latest"
        assert "bitnami" not in container["image"]


def test_requests_and_limits_are_given(render, value_set: str) -> None:
    for _, _, container in pods(render(value_set)):
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= container["resources"][kind].keys()


def test_what_runs_on_is_probed(render, value_set: str) -> None:
    for component, _, container in pods(render(value_set)):
        if component in ("serve", "sensor", "workers", "feedback", "redis"):
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()


def test_a_gpu_is_asked_for_where_it_was_wanted_and_nowhere_else(render) -> None:
    for component, pod, container in pods(render("gpu")):
        wanted = component in ("serve", "retrain")
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) is wanted
        assert container["image"].endswith("-gpu") is wanted
        tolerated = {each.get("key") for each in pod.get("tolerations", [])}
        assert ("nvidia.com/gpu" in tolerated) is wanted


def test_no_secret_stands_in_a_command_or_a_variable(render, value_set: str) -> None:
    for _, _, container in pods(render(value_set)):
        for variable in container.get("env", []):
            if "PASSWORD" in variable["name"] or variable["name"] == "REDISCLI_AUTH":
                assert "secretKeyRef" in variable["valueFrom"]
        spoken = " ".join(container.get("command", []) + container.get("args", []))
        assert not re.search(r"(?i)--requirepass|--password", spoken)


def test_only_its_own_pods_reach_redis(render) -> None:
    (policy,) = (
        each
        for each in render()
        if each["kind"] == "NetworkPolicy" and each["metadata"]["name"].endswith("-redis")
    )
    (rule,) = policy["spec"]["ingress"]
    (peer,) = rule["from"]
    (components,) = peer["podSelector"]["matchExpressions"]
    assert set(components["values"]) == {"serve", "workers", "feedback", "retrain", "score"}
    assert policy["spec"]["egress"] == []


def test_keys_are_mounted_as_a_folder_so_that_they_follow_their_secret(render) -> None:
    for component, _, container in pods(render("production")):
        if component == "serve":
            (mount,) = (each for each in container["volumeMounts"] if each["name"] == "keys")
            assert "subPath" not in mount
            variables = {each["name"]: each.get("value") for each in container["env"]}
            assert variables["ERRATA_API_KEYS"] == f"{mount['mountPath']}/keys.json"


@pytest.mark.parametrize("name", ["production", "jobs", "stream"])
def test_whoever_is_told_of_users_has_the_key_that_names_them_and_nobody_else(
    render, name: str
) -> None:
    """Pods that would name them otherwise would be strangers to each other."""
    told = {"serve", "feedback", "retrain", "score"}
    for component, pod, container in pods(render(name, "userKey.existingSecret=errata-users")):
        variables = {each["name"]: each.get("value") for each in container.get("env", [])}
        mounts = {each["name"]: each["mountPath"] for each in container.get("volumeMounts", [])}
        assert ("ERRATA_USER_KEY" in variables) is (component in told)
        assert ("user-key" in mounts) is (component in told)
        if component in told:
            assert variables["ERRATA_USER_KEY"] == f"{mounts['user-key']}/user.key"
            (secret,) = (each["secret"] for each in pod["volumes"] if each["name"] == "user-key")
            assert secret["secretName"] == "errata-users"


def test_users_are_kept_under_their_ids_until_a_key_is_named(render) -> None:
    assert "ERRATA_USER_KEY" not in str(render())


@pytest.mark.parametrize("name", ["sensor", "stream"])
def test_only_training_writes_the_registry(render, name: str) -> None:
    for component, _, container in pods(render(name)):
        for mount in container.get("volumeMounts", []):
            if mount["name"] == "registry" and component not in ("retrain",):
                assert mount["readOnly"] is True


def test_the_sensor_is_handed_no_feedback_and_no_private_key(render) -> None:
    for component, pod, container in pods(render("sensor")):
        if component != "sensor":
            continue
        assert "offline" not in {mount["name"] for mount in container["volumeMounts"]}
        (tls,) = (volume["secret"] for volume in pod["volumes"] if "secret" in volume)
        assert [item["key"] for item in tls["items"]] == ["ca.crt"]


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_the_image_is_built_in_stages_and_is_not_root(target: str) -> None:
    stages = _stages((ROOT / "Dockerfile").read_text())
    parent, lines = stages[target]
    assert lines[-1] == "USER 10001:10001"
    assert parent == "runtime"
    base, shared = stages["runtime"]
    assert base == stages["build"][0]
    final = " ".join(shared + lines)
    assert "build-essential" not in final
    assert "pip install" not in final
    assert any(line.startswith(f"COPY --from=build-{target} ") for line in lines)


def test_images_are_built_from_named_versions() -> None:
    text = (ROOT / "Dockerfile").read_text()
    version = re.search(r"^ARG PYTHON=(.+)$", text, re.M)
    assert version
    assert re.fullmatch(r"3\.\d+[\w.-]*-slim-\w+", version.group(1))


def _stages(text: str):
    """Stage → (what it is built from, its instructions)."""
    stages = {}
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.startswith("#") or not line:
            continue
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            stages[match.group(2)] = (match.group(1), current := [])
        elif stages:
            current.append(line)
    return stages


def test_the_admin_port_is_reached_by_operators_alone(render) -> None:
    resources = render("production")
    services = {
        each["metadata"]["name"].removeprefix("shop-errata-"): each["spec"]
        for each in resources
        if each["kind"] == "Service"
    }
    assert [port["name"] for port in services["serve"]["ports"]] == ["http"]
    assert services["serve-admin"]["type"] == "ClusterIP"
    assert [port["targetPort"] for port in services["serve-admin"]["ports"]] == ["admin"]
    (container,) = (each for component, _, each in pods(resources) if component == "serve")
    assert {"name": "admin", "containerPort": 9000} in container["ports"]
    assert "--admin-port=9000" in container["command"]
    (policy,) = (
        each["spec"]
        for each in resources
        if each["kind"] == "NetworkPolicy" and each["metadata"]["name"].endswith("-serve")
    )
    peers = {rule["ports"][0]["port"]: str(rule["from"]) for rule in policy["ingress"]}
    assert "monitoring" in peers["admin"]
    assert "monitoring" not in peers["http"]
    (monitor,) = (each["spec"] for each in resources if each["kind"] == "ServiceMonitor")
    assert [each["port"] for each in monitor["endpoints"]] == ["admin"]


def test_without_an_admin_port_there_is_no_second_service(render) -> None:
    services = [each["metadata"]["name"] for each in render() if each["kind"] == "Service"]
    assert not any(name.endswith("-admin") for name in services)
