#!/usr/bin/env bash
# Health check of a Celery worker: it answers over the broker, so it would also take a task.
exec celery --app airflow.providers.celery.executors.celery_executor.app inspect ping --timeout 20 --destination "celery@$(hostname)"
