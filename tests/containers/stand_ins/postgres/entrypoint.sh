#!/usr/bin/env bash
# What the official image does where its volume is new: a cluster with the password from a file, reached by password over the network;
# while the scripts of /docker-entrypoint-initdb.d run it listens on its socket alone.
set -euo pipefail
if [[ ! -s "$PGDATA/PG_VERSION" ]]; then
    initdb --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" --locale=C.UTF-8 --auth-local=trust --auth-host=trust
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl --options "-c listen_addresses=''" --wait start
    for script in /docker-entrypoint-initdb.d/*.sh; do POSTGRES_USER=postgres "$script"; done
    pg_ctl --wait stop
fi
exec "$@"
