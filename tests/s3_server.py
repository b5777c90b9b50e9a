"""An S3 server on 127.0.0.1."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError

from laptop.ui import free_port
from smar_model.lake.process_identity import end_with_parent
from tests.patience import wait_until

BUCKET = "smar"


@contextmanager
def running_s3() -> Iterator[dict[str, str]]:
    """Variables with which clients find it; it has the bucket BUCKET."""
    port = free_port(0)
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "cluster",
        "AWS_SECRET_ACCESS_KEY": "cluster",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=end_with_parent,
    )
    try:
        client = s3_client(variables)

        def has_bucket() -> bool:
            try:
                client.create_bucket(Bucket=BUCKET)
            except BotoCoreError:
                return False
            return True

        wait_until(
            has_bucket, still_possible=lambda: server.poll() is None, says=lambda: "the S3 server does not answer"
        )
        yield variables
    finally:
        server.kill()
        server.wait()


def s3_client(variables: dict[str, str]):  # type: ignore[no-untyped-def]  # boto3 has no types
    return boto3.client(
        "s3",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        region_name=variables["AWS_DEFAULT_REGION"],
    )


def upload_folder(variables: dict[str, str], folder: Path, prefix: str) -> str:
    """Put a folder's files below a prefix of the bucket; returns its URL."""
    client = s3_client(variables)
    for file in folder.rglob("*"):
        if file.is_file():
            client.upload_file(str(file), BUCKET, f"{prefix}/{file.relative_to(folder).as_posix()}")
    return f"s3://{BUCKET}/{prefix}"
