#!/usr/bin/env bash
# Make what is missing of the secrets that compose.yaml names, in docker/secrets/ or the folder given; what is there stays.
#
# The folder is for its owner alone. The files in it are not: Docker mounts them as they are, and the containers' users are others.
set -euo pipefail
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder" && chmod 700 "$folder"

keep() { # NAME: what standard input brings, unless the secret is there already
    if [[ -e "$folder/$1" ]]; then cat >/dev/null; else cat >"$folder/.$1" && chmod 644 "$folder/.$1" && mv "$folder/.$1" "$folder/$1"; fi
}

for name in postgres_password airflow_database_password mlflow_database_password mlflow_server_secret_key \
    mlflow_admin_password mlflow_worker_password mlflow_reader_password redis_password airflow_api_secret_key \
    airflow_jwt_secret airflow_admin_password grafana_admin_password object_store_access_key object_store_secret_key; do
    od --address-radix=n --format=x1 --read-bytes=32 /dev/urandom | tr -d ' \n' | keep "$name"
done
head --bytes=32 /dev/urandom | base64 | tr '+/\n' '-_ ' | tr -d ' ' | keep airflow_fernet_key
# Releases are signed with the one (Ed25519); whoever serves them needs the other alone.
openssl genpkey -algorithm ed25519 | keep release_signing_key
openssl pkey -in "$folder/release_signing_key" -pubout | keep release_public_key
printf '{"identities": [{"name": "mlflow", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": ["Admin"]}]}' \
    "$(<"$folder/object_store_access_key")" "$(<"$folder/object_store_secret_key")" | keep object_store_identities
echo "$folder: $(find "$folder" -type f | wc --lines) secrets"
