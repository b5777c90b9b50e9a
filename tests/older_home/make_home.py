"""Makes `home_of_c2b2a72.tar.xz`: two daily runs of the tiny shop, both released, by the code as it was at that commit.

    git worktree add ../then c2b2a72 && cp tests/older_home/make_home.py ../then/
    cd ../then && make setup && .venv/bin/python make_home.py HOME.tar.xz

It is made in the folder PLACE, which needs root; the database is kept as SQL. So it can be unpacked anywhere: who does puts another folder
in the place of PLACE, in the database and in the records of runs. Outputs in the lake stay as they are.
"""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import yaml

from smar_model.settings import REPOSITORY
from tests.tiny_shop import LAST_DAY, tiny_settings, write_tiny_shop

PLACE = "/where/it/was/made"
SMALL = {
    "dimension": 16,
    "text": {"width": 16, "heads": 2, "query_layers": 1},
}
LEFT_OUT = {"airflow", "logs", "airflow.lock", "mlflow.db"}


def settings_file(home: Path, seed: int) -> Path:
    content = tiny_settings(home / "shop", network=SMALL).model_dump(mode="json")
    content["gate"] |= {"over_popularity": 0.0, "over_bm25": 0.0, "minimum_queries": 1, "champion_margin": 1.0}
    content["training"]["seed"] = seed
    content["evaluation"] |= {"bootstrap_samples": 50, "shown_queries": 1}
    path = home / f"seed-{seed}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def main(target: Path) -> None:
    home = Path(PLACE)
    write_tiny_shop(home / "shop", zipped=True)
    for seed in (1, 2):
        command = [sys.executable, "-m", "laptop.retrain", "--settings", str(settings_file(home, seed))]
        environment = os.environ | {"SMAR_HOME": str(home)}
        subprocess.run([*command, "--date", str(LAST_DAY)], cwd=REPOSITORY, env=environment, check=True)
    with sqlite3.connect(home / "mlflow.db") as database:
        dump = "\n".join(database.iterdump())
    with tarfile.open(target, "w:xz", preset=9) as archive:
        add(archive, "mlflow.sql", dump.encode())
        for file in sorted(home.rglob("*")):
            name = file.relative_to(home)
            if file.is_file() and name.parts[0] not in LEFT_OUT and "__pycache__" not in name.parts:
                add(archive, str(name), file.read_bytes())
    shutil.rmtree(home)
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
