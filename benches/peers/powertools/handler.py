"""A message is an event of the outbox; its id is the document's version, since messages may be overtaken."""

import os

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext
from elasticsearch import ConflictError, Elasticsearch, NotFoundError

processor = BatchProcessor(event_type=EventType.SQS)
search = Elasticsearch(os.environ["ELASTICSEARCH_URL"])


def write(record: SQSRecord) -> None:
    """One document."""
    event = record.json_body
    where = {"index": os.environ["INDEX"], "id": event["key"], "version": event["id"], "version_type": "external_gte"}
    try:
        if event["op"] == "delete":
            search.delete(**where)
        else:
            search.index(**where, document=event["document"])
    except (ConflictError, NotFoundError):
        pass  # a later one was there before, or nothing was


def handler(event: dict, context: LambdaContext) -> PartialItemFailureResponse:
    """A batch, a record at a time."""
    return process_partial_response(event=event, record_handler=write, processor=processor, context=context)
