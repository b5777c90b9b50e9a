"""What the command line says of MLflow's failures, which are told by their type."""

from __future__ import annotations

import sys

import pytest
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import UNAUTHENTICATED
from sqlalchemy.exc import OperationalError

from smar_model.cli.mlflow_failures import mlflow_failure

AWAY = "API request to http://me:hush@mlflow:5000 failed with exception refused"


def test_a_server_that_is_away_or_refuses_is_one_line() -> None:
    line, code = mlflow_failure(MlflowException(AWAY)) or ("", 0)
    assert code == 1 and "does not answer" in line and "hush" not in line and "\n" not in line
    line, code = mlflow_failure(MlflowException(AWAY, error_code=UNAUTHENTICATED)) or ("", 0)
    assert code == 2 and "log in" in line and "hush" not in line


def test_a_database_that_is_locked_is_tried_again_and_another_one_is_not() -> None:
    for reason, expected in (("database is locked", 1), ("no such table: runs", 2)):
        line, code = mlflow_failure(OperationalError("SELECT 1", {}, Exception(reason))) or ("", 0)
        assert code == expected and reason in line and line.startswith("MLflow's database")


class Named(Exception):
    """Not MLflow's, whatever it is called and says."""


Named.__name__ = "MlflowException"
Named.__module__ = "sqlalchemy.exc"


@pytest.mark.parametrize(
    "error",
    [
        Named(AWAY),
        MlflowException("no such run"),
        RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": AWAY}),
        ValueError(AWAY),
    ],
    ids=["another's", "another request", "the server's answer", "no error of MLflow"],
)
def test_what_is_none_of_its_failures_is_left_alone(error: Exception) -> None:
    assert mlflow_failure(error) is None


def test_nothing_is_imported_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlflow", "sqlalchemy"):
        monkeypatch.delitem(sys.modules, name)
    assert mlflow_failure(MlflowException(AWAY)) is None
    assert not {"mlflow", "sqlalchemy"} & sys.modules.keys()
