"""Start MLflow's server on PostgreSQL and an object store, whose bucket is made where it is missing.

Passwords come from files under /run/secrets; clients need none for the object store, as the server passes files on.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import boto3

BUCKET = os.environ.get("MLFLOW_BUCKET", "mlflow")


def secret(name: str) -> str:
    return (Path(os.environ.get("SECRETS", "/run/secrets")) / name).read_text(encoding="utf-8").strip()


def main() -> None:
    os.environ["PGPASSWORD"] = secret("mlflow_database_password")
    os.environ["AWS_ACCESS_KEY_ID"] = secret("object_store_access_key")
    os.environ["AWS_SECRET_ACCESS_KEY"] = secret("object_store_secret_key")
    store = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    if BUCKET not in {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}:
        store.create_bucket(Bucket=BUCKET)
    for name, value in (("MLFLOW_HOST", "0.0.0.0"), ("MLFLOW_PORT", "5000"), ("MLFLOW_WORKERS", "2")):
        os.environ.setdefault(name, value)
    artifacts = ["--serve-artifacts", "--artifacts-destination", f"s3://{BUCKET}/artifacts"]
    os.execvp(sys.executable, [sys.executable, "-m", "mlflow", "server", *artifacts])


if __name__ == "__main__":
    main()
