"""A warm command is to its caller what a cold one is; what it leaves is nobody else's but what it has imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from smar_model.settings import REPOSITORY
from tests.patience import PATIENCE_SECONDS, wait_until

HOST = """
import sys
from pathlib import Path
from smar_model.cli import warm_process
warm_process.REPOSITORY = Path({code!r})
warm_process.run_command = lambda: exec(sys.argv[1], {{"__name__": "command"}})
warm_process.main()
"""
"""The warm process, whose commands are Python code for the time of these tests."""


@dataclass
class Warm:
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> str:
        return str(self.folder / "socket")

    def begin(self) -> None:
        code = self.folder / "code"
        for name in ("smar_model", "jobs", "sql", "schemas"):
            (code / name).mkdir(parents=True, exist_ok=True)
        (code / "jobs" / "job.py").write_text("")
        script = HOST.format(code=str(code))
        path = os.pathsep.join([str(REPOSITORY), str(self.folder)])
        variables = os.environ | {"PYTHONPATH": path, "SMAR_HOME": str(self.folder)}
        self.process = subprocess.Popen([sys.executable, "-c", script, self.socket], env=variables)
        wait_until(lambda: Path(self.socket).exists())

    def start(self, *arguments: str, **options) -> subprocess.Popen[str]:
        command = [sys.executable, "-I", "-S", str(REPOSITORY / "laptop" / "warm_command.py"), *arguments]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        variables = {"env": os.environ | {"SMAR_WARM": self.socket}}
        return subprocess.Popen(command, text=True, **(pipes | variables | options))

    def run(self, *arguments: str, said: str = "", **options) -> tuple[int, str, str]:
        process = self.start(*arguments, **options)
        out, error = process.communicate(said, timeout=PATIENCE_SECONDS)
        return process.returncode, out, error


@contextmanager
def begun(folder: Path) -> Iterator[Warm]:
    found = Warm(folder)
    found.begin()
    yield found
    assert found.process
    found.process.kill()
    found.process.wait()


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with begun(tmp_path_factory.mktemp("w")) as found:
        yield found


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """A warm process that a test may spoil."""
    with begun(tmp_path_factory.mktemp("w")) as found:
        yield found


def test_a_command_has_its_callers_arguments_input_outputs_folder_and_environment(warm: Warm, tmp_path: Path) -> None:
    told = os.environ | {"SMAR_WARM": warm.socket, "SMAR_TOLD": "é"}
    code = "import os, sys; print(input(), os.getcwd(), os.environ['SMAR_TOLD'], sys.argv[2:]); print('no', file=sys.stderr); sys.exit(99)"
    assert warm.run(code, "a b", "", said="yes\n", cwd=tmp_path, env=told) == (
        99,
        f"yes {tmp_path} é ['a b', '']\n",
        "no\n",
    )


def test_a_traceback_is_exit_code_1_as_of_any_process(warm: Warm) -> None:
    code, out, error = warm.run("print('begun'); 1 / 0")
    assert (code, out) == (1, "begun\n") and "ZeroDivisionError" in error


def test_what_a_command_has_imported_is_there_for_the_next_and_nothing_else_of_it(warm: Warm) -> None:
    ask = "import sys, os; print('colorsys' in sys.modules, hasattr(os, 'left'), os.environ.get('LEFT'))"
    assert warm.run("import colorsys, os; os.left = 1; os.environ['LEFT'] = '1'; os.chdir('/'); 1 / 0")[0] == 1
    assert warm.run(ask)[1] == "False False None\n"  # of a failure nothing is learned
    assert warm.run("import colorsys, os; os.left = 1; os.environ['LEFT'] = '1'; os.chdir('/')")[0] == 0
    assert warm.run(ask)[1] == "True False None\n"


def test_what_was_imported_in_one_run_is_imported_when_others_begin(own: Warm) -> None:
    ask = "import sys; print('colorsys' in sys.modules)"
    (own.folder / "no_more.py").write_text("")
    assert own.run("import no_more, colorsys")[0] == 0
    (own.folder / "no_more.py").unlink()
    for _ in range(2):
        assert own.process
        own.process.kill()
        own.process.wait()
        Path(own.socket).unlink()
        own.begin()
        wait_until(lambda: own.run(ask)[1] == "True\n")


def test_commands_run_beside_each_other(warm: Warm, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    first = warm.start(f"print(open({str(tmp_path / 'gate')!r}).read())")
    assert warm.run("print('second')")[1] == "second\n"
    (tmp_path / "gate").write_text("first")
    assert first.communicate(timeout=PATIENCE_SECONDS)[0] == "first\n"


def sleeper(warm: Warm) -> tuple[subprocess.Popen[str], psutil.Process]:
    """A command that sleeps, and its process."""
    caller = warm.start("import os, time; print(os.getpid(), flush=True); time.sleep(3600)")
    assert caller.stdout
    return caller, psutil.Process(int(caller.stdout.readline()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_command_and_the_caller_ends_as_it_does(warm: Warm, number: int) -> None:
    caller, process = sleeper(warm)
    caller.send_signal(number)
    # Python ends by KeyboardInterrupt with a traceback, and by the signal.
    assert caller.wait(PATIENCE_SECONDS) == -number
    assert not process.is_running()


def test_a_killed_command_is_told_as_killed(warm: Warm) -> None:
    caller, process = sleeper(warm)
    process.kill()
    assert caller.wait(PATIENCE_SECONDS) == -signal.SIGKILL


def test_a_command_whose_caller_is_killed_ends(warm: Warm) -> None:
    caller, process = sleeper(warm)
    caller.kill()
    wait_until(lambda: not process.is_running())
    assert warm.run("print('goes on')")[1] == "goes on\n"


def test_a_command_ends_with_the_warm_process_and_its_caller_says_so(own: Warm) -> None:
    caller, process = sleeper(own)
    assert own.process
    own.process.kill()
    assert caller.wait(PATIENCE_SECONDS) == 1
    assert caller.stderr and "the warm process has gone while it ran this command; run it again" in caller.stderr.read()
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def test_after_a_change_of_the_code_commands_start_cold(own: Warm) -> None:
    bytecode = own.folder / "code" / "jobs" / "__pycache__"
    bytecode.mkdir()
    (bytecode / "job.cpython-311.pyc").write_bytes(b"")  # which Python writes when it likes
    assert own.run("print('warm')")[1] == "warm\n"
    (own.folder / "code" / "sql").joinpath("new.sql").write_text("SELECT 1")
    code, out, error = own.run("--help")
    assert (
        code == 0 and "a cold start: the code has changed since this process began" in error and "retrain" not in error
    )
    assert "prepare-items" in out


def test_once_a_module_has_started_a_thread_commands_start_cold(own: Warm) -> None:
    module = own.folder / "starts_thread.py"
    module.write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,), name='odd', daemon=True).start()\n"
    )
    assert own.run("import starts_thread")[0] == 0
    code, out, error = own.run("--help")
    assert code == 0 and "a cold start: threads run here: odd" in error and "prepare-items" in out


@pytest.mark.parametrize("socket", ["", "/nowhere/socket"])
def test_without_a_warm_process_commands_start_cold(tmp_path: Path, socket: str) -> None:
    variables = os.environ | {"SMAR_WARM": socket, "SMAR_HOME": str(tmp_path)}
    code, _, error = Warm(tmp_path).run("pretrain", "--run", "none", env=variables)
    assert code == 2 and "no such run" in error


JAVA = """
import os, sys
from jobs.borrowed_java import borrowed_java
from pyspark.sql import SparkSession

with borrowed_java({"spark.driver.memory": "600m"}):
    session = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    java = session.sparkContext._jvm.java.lang.ProcessHandle.current().pid()
    print(java, session.range(10).count(), session.conf.get("spark.app.name"), flush=True)
    if "die" in sys.argv:
        os._exit(7)
    if "wait" in sys.argv:
        input()
    session.stop()
"""


def test_spark_stages_are_lent_one_java_and_a_new_one_after_one_that_died(own: Warm) -> None:
    first, second = (int(own.run(JAVA)[1].split()[0]) for _ in range(2))
    assert first == second
    code, out, _ = own.run(JAVA, "die")
    assert (code, int(out.split()[0])) == (7, first)
    wait_until(lambda: not psutil.pid_exists(first))
    # Two at a time: the second has a Java of its own.
    waiting = own.start(JAVA, "wait")
    assert waiting.stdout
    lent = int(waiting.stdout.readline().split()[0])
    another = int(own.run(JAVA)[1].split()[0])
    assert len({first, lent, another}) == 3
    assert waiting.communicate("\n", timeout=PATIENCE_SECONDS) and waiting.returncode == 0
    assert int(own.run(JAVA)[1].split()[0]) == lent
    assert own.process
    own.process.kill()
    wait_until(lambda: not psutil.pid_exists(lent))
