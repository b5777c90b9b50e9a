#!/usr/bin/env bash
# A database and its owner for Airflow and for MLflow. Run by PostgreSQL's image once, when the volume is new.
set -euo pipefail
for name in airflow mlflow; do
    # psql reads the password itself: among its arguments every process could.
    PASSWORD_FILE="/run/secrets/${name}_database_password" \
        psql --username "$POSTGRES_USER" --set ON_ERROR_STOP=1 --set name="$name" <<'SQL'
\set password `cat "$PASSWORD_FILE"`
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
SQL
done
