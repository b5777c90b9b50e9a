"""A command as one span of the trace in which it was called, sent where OpenTelemetry's variables say.

Airflow opens a trace for each DAG run and a span for each task; `SmarOperator` hands the task's on (`TRACEPARENT`, W3C Trace Context). What
the variables mean is OpenTelemetry's: `OTEL_EXPORTER_OTLP_ENDPOINT`, without which nothing is sent, `OTEL_TRACES_EXPORTER` and their like.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import EntryPoint, entry_points
from itertools import pairwise
from typing import Any

from smar_model.errors import NOTHING_TO_DO, InputError
from smar_model.lake.runs import load_run

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
NOT_FAILED = (0, NOTHING_TO_DO)
"""Exit codes."""


@contextmanager
def command_span(arguments: Sequence[str]) -> Iterator[None]:
    """The command is what happens inside; it ends with SystemExit, whose first note is what it said of a failure.

    The span is made and sent once the command has ended: OpenTelemetry is loaded for it alone, beside nothing that forks or measures. A
    collector that does not answer costs OTEL_EXPORTER_OTLP_TIMEOUT (10 s), and nothing else: the last line that a command prints is its own.
    """
    kind = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    if kind == "none" or not any(os.environ.get(name) for name in ENDPOINTS):
        yield
        return
    exporter = next(iter(entry_points(group="opentelemetry_traces_exporter", name=kind)), None)
    if exporter is None:
        print(f"warning: no span is sent: OTEL_TRACES_EXPORTER={kind} is not installed here", file=sys.stderr)
        yield
        return
    begun, code, said = time.time_ns(), 0, ""
    try:
        yield
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        said = next(iter(getattr(ended, "__notes__", ())), "")
        raise
    except BaseException as error:
        code, said = 1, f"{type(error).__name__}: {error}"
        raise
    finally:
        with suppress(Exception):  # a span that cannot be made is no failure of the command
            _send(exporter, _attributes(arguments) | {"smar.exit_code": code}, said, begun)


def _attributes(arguments: Sequence[str]) -> dict[str, Any]:
    """What was called, for which run, and of a stage what the run's record says of its output."""
    options = next((n for n, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    command = " ".join(arguments[:options])
    attributes: dict[str, Any] = {"smar.command": command}
    run = next((name for option, name in pairwise(arguments) if option == "--run"), "")
    if not run:
        return attributes
    attributes["smar.run"] = run
    try:
        state = load_run(run).state(command)
    except InputError:
        state = None
    if state and state["state"] == "finished" and "key" in state:
        attributes |= {"smar.output.key": state["key"], "smar.output.reused": state.get("reused", False)}
    return attributes


def _send(exporter: EntryPoint, attributes: dict[str, Any], said: str, begun: int) -> None:
    from opentelemetry.propagate import extract
    from opentelemetry.sdk.resources import HOST_NAME, SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.trace import Status, StatusCode

    # What it logs of a collector that is away would stand behind the command's last line, which is its result.
    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
    logging.getLogger("opentelemetry").propagate = False
    resource = Resource.create({SERVICE_NAME: "smar", HOST_NAME: os.uname().nodename})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(SimpleSpanProcessor(exporter.load()()))
    caller = extract({name.lower(): os.environ.get(name, "") for name in ("TRACEPARENT", "TRACESTATE")})
    span = provider.get_tracer("smar").start_span(
        f"smar {attributes['smar.command']}", context=caller, start_time=begun, attributes=attributes
    )
    if attributes["smar.exit_code"] not in NOT_FAILED:
        lines = said.splitlines() or [""]
        span.set_status(Status(StatusCode.ERROR, lines[-1 if lines[0].startswith("Traceback") else 0]))
    span.end()
    provider.shutdown()
