"""Kafka topics as they are named on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from feature_store.queues.kafka import KafkaQueue

SCHEME = "kafka://"
PARTITIONS = 8  # of a topic that is not there yet


@dataclass(frozen=True)
class TopicAddress:
    """`kafka://HOST:PORT[,HOST:PORT]/TOPIC[?OPTION=VALUE&…]`, the options librdkafka's."""

    brokers: str
    topic: str
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, stream: str) -> TopicAddress:
        """Looks nothing up.

        Raises:
            ValueError: it has another form, or the extra `kafka` is not installed.
        """
        address = urlsplit(stream)
        topic = address.path.strip("/")
        if not stream.startswith(SCHEME) or not address.netloc or not topic or "/" in topic:
            raise ValueError(f"'{stream}' is not of the form kafka://HOST:PORT/TOPIC")
        try:
            import feature_store.queues.kafka  # noqa: F401
        except ImportError:
            raise ValueError(
                "a kafka:// stream needs the extra `kafka`: pip install 'errata[kafka]'"
            ) from None
        options = dict(parse_qsl(address.query, strict_parsing=True)) if address.query else {}
        return cls(address.netloc, topic, options)

    def open(self, *, partitions: int = PARTITIONS, suffix: str = "") -> KafkaQueue:
        """The topic of that name and `suffix`, created where it is missing.

        Raises:
            QueueUnavailableError: no broker answers, or it refuses.
        """
        from feature_store.queues.kafka import KafkaQueue

        return KafkaQueue(
            self.brokers, self.topic + suffix, partitions=partitions, settings=self.options
        )
