#!/usr/bin/env bash
# Airflow's API server. Before it starts, the database is made or migrated, the pools are set, and the first user is there; the
# other components wait until it is healthy.
set -euo pipefail
airflow db migrate
airflow pools import /opt/smar/dags/pools.json
if ! airflow users list --output plain | grep --quiet --word-regexp admin; then
    airflow users create --role Admin --username admin --password "$(</run/secrets/airflow_admin_password)" \
        --firstname Search --lastname Team --email admin@example.com
fi
exec airflow api-server
