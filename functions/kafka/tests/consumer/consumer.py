"""Reads a topic as somebody else would: with librdkafka, and CloudEvents' own library. Prints, as JSON, the table that is left of it.

consumer.py BROKERS TOPIC
"""

import json
import sys
import uuid

from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition


def messages(brokers: str, topic: str):
    """All that is committed now, of each partition in order."""
    consumer = Consumer({
        "bootstrap.servers": brokers,
        "group.id": str(uuid.uuid4()),
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    })
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
    left = set(partitions)
    while left:
        message = consumer.poll(30)
        if message is None:
            raise TimeoutError(f"{topic}: nothing within 30 s, and partitions {left} have not ended")
        if not message.error():
            yield message
        elif message.error().name() == "_PARTITION_EOF":
            left.discard(message.partition())
        else:
            raise KafkaException(message.error())
    consumer.close()


def main(brokers: str, topic: str) -> None:
    table, newest = {}, {}
    for message in messages(brokers, topic):
        key = message.key().decode()
        # It refuses what is no event: an attribute that is missing, empty, of another type or name.
        event = from_binary(KafkaMessage(dict(message.headers()), message.key(), message.value() or b""), JSONFormat())
        sequence = event.get_extension("sequence")
        assert event.get_subject() == (key or None), event.get_subject()
        assert newest.get(key, "") < sequence, f"{key}: {sequence} behind {newest[key]}"
        assert event.get_time().tzinfo is not None
        newest[key] = sequence
        if message.value() is None:
            assert event.get_type() == "sluice.document.deleted", event.get_type()
            table.pop(key, None)
        else:
            assert event.get_type() == "sluice.document.upserted", event.get_type()
            assert event.get_data() == json.loads(message.value())
            table[key] = message.value().decode()
    json.dump(table, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
