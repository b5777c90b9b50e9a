"""What MLflow's server and database say when they cannot be worked with, as one line."""

from __future__ import annotations

import os
import sys

from smar_model.errors import BAD_INPUT
from smar_model.url_secrets import mask_secrets

NO_LEAVE = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})


def mlflow_failure(error: Exception) -> tuple[str, int] | None:
    """One line with what to do, and the exit code; None: the error is neither the server's nor the database's.

    Neither library is imported for this: what is not imported has raised nothing.
    """
    if "sqlalchemy" in sys.modules:
        from sqlalchemy.exc import StatementError

        if isinstance(error, StatementError) and isinstance(error.orig, Exception):
            uri = os.environ.get(
                "MLFLOW_TRACKING_URI", "settings.release.tracking_uri, or mlflow.db in the home folder"
            )
            line = (
                f"MLflow's database ({mask_secrets(uri)}): {_in_one_line(error.orig)}; bring it back from a backup, or move it away and "
                "let the next run be released into a new one"
            )
            return line, 1 if "locked" in str(error) else BAD_INPUT
    if "mlflow" in sys.modules:
        from mlflow.exceptions import MlflowException, RestException

        # A RestException is the server's answer; requests that fail otherwise have no type of their own, and alone speak so.
        if (
            isinstance(error, MlflowException)
            and not isinstance(error, RestException)
            and "API request to" in str(error)
        ):
            if error.error_code in NO_LEAVE:
                return (
                    "MLflow's server refuses this: log in as a user who may (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD): "
                    f"{mask_secrets(_in_one_line(error))}",
                    BAD_INPUT,
                )
            return (
                "MLflow's server does not answer: start it (settings.release.tracking_uri), then do this step again: "
                f"{mask_secrets(str(error))}",
                1,
            )
    return None


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
