"""Shops for the services: a tiny one in the home that they share, and settings that name the compose file's Spark and MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from smar_model.settings import REPOSITORY
from tests.containers.podman import Podman
from tests.tiny_shop import ITEMS, QUICK_SPARK, tiny_settings, write_tiny_shop

HOME = Path("/var/lib/smar")
"""Where the volume `home` lies in each container: SMAR_HOME."""
HOME_VOLUME = "smar_home"
SETTINGS = HOME / "tiny.yaml"
MODEL = "tiny"
ONE_CORE_EACH = {"spark.executor.memory": "1g", "spark.executor.cores": "1", "spark.cores.max": "2"}
"""Spark's options by which a job has two executors; the master spreads them over its workers."""


def cluster_sections() -> dict[str, Any]:
    """Sections `spark` and `release` of a cluster's settings."""
    content = yaml.safe_load((REPOSITORY / "configs" / "cluster_sample_shop.yaml").read_text(encoding="utf-8"))
    return {name: content[name] for name in ("spark", "release")}


def fill_home(podman: Podman, image: str, folder: Path, *, items: int = ITEMS, **sections: Any) -> None:
    """Write the tiny shop and its settings into the services' home.

    Args:
        image: one whose user is theirs.
        folder: an empty one of this machine, for the files on their way.
        sections: of the settings, what differs there.
    """
    write_tiny_shop(folder / "shops" / MODEL, items_wanted=items)
    cluster = cluster_sections()
    spark = cluster["spark"] | {"shuffle_partitions": 2, "driver_memory": "1g"}
    spark["options"] = QUICK_SPARK | ONE_CORE_EACH
    release = cluster["release"] | {"model": MODEL, "experiment": MODEL}
    content = tiny_settings(HOME / "shops" / MODEL, spark=spark, release=release).model_dump(mode="json")
    # A model of four steps beats nothing: the floors are for real ones.
    content["gate"] |= {"over_popularity": 0.0, "over_bm25": 0.0, "minimum_queries": 1, "champion_margin": 1.0}
    for name, values in sections.items():
        content[name] |= values
    (folder / SETTINGS.name).write_text(yaml.safe_dump(content), encoding="utf-8")
    copy_into(podman, image, folder, volume=HOME_VOLUME, place=HOME)


def copy_into(podman: Podman, image: str, folder: Path, *, volume: str, place: Path, user: str = "1000") -> None:
    """Copy a folder's files into a volume, which has the user of the image's place where it is new."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    mounts = ["--volume", f"{volume}:{place}", "--volume", f"{folder}:/delivered:ro"]
    options = ["--rm", "--pull=never", "--no-healthcheck", "--user", user, *mounts]
    podman.run("run", *options, image, "bash", "-c", f"cp -r /delivered/. {place}/ && chown -R 1000:1000 {place}")
