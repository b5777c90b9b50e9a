#!/usr/bin/env bash
# Run a command; where SMAR_STORE says that the lake lies in an object store, with the store's keys from the secrets in its environment.
set -euo pipefail
if [[ -n "${SMAR_STORE:-}" ]]; then
    folder=${SECRETS:-/run/secrets}
    AWS_ACCESS_KEY_ID=$(<"$folder/object_store_access_key")
    AWS_SECRET_ACCESS_KEY=$(<"$folder/object_store_secret_key")
    export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
fi
exec "$@"
