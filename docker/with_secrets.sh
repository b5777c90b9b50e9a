#!/usr/bin/env bash
# Run a command with what it wants in the environment, from the secrets: the password of its login at MLflow; the file of the key that it
# signs releases with; and where SMAR_STORE says that the lake lies in an object store, the store's keys.
set -euo pipefail
if [[ -n "${MLFLOW_TRACKING_PASSWORD_FILE:-}" ]]; then
    MLFLOW_TRACKING_PASSWORD=$(<"$MLFLOW_TRACKING_PASSWORD_FILE")
    export MLFLOW_TRACKING_PASSWORD
fi
if [[ -n "${SMAR_SIGNING_KEY_FILE:-}" ]]; then
    # Compose mounts a secret with the mode of its file, which others may read; a private key must be its user's alone.
    SMAR_SIGNING_KEY=$(mktemp)
    export SMAR_SIGNING_KEY
    cat "$SMAR_SIGNING_KEY_FILE" >"$SMAR_SIGNING_KEY"
fi
if [[ -n "${SMAR_STORE:-}" ]]; then
    folder=${SECRETS:-/run/secrets}
    AWS_ACCESS_KEY_ID=$(<"$folder/object_store_access_key")
    AWS_SECRET_ACCESS_KEY=$(<"$folder/object_store_secret_key")
    export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
fi
exec "$@"
