"""Start MLflow's server with logins, on PostgreSQL and an object store, whose bucket is made where no other place for files is named.

Passwords come from files under /run/secrets; clients need none for the object store, as the server passes files on.

    admin       manages everything, users too; for people
    worker      writes experiments and registered models, moves aliases; for the stages
    reader      reads; for search servers, and whoever only looks

A password that has changed in its file holds from the next start.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import boto3

BUCKET = os.environ.get("MLFLOW_BUCKET", "mlflow")
ADMIN = "admin"
USERS = {"worker": ("experiment", "registered_model"), "reader": ()}
"""User → kinds of things of which it manages all; it reads the others."""


def secret(name: str) -> str:
    return (Path(os.environ.get("SECRETS", "/run/secrets")) / name).read_text(encoding="utf-8").strip()


def write_login_settings(folder: Path) -> Path:
    """Settings of MLflow's app `basic-auth`; users are kept beside MLflow's own tables."""
    database = os.environ["MLFLOW_BACKEND_STORE_URI"].replace("%", "%%")
    lines = [
        "[mlflow]",
        "default_permission = READ",
        f"database_uri = {database}",
        f"admin_username = {ADMIN}",
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
        # Checking a password costs tens of milliseconds, at every request.
        "auth_cache_ttl_seconds = 60",
    ]
    path = folder / "basic_auth.ini"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make_users() -> None:
    from mlflow.server.auth import bootstrap_admin_user, store

    bootstrap_admin_user()
    store.update_user(ADMIN, secret("mlflow_admin_password"))
    for user, managed in USERS.items():
        password = secret(f"mlflow_{user}_password")
        if store.has_user(user):
            store.update_user(user, password)
        else:
            store.create_user(user, password)
        for kind in managed:
            store.grant_user_permission(user, kind, "*", "MANAGE")


def main() -> None:
    os.environ["PGPASSWORD"] = secret("mlflow_database_password")
    os.environ["AWS_ACCESS_KEY_ID"] = secret("object_store_access_key")
    os.environ["AWS_SECRET_ACCESS_KEY"] = secret("object_store_secret_key")
    os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"] = secret("mlflow_server_secret_key")
    os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"] = secret("mlflow_admin_password")
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(write_login_settings(Path(tempfile.mkdtemp())))
    if "MLFLOW_ARTIFACTS_DESTINATION" not in os.environ:
        os.environ["MLFLOW_ARTIFACTS_DESTINATION"] = f"s3://{BUCKET}/artifacts"
        store = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
        if BUCKET not in {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}:
            store.create_bucket(Bucket=BUCKET)
    for name, value in (("MLFLOW_HOST", "0.0.0.0"), ("MLFLOW_PORT", "5000"), ("MLFLOW_WORKERS", "2")):
        os.environ.setdefault(name, value)
    make_users()
    os.execvp(
        sys.executable, [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--serve-artifacts"]
    )


if __name__ == "__main__":
    main()
