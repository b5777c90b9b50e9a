"""A command is a span in the trace of the task that called it; a collector that is away changes nothing that a command says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from smar_model.cli.command_span import command_span
from smar_model.settings import REPOSITORY
from tests.patience import PATIENCE_SECONDS
from tests.tiny_shop import tiny_run

TASK = """
# What Airflow's task runner does around an operator.
import sys
from types import SimpleNamespace
sys.path.insert(0, sys.argv[1])
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from stages import SmarOperator

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
left = {}
context = {"dag": SimpleNamespace(dag_id="d"), "run_id": "r", "ti": SimpleNamespace(xcom_push=left.__setitem__)}
operator = SmarOperator(task_id="start", arguments=["start", "--run", "r", "--settings", "none.yaml", "--date", "2026-11-19"])
with provider.get_tracer("airflow").start_as_current_span("worker.start"):
    try:
        operator.execute(context)
    except Exception:
        print("SAID:" + left["failure"]["said"])
"""


class Collector(ThreadingHTTPServer):
    """Takes spans as OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def spans(self) -> dict[str, dict[str, Any]]:
        """Name → what came of it."""
        spans = {}
        for request in self.requests:
            for of in request.resource_spans:
                service = {a.key: a.value.string_value for a in of.resource.attributes}["service.name"]
                for span in (span for scope in of.scope_spans for span in scope.spans):
                    attributes = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}
                    spans[span.name] = {
                        **{"service": service, "trace": span.trace_id, "id": span.span_id},
                        **{"parent": span.parent_span_id, "attributes": attributes, "status": span.status},
                        "seconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                    }
        return spans


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(ExportTraceServiceRequest.FromString(content))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp_proto_http")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()


def finish(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


def test_a_command_is_a_part_of_its_task(collector: Collector, tmp_path: Path) -> None:
    variables = {"SMAR_HOME": str(tmp_path / "var"), "AIRFLOW_HOME": str(tmp_path / "airflow")}
    done = finish("-c", TASK, str(REPOSITORY / "dags"), **variables)
    task, command = collector.spans["worker.start"], collector.spans["smar start"]
    assert command["service"] == "smar"
    assert command["trace"] == task["trace"] and command["parent"] == task["id"]
    assert 0 < command["seconds"] < task["seconds"]
    assert command["attributes"] == {"smar.command": "start", "smar.run": "r", "smar.exit_code": 2}
    assert command["status"].code == Status.STATUS_CODE_ERROR
    said = done.stdout.split("SAID:")[1].strip()
    assert "none.yaml" in said and command["status"].message == said


def test_of_a_stage_it_says_which_output_was_made_or_taken(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    run = tiny_run(tmp_path / "shop")
    run.write_state("pretrain", "finished", key="abc", reused=True)
    with command_span(["pretrain", "--run", run.name]):
        pass
    span = collector.spans["smar pretrain"]
    assert span["attributes"] == {
        **{"smar.command": "pretrain", "smar.run": run.name, "smar.exit_code": 0},
        **{"smar.output.key": "abc", "smar.output.reused": True},
    }
    assert span["status"].code == Status.STATUS_CODE_UNSET and not span["parent"]


def test_a_collector_that_is_away_changes_nothing_that_is_said(collector: Collector, tmp_path: Path) -> None:
    command = ["-m", "smar_model.cli", "start", "--run", "r", "--settings", "none.yaml", "--date", "2026-11-19"]
    home = str(tmp_path / "var")
    with_one = finish(*command, SMAR_HOME=home)
    collector.shutdown()
    collector.server_close()
    without = finish(*command, SMAR_HOME=home, OTEL_EXPORTER_OTLP_TIMEOUT="1")
    assert (without.returncode, without.stdout, without.stderr) == (2, with_one.stdout, with_one.stderr)


def test_an_exporter_that_is_not_here_is_named(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "pigeon")
    with command_span(["history"]):
        print("the last line")
    assert "OTEL_TRACES_EXPORTER=pigeon is not installed" in capsys.readouterr().err
    assert not collector.requests


def test_nothing_of_opentelemetry_is_loaded_where_no_collector_is_named(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom smar_model.cli import main\nsys.argv = ['smar', '--help']\ntry:\n    main()\n"
        "finally:\n    print('LOADED:' + str(sorted(n for n in sys.modules if n.startswith('opentelemetry'))))"
    )
    done = finish("-c", script, OTEL_EXPORTER_OTLP_ENDPOINT="", SMAR_HOME=str(tmp_path))
    assert json.loads(done.stdout.split("LOADED:")[1].replace("'", '"')) == []
