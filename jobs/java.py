"""The Java that Spark needs, looked at without Spark."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from smar_model.errors import InputError

MINIMUM_JAVA = 17


def require_java() -> None:
    """Check that the Java that Spark will start is there and new enough.

    Raises:
        InputError: there is none, or it is too old.
    """
    advice = (
        f"Spark 4 needs Java {MINIMUM_JAVA} or newer: install it (Debian: `apt-get install openjdk-17-jre-headless`, "
        "macOS: `brew install openjdk@17`) or set JAVA_HOME to the folder of one"
    )
    java_home = os.environ.get("JAVA_HOME")
    java = shutil.which(str(Path(java_home) / "bin" / "java") if java_home else "java")
    if java is None:
        raise InputError(f"java: not found {f'under JAVA_HOME={java_home}' if java_home else 'on PATH'}. {advice}")
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    if answer.returncode != 0 or not version or int(version.group(1)) < MINIMUM_JAVA:
        raise InputError(
            f"{java}: not Java {MINIMUM_JAVA} ({(answer.stderr or answer.stdout).strip()[:100]}). {advice}"
        )
