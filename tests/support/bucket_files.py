"""The objects of a bucket as a plain tool sees them: copied from and to folders, without metadata, and compared."""

from pathlib import Path
from typing import Any, NamedTuple

import boto3
from botocore.config import Config

from tests.support.object_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY


class FoundObject(NamedTuple):
    """An object as the store lists it.

    Attributes:
        written: when it was put, as the store tells it.
    """

    tag: str
    size: int
    written: str


def plain_client(endpoint: str) -> Any:
    """A client that shares nothing with the project's own."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=SECRET_ACCESS_KEY,
        config=Config(proxies={}, s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


def list_objects(endpoint: str, bucket: str, prefix: str = "") -> dict[str, FoundObject]:
    """All objects below a prefix, by their keys."""
    pages = plain_client(endpoint).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {
        entry["Key"]: FoundObject(entry["ETag"], entry["Size"], str(entry["LastModified"]))
        for page in pages
        for entry in page.get("Contents", [])
    }


def read_object(endpoint: str, bucket: str, key: str) -> bytes:
    """An object's bytes."""
    return bytes(plain_client(endpoint).get_object(Bucket=bucket, Key=key)["Body"].read())


def download(endpoint: str, bucket: str, prefix: str, folder: Path) -> Path:
    """Copies all objects below `prefix/` into a folder, which it returns."""
    client = plain_client(endpoint)
    for key in list_objects(endpoint, bucket, f"{prefix}/"):
        path = folder / key.removeprefix(f"{prefix}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    return folder


def upload(folder: Path, endpoint: str, bucket: str, prefix: str) -> None:
    """Puts each file of a folder under `prefix/`, with its bytes and nothing else."""
    client = plain_client(endpoint)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(folder).as_posix()}"
            client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
