#!/usr/bin/env bash
# Airflow's API server. Before it starts, the database is made or migrated, the pools are set, and the first user is there; the
# other components wait until it is healthy.
set -euo pipefail
airflow db migrate
airflow pools import /opt/smar/dags/pools.json
if ! airflow users list --output plain | grep --quiet --word-regexp admin; then
    # It asks for the password twice, on the terminal if it has one: among its arguments every process could read it.
    password=$(</run/secrets/airflow_admin_password)
    printf '%s\n%s\n' "$password" "$password" | setsid --wait airflow users create --role Admin --username admin \
        --firstname Search --lastname Team --email admin@example.com
fi
exec airflow api-server
