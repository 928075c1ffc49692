"""A consumer of some topics, as anybody may write it: each committed message from the beginning on, a line of JSON for each, as
it comes. A line `null` says that all partitions have been read to their end, for the first time.

consumer.py BROKERS TOPIC…
"""

import json
import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition


def main(brokers: str, *topics: str) -> None:
    consumer = Consumer({
        "bootstrap.servers": brokers,
        "group.id": "sluice-demo",  # it has to have one, and commits nothing by it
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    })
    known, until = consumer.list_topics(timeout=30).topics, time.monotonic() + 30
    while missing := [topic for topic in topics if topic not in known]:
        if time.monotonic() > until:
            sys.exit(f"there is no topic {', '.join(missing)}")
        time.sleep(0.2)  # one that was made just now is listed as soon as the broker has heard of it
        known = consumer.list_topics(timeout=30).topics
    partitions = [TopicPartition(topic, number, OFFSET_BEGINNING) for topic in topics for number in known[topic].partitions]
    consumer.assign(partitions)
    left = {(one.topic, one.partition) for one in partitions}
    while True:
        message = consumer.poll(1)
        if message is None:
            continue
        if not message.error():
            headers = {name: value.decode() for name, value in message.headers() or []}
            value = message.value() and message.value().decode()
            say([message.topic(), message.partition(), message.offset(), message.key().decode(), headers, value])
        elif message.error().name() != "_PARTITION_EOF":
            raise KafkaException(message.error())
        elif left:
            left.discard((message.topic(), message.partition()))
            if not left:
                say(None)


def say(what: list | None) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(1)
