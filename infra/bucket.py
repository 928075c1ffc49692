"""Where a deploy puts what Lambda and CloudFormation read: zips and templates, each under its content's hash."""

import hashlib
from base64 import b64encode

import boto3
from botocore.exceptions import ClientError


class Bucket:
    """The bucket that was named, or one of this account and region, which is made where there is none yet.

    It is shared: whoever may write to it could put other code under a hash that is known. So nothing in it is believed. S3
    has a checksum of its own for each object, and what has another one is put anew. A bucket of another account is refused.
    """

    def __init__(self, name: str | None, account: str, session=boto3):
        self.s3, self.owner = session.client("s3"), {"ExpectedBucketOwner": account}
        region = self.s3.meta.region_name
        self.name = name or f"sluice-code-{account}-{region}"
        if not self._is_there():
            where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            self.s3.create_bucket(Bucket=self.name, **where)

    def _is_there(self) -> bool:
        try:
            self.s3.head_bucket(Bucket=self.name, **self.owner)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchBucket"):
                return False
            raise BucketRefused(f"the bucket {self.name} may not be used, or is another account's ({error}); name another one: BUCKET=…") from error
        return True

    def put(self, content: bytes, suffix: str) -> tuple[str, bool]:
        """Its key, and whether it had to be put."""
        digest = hashlib.sha256(content)
        key, checksum = digest.hexdigest() + suffix, b64encode(digest.digest()).decode()
        if self._checksum(key) == checksum:
            return key, False
        self.s3.put_object(Bucket=self.name, Key=key, Body=content, ChecksumSHA256=checksum, **self.owner)
        return key, True

    def _checksum(self, key: str) -> str | None:
        try:
            return self.s3.head_object(Bucket=self.name, Key=key, ChecksumMode="ENABLED", **self.owner).get("ChecksumSHA256")
        except ClientError as error:
            # Without the right to list, S3 says 403 of what is not there.
            if error.response["Error"]["Code"] in ("404", "403"):
                return None
            raise

    def url(self, key: str) -> str:
        """Where CloudFormation reads it, with the deployer's own rights."""
        return f"{self.s3.meta.endpoint_url}/{self.name}/{key}"


class BucketRefused(Exception):
    """It is there, and not to be used."""
