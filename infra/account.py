"""Whose account of AWS the credentials of the shell are of. Run by itself it asks, before anything is built."""

import sys
from collections.abc import Callable

import boto3
from botocore.exceptions import BotoCoreError, ClientError

REMEDY = "`aws sts get-caller-identity` has to print your account: set AWS_PROFILE and AWS_REGION, or log in anew"


def find(client: Callable) -> str:
    """Its number; `client` makes one of a service. Without credentials that are valid it ends, and says what to do."""
    try:
        return client("sts").get_caller_identity()["Account"]
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"AWS does not say whose account this is: {error}. {REMEDY}")


if __name__ == "__main__":
    find(boto3.client)
