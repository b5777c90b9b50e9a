"""MLflow's registry and tracking. What MLflow reads when it is imported is set here, before any module of this room imports it."""

import os

os.environ |= {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # Half a minute for a server that is started again; MLflow's own default is four, with a lease held all the while.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
    "GIT_PYTHON_REFRESH": "quiet",
} | dict(os.environ)
