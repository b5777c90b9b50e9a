"""The reader by which `make test-containers` starts the compose file's services: it takes every key, and refuses what it does not know."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.containers import compose_file
from tests.containers.compose_file import read_compose_file
from tests.docker.docker_files import DOCKER, compose

PROFILES = frozenset({"search"})


def following(options: tuple[str, ...], name: str) -> list[str]:
    return [options[place + 1] for place, option in enumerate(options) if option == name]


def test_every_service_is_read_as_it_stands(tmp_path: Path) -> None:
    services = read_compose_file({"BIND_ADDRESS": "127.0.0.9"}, secrets=tmp_path, profiles=PROFILES)
    others = {
        name for name, service in compose()["services"].items() if not PROFILES & set(service.get("profiles", PROFILES))
    }
    assert "airflow-worker-gpu" in others and set(services) == set(compose()["services"]) - others
    for name, service in services.items():
        assert following(service.options, "--cap-drop") == ["ALL"] and "--init" in service.options
        secrets = compose()["services"][name].get("secrets", [])
        mounts = following(service.options, "--volume")
        assert {f"{tmp_path}/{secret}:/run/secrets/{secret}:ro" for secret in secrets} <= set(mounts)
        assert all(mount.split(":")[0].startswith(("/", "smar_")) for mount in mounts)
    assert services["spark-worker"].replicas == 2 and services["spark-worker"].depends_on == ("spark-master",)
    search = services["search"]
    assert "--read-only" in search.options and search.memory == 4 * 2**30 and search.health.interval == 15
    assert following(search.options, "--publish") == ["127.0.0.9:8000:8000"]
    assert following(search.options, "--health-cmd") == ['["http_ok", "http://localhost:8000/healthz"]']
    assert '"$(cat /run/secrets/redis_password)"' in services["redis"].command[2]
    assert "SMAR_SETTINGS=configs/cluster_sample_shop.yaml" in following(search.options, "--env")


def test_a_profile_that_is_off_leaves_its_services_out(tmp_path: Path) -> None:
    assert "search" not in read_compose_file({}, secrets=tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("    shm_size: 256m", "    pids_limit: 100", "postgres.*pids_limit"),
        ("      start_period: 180s", "      start_interval: 1s", "healthcheck.*start_interval"),
        ("      spark-master: {condition: service_healthy}", "      spark-master: {condition: service_started}", "by"),
        ('["no-new-privileges:true"]', '["seccomp:unconfined"]', "security_opt"),
        ("\nvolumes:\n", "\nnetworks: {}\nvolumes:\n", "the compose file.*networks"),
    ],
)
def test_what_it_does_not_know_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, named: str
) -> None:
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "compose.yaml").write_text(text.replace(old, new), encoding="utf-8")
    monkeypatch.setattr(compose_file, "DOCKER", tmp_path)
    with pytest.raises(ValueError, match=named):
        read_compose_file({}, secrets=tmp_path, profiles=PROFILES)
