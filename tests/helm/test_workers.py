"""Workers of the two streams: flows that sensors publish, and labels."""

import pytest

from errata.cli.main import run
from feature_store.online.messages import RedisMessages
from feature_store.queues.kafka import GROUP as KAFKA_GROUP
from feature_store.queues.redis_streams import RedisStreamsQueue
from tests.helm.conftest import template
from tests.helm.test_policies import pods


def commands(resources):
    """Component → command line."""
    return {component: container["command"] for component, _, container in pods(resources)}


def scaled(resources, component: str):
    (found,) = (
        each["spec"]
        for each in resources
        if each["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")
        and each["metadata"]["name"] == f"shop-errata-{component}"
    )
    return found


def policy(resources, component: str):
    (found,) = (
        each["spec"]
        for each in resources
        if each["kind"] == "NetworkPolicy"
        and each["metadata"]["name"] == f"shop-errata-{component}"
    )
    return found


def test_nothing_works_on_a_stream_unless_it_is_wanted(render) -> None:
    assert not {"workers", "feedback"} & commands(render()).keys()


def test_sensors_publish_to_what_workers_read(render) -> None:
    for name in ("stream", "kafka"):
        found = commands(render(name))
        (published,) = (each for each in found["sensor"] if each.startswith("--publish="))
        (read,) = (each for each in found["workers"] if each.startswith("--from-stream="))
        assert published.partition("=")[2] == read.partition("=")[2]


@pytest.mark.parametrize("component", ["workers", "feedback"])
def test_the_command_line_is_one_that_the_program_takes(render, component: str, capsys) -> None:
    program, *arguments = commands(render("stream"))[component]
    assert program == "errata"
    assert run([*arguments, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_feedback_workers_are_the_service_without_a_service(render) -> None:
    resources = render("stream")
    found = commands(resources)
    assert "--labels-stream=labels" in found["feedback"]
    assert not any(each.startswith("--labels-stream") for each in found["serve"])
    for each in resources:
        if each["kind"] == "Service":
            selected = each["spec"]["selector"]["app.kubernetes.io/component"]
            assert selected in ("serve", "redis")
    for component, _, container in pods(resources):
        if component == "feedback":
            variables = {each["name"]: each.get("value") for each in container["env"]}
            assert variables["ERRATA_API_KEYS"]


def test_flow_workers_follow_what_waits_in_all_partitions_of_the_queue(
    render, redis_client
) -> None:
    scaling = scaled(render("stream"), "workers")
    streams = {each["metadata"]["stream"] for each in scaling["triggers"]}
    queue = RedisStreamsQueue(redis_client, "flows", partitions=8)
    assert streams == set(queue.streams)
    names = {each["name"] for each in scaling["triggers"]}
    assert set(scaling["advanced"]["scalingModifiers"]["formula"].split(" + ")) == names
    for trigger in scaling["triggers"]:
        assert trigger["type"] == "redis-streams"
        assert trigger["metadata"]["address"] == "shop-errata-redis.prod.svc:6379"
        assert trigger["metadata"]["passwordFromEnv"] == "REDIS_PASSWORD"


def test_flow_workers_follow_the_lag_of_their_kafka_group(render) -> None:
    (trigger,) = scaled(render("kafka"), "workers")["triggers"]
    assert trigger["type"] == "kafka"
    assert trigger["metadata"]["consumerGroup"] == f"{KAFKA_GROUP}-flows"
    assert trigger["metadata"]["topic"] == "flows"
    assert trigger["metadata"]["bootstrapServers"].split(",")[1] == "broker-1.kafka:9092"
    assert trigger["authenticationRef"] == {"name": "kafka-login"}


def test_label_workers_follow_the_lag_of_their_group(render, redis_client) -> None:
    (trigger,) = scaled(render("stream"), "feedback")["triggers"]
    stream = trigger["metadata"]["stream"]
    RedisMessages(redis_client, stream).read(block_ms=1)
    (group,) = redis_client.xinfo_groups(stream)
    assert group["name"].decode() == trigger["metadata"]["consumerGroup"]


def test_a_redis_outside_is_named_where_its_streams_are_followed(helm) -> None:
    unnamed = template(
        helm, "kafka", "workers.stream=flows", "workers.autoscaling.keda.redisAddress="
    )
    assert "redisAddress" in unnamed.stderr
    named = "workers.autoscaling.keda.redisAddress=redis.example:6379"
    assert template(helm, "kafka", "workers.stream=flows", named).returncode == 0


def test_workers_are_reached_by_operators_and_reach_redis_or_the_brokers(render) -> None:
    for component in ("workers", "feedback"):
        found = policy(render("stream"), component)
        (rule,) = found["ingress"]
        assert rule["ports"] == [{"port": "metrics", "protocol": "TCP"}]
        assert rule["from"] == [{"podSelector": {}}]
        assert any("redis" in str(each.get("to")) for each in found["egress"])
    ports = [
        port["port"]
        for rule in policy(render("kafka"), "workers")["egress"]
        for port in rule["ports"]
    ]
    assert ports.count(9092) == 2
    (redis,) = policy(render("stream"), "redis")["ingress"]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}} in redis[
        "from"
    ]
