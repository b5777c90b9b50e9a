"""`make ui`: Airflow's components and the MLflow UI on this machine, until Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from laptop.airflow_environment import LOGIN, airflow_home, environment, one_at_a_time, password, prepare
from laptop.processes import adopt_orphans, end_all
from laptop.warm_start import warm_start
from smar_model.errors import InputError
from smar_model.lake.process_identity import end_with_parent
from smar_model.settings import home

AIRFLOW_PORT, MLFLOW_PORT = 8080, 5000
START_SECONDS = 900.0
COMPONENTS = {
    "api-server": ["api-server"],
    # They would open a port for their logs on all addresses; the API server reads the files.
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
WITHOUT_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""MLflow's job runners are seven more processes that survive their parent; nothing here needs them."""


def free_port(preferred: int) -> int:
    """The preferred port of 127.0.0.1 if nobody listens there, else any free one."""
    for port in (preferred, 0):
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return candidate.getsockname()[1]
    raise InputError("no free port on 127.0.0.1")


def start(name: str, command: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
    log = home() / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env=variables,
            cwd=home(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C reaches this process alone, which then ends the others in order
            preexec_fn=end_with_parent,
        )


def mlflow_command(port: int, *options: str) -> list[str]:
    """MLflow's server, `options` saying where it keeps things; without any: this machine's store, whose files clients open."""
    artifacts = (home() / "mlflow-artifacts").as_uri()
    embedded = ["--backend-store-uri", f"sqlite:///{home() / 'mlflow.db'}", "--default-artifact-root", artifacts]
    server = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return [*server, *(options or embedded)]


def airflow_is_healthy(port: int) -> bool:
    """Whether the API server answers and has heard from the other three."""
    answer = _get(f"http://127.0.0.1:{port}/api/v2/monitor/health")
    parts = ("metadatabase", "scheduler", "dag_processor", "triggerer")
    return answer is not None and all(json.loads(answer).get(part, {}).get("status") == "healthy" for part in parts)


def mlflow_is_healthy(port: int) -> bool:
    return _get(f"http://127.0.0.1:{port}/health") is not None


def _get(address: str) -> bytes | None:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.read()
    except (urllib.error.URLError, OSError):
        return None


def serve() -> int:
    """Start everything, print where it is, wait until a signal or until a part ends."""
    with one_at_a_time(), ExitStack() as warmth:
        print("Preparing Airflow", flush=True)
        prepare()
        airflow_port, mlflow_port = free_port(AIRFLOW_PORT), free_port(MLFLOW_PORT)
        variables = environment(port=airflow_port) | {"SMAR_MLFLOW_URL": f"http://127.0.0.1:{mlflow_port}"}
        adopt_orphans()
        (home() / "logs").mkdir(parents=True, exist_ok=True)
        log = warmth.enter_context((home() / "logs" / "warm_process.log").open("wb"))
        variables = warmth.enter_context(warm_start(variables, log))
        running: dict[str, subprocess.Popen[bytes]] = {}
        try:
            running |= {n: start(n, ["airflow", *c], variables) for n, c in COMPONENTS.items()}
            running["mlflow"] = start("mlflow", mlflow_command(mlflow_port), variables | WITHOUT_JOBS)
            wait_until(running, lambda: airflow_is_healthy(airflow_port) and mlflow_is_healthy(mlflow_port))
            print(
                f"Airflow  http://127.0.0.1:{airflow_port}  login {LOGIN}, password {password()}\n"
                f"MLflow   http://127.0.0.1:{mlflow_port}\n"
                f"Logs     {home() / 'logs'}\n"
                "While this is open `smar_retrain` runs daily at 04:00 UTC, `smar_refresh_index` hourly; `smar_compare`, `smar_refresh_stock` and\n"
                "`smar_oracle` wait until they are turned on. Ctrl-C ends all of it.",
                flush=True,
            )
            while True:
                _check(running)
                time.sleep(1)
        finally:
            # A second Ctrl-C must not leave half of it behind.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            print("\nEnding …", flush=True)
            end_all()
            _forget_pids()
            print("Ended.", flush=True)


def wait_until(
    running: dict[str, subprocess.Popen[bytes]], healthy: Callable[[], bool], *, seconds: float = START_SECONDS
) -> None:
    """Wait for what was started.

    Raises:
        InputError: one of the processes ended, or it takes too long; names the log.
    """
    print("Starting (about 20 seconds)", flush=True)
    deadline = time.monotonic() + seconds
    while not healthy():
        _check(running)
        if time.monotonic() > deadline:
            raise InputError(f"not healthy after {seconds:.0f} s; see the logs in {home() / 'logs'}")
        time.sleep(0.5)


def _check(running: dict[str, subprocess.Popen[bytes]]) -> None:
    for name, process in running.items():
        if (code := process.poll()) is not None:
            raise InputError(f"{name} ended with exit code {code}; see {home() / 'logs' / f'{name}.log'}")


def _forget_pids() -> None:
    """A component that had to be killed leaves its pid file, which the next one would take for a living process."""
    for path in Path(airflow_home()).glob("airflow-*.pid"):
        path.unlink(missing_ok=True)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    os.environ.setdefault("SMAR_HOME", str(home()))
    home().mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _stop)
    try:
        return serve()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
