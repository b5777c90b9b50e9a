"""The compose file: its schema, and what every service must have."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from smar_model.settings import REPOSITORY, load_settings
from tests.docker.docker_files import DOCKER, compose, images, run_tool

SERVICES: dict[str, dict[str, Any]] = compose()["services"]
OURS = {name for name, service in SERVICES.items() if "build" in service}
SEARCH_IN_PARTS = {"search-front", *(f"search-part-{part}{copy}" for part in range(4) for copy in "ab")}
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
SECRET = re.compile(r"(?i)password|secret|token|fernet|access_key|private_key")


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in strings(part)]
    return [value] if isinstance(value, str) else []


def with_defaults(text: str) -> str:
    return VARIABLE.sub(lambda found: found.group(2) or "", text)


def test_the_compose_file_fits_the_schema() -> None:
    done = run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(DOCKER / "compose.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_compose_file_would_not(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(
        (DOCKER / "compose.yaml").read_text(encoding="utf-8").replace("restart: unless", "restrat: unless")
    )
    assert run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(wrong)).returncode != 0


def test_all_that_a_team_needs_is_there() -> None:
    assert {
        *("postgres", "redis", "object-store", "mlflow", "spark-master", "spark-worker", "search"),
        *("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"),
        *("airflow-worker", "airflow-worker-spark", "airflow-worker-gpu"),
        *("prometheus", "statsd-exporter", "grafana", "jaeger"),
        *SEARCH_IN_PARTS,
    } == set(SERVICES)
    assert {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service} == {
        "airflow-worker-gpu": ["gpu"],
        "search": ["search"],
        **{name: ["search-parts"] for name in SEARCH_IN_PARTS},
    }


def test_the_front_asks_two_servers_of_each_part_that_hold_this_part() -> None:
    command = SERVICES["search-front"]["command"]
    asked = [command[place + 1].split(",") for place, word in enumerate(command) if word == "--front"]
    hosts = [[re.fullmatch(r"http://([\w-]+):8000", address)[1] for address in part] for part in asked]  # type: ignore[index]
    assert sorted(name for part in hosts for name in part) == sorted(SEARCH_IN_PARTS - {"search-front"})
    for number, part in enumerate(hosts):
        for name in part:
            given = SERVICES[name]["command"]
            assert given[given.index("--part") + 1] == str(number), name


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_health_check_limits_and_no_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"} and len(service["healthcheck"]["test"]) > 1
    assert not service["healthcheck"].get("disable")
    assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged") and service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_no_image_is_latest_and_none_runs_as_root(name: str) -> None:
    image = with_defaults(SERVICES[name]["image"])
    tag = re.fullmatch(r"[\w./-]+:([\w.-]+)", image)
    assert tag and re.search(r"\d+\.\d+", tag.group(1)) and "latest" not in image, image
    if name not in OURS:
        assert SERVICES[name]["user"] not in {"root", "0"}, "some of these images begin as root"


@pytest.mark.parametrize("name", sorted(OURS))
def test_what_is_built_is_a_stage_of_the_dockerfile(name: str) -> None:
    build = SERVICES[name]["build"]
    assert (DOCKER / build["context"]).resolve() == REPOSITORY
    assert build["target"] in images(REPOSITORY / build["dockerfile"])


def test_one_tag_is_built_in_one_way() -> None:
    ways: dict[str, Any] = {}
    for name in OURS:
        assert ways.setdefault(SERVICES[name]["image"], SERVICES[name]["build"]) == SERVICES[name]["build"]


def test_services_wait_for_what_is_healthy_and_exists() -> None:
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES and how == {"condition": "service_healthy"}, (name, needed)
            assert not SERVICES[needed].get("profiles"), f"{name} would wait for {needed}, whose profile may be off"


def test_volumes_and_files_that_are_mounted_exist() -> None:
    for name, service in SERVICES.items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (DOCKER / source).exists() if source.startswith(".") else source in compose()["volumes"], (
                name,
                mount,
            )


def test_pages_are_published_on_this_machine_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 8
    assert all(with_defaults(port).startswith("127.0.0.1:") for port in ports)
    assert len({with_defaults(port).split(":")[1] for port in ports}) == len(ports)


def test_secrets_are_files_alone() -> None:
    for name, source in compose()["secrets"].items():
        assert source == {"file": f"./secrets/{name}"}
    for service, content in SERVICES.items():
        used = {found for text in strings(content) for found in re.findall(r"/run/secrets/(\w+)", text)}
        assert used <= set(content.get("secrets", [])) <= set(compose()["secrets"]), service
        for variable, value in content.get("environment", {}).items():
            if SECRET.search(variable):
                assert "/run/secrets/" in value, f"{service}: {variable}"
    used_anywhere = {name for content in SERVICES.values() for name in content.get("secrets", [])}
    assert used_anywhere == set(compose()["secrets"])


ASSIGNMENT = re.compile(
    r"(?i)(?:password|passwd|secret(?:_?key)?|token|api_?key|fernet_key|accesskey)\"?\s*[:=]\s*[\"']?([^\s\"'#,}]+)"
)
ADDRESS = re.compile(r"\w+://[^/\s:@]*:([^@\s/]+)@")
PLACEHOLDER = re.compile(r"[$<{\[%*/:-].*|smar-.*|(?:\./|docker/)secrets/.*|cat|false|secret\(.*")
"""What may stand where a secret would: a variable, a file, the name of a Kubernetes secret, a switch."""


def secrets_in(text: str) -> list[str]:
    """Values given to what is called a secret, passwords in addresses, keys."""
    text = text.replace(":'password'", "$password")  # psql's way to write a variable
    found = [value for value in ASSIGNMENT.findall(text) if not PLACEHOLDER.fullmatch(value)]
    found += [value for value in ADDRESS.findall(text) if not value.startswith(("$", "%"))]
    return found + re.findall(r"PRIVATE KEY|\bAKIA[0-9A-Z]{16}\b", text)


def test_no_file_in_docker_holds_a_secret() -> None:
    made = ("secrets", ".env", "__pycache__")
    for path in sorted(p for p in DOCKER.rglob("*") if p.is_file() and not set(p.parts) & set(made)):
        assert not secrets_in(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    "text",
    [
        "POSTGRES_PASSWORD: airflow",
        '"secretKey": "abc"',
        "AIRFLOW__API__SECRET_KEY=x1",
        "postgresql://airflow:airflow@postgres/airflow",
        "AKIAABCDEFGHIJKLMNOP",
    ],
)
def test_a_secret_would_be_found(text: str) -> None:
    assert secrets_in(text)


def test_secrets_and_settings_of_a_machine_stay_out_of_git_and_images() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split()
    assert {"docker/secrets", "docker/.env", ".git"} <= set(ignored)
    for path in ("docker/secrets/redis_password", "docker/.env"):
        done = subprocess.run(["git", "check-ignore", "-q", path], cwd=REPOSITORY, check=False)
        assert done.returncode == 0, path


def test_the_example_names_every_variable_and_has_no_value() -> None:
    lines = [
        line for line in (DOCKER / ".env.example").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"
    ]
    assert all(line.endswith("=") for line in lines)
    used = {
        name for name, _ in VARIABLE.findall((DOCKER / "compose.yaml").read_text(encoding="utf-8").replace("$$", ""))
    }
    assert {line[:-1] for line in lines} == used


def test_secrets_are_made_once_and_for_all_that_the_compose_file_names(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"

    def make() -> dict[str, str]:
        subprocess.run([str(DOCKER / "make_secrets.sh"), str(folder)], check=True, capture_output=True)
        return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}

    first = make()
    assert set(first) == set(compose()["secrets"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(set(first.values())) == len(first) and all(len(value) >= 40 for value in first.values())
    from cryptography.fernet import Fernet

    Fernet(first["airflow_fernet_key"])
    private = load_pem_private_key(first["release_signing_key"].encode(), password=None)
    public = load_pem_public_key(first["release_public_key"].encode())
    assert isinstance(private, Ed25519PrivateKey) and isinstance(public, Ed25519PublicKey)
    public.verify(private.sign(b"a release"), b"a release")
    identity = yaml.safe_load(first["object_store_identities"])["identities"][0]["credentials"][0]
    assert identity == {
        "accessKey": first["object_store_access_key"],
        "secretKey": first["object_store_secret_key"],
    }
    (folder / "redis_password").unlink()
    second = make()
    assert second.pop("redis_password") != first.pop("redis_password") and second == first


def test_airflow_finds_its_addresses_in_the_secrets(tmp_path: Path) -> None:
    """Airflow runs a `…_CMD` without a shell and takes what it prints, ends of lines too; here with another folder in place of /run/secrets."""
    import shlex

    environment = SERVICES["airflow-scheduler"]["environment"]
    for name in compose()["secrets"]:
        (tmp_path / name).write_text(f"word-of-{name}", encoding="utf-8")
    said = {}
    for variable, command in environment.items():
        if variable.endswith("_CMD"):
            text = command.replace("$$", "$").replace("/run/secrets", str(tmp_path))
            said[variable] = subprocess.run(shlex.split(text), check=True, capture_output=True, text=True).stdout
    assert said == {
        "AIRFLOW__CORE__FERNET_KEY_CMD": "word-of-airflow_fernet_key",
        "AIRFLOW__API__SECRET_KEY_CMD": "word-of-airflow_api_secret_key",
        "AIRFLOW__API_AUTH__JWT_SECRET_CMD": "word-of-airflow_jwt_secret",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD": (
            "postgresql+psycopg2://airflow:word-of-airflow_database_password@postgres/airflow"
        ),
        "AIRFLOW__CELERY__BROKER_URL_CMD": "redis://:word-of-redis_password@redis:6379/0",
    }


def test_the_keys_of_the_object_store_are_given_to_whoever_uses_it(tmp_path: Path) -> None:
    for name in ("object_store_access_key", "object_store_secret_key"):
        (tmp_path / name).write_text(f"word-of-{name}", encoding="utf-8")
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    command = [
        str(DOCKER / "with_secrets.sh"),
        sys.executable,
        "-c",
        "import os; print(*map(os.environ.get, NAMES))",
    ]
    command[-1] = command[-1].replace("NAMES", repr(names))
    clean = {name: value for name, value in os.environ.items() if name not in names} | {"SECRETS": str(tmp_path)}
    for store, expected in (
        ("s3://mlflow/smar", "word-of-object_store_access_key word-of-object_store_secret_key"),
        ("", "None None"),
    ):
        done = subprocess.run(command, env=clean | {"SMAR_STORE": store}, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
    for name, service in SERVICES.items():
        if {"SMAR_STORE", "MLFLOW_TRACKING_PASSWORD_FILE", "SMAR_SIGNING_KEY_FILE"} & set(
            service.get("environment", {})
        ):
            assert service["command"][0] == "/opt/smar/docker/with_secrets.sh", name
        if "SMAR_STORE" in service.get("environment", {}):
            assert {"object_store_access_key", "object_store_secret_key"} <= set(service["secrets"]), name


def test_a_login_and_a_private_key_are_given_to_the_command(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("a word", encoding="utf-8")
    (tmp_path / "key").write_text("-----BEGIN\nabc\n-----END\n", encoding="utf-8")
    (tmp_path / "key").chmod(0o644)
    code = (
        "import os; from pathlib import Path; key = Path(os.environ['SMAR_SIGNING_KEY']); "
        "print(repr((os.environ['MLFLOW_TRACKING_PASSWORD'], key.read_text(), key.stat().st_mode & 0o777)))"
    )
    variables = {
        "MLFLOW_TRACKING_PASSWORD_FILE": str(tmp_path / "password"),
        "SMAR_SIGNING_KEY_FILE": str(tmp_path / "key"),
        "TMPDIR": str(tmp_path),
        "SMAR_STORE": "",
    }
    command = [str(DOCKER / "with_secrets.sh"), sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr(("a word", "-----BEGIN\nabc\n-----END\n", 0o600))


def test_one_worker_alone_writes_to_mlflow_and_signs() -> None:
    held = {name: set(service.get("secrets", [])) for name, service in SERVICES.items()}
    assert {name for name, secrets in held.items() if "release_signing_key" in secrets} == {"airflow-worker"}
    assert {name for name, secrets in held.items() if "mlflow_worker_password" in secrets} == {
        "airflow-worker",
        "mlflow",
    }
    for name, service in SERVICES.items():
        environment = service.get("environment", {})
        # Spark's executors read and write tables, and know no registry.
        if "SMAR_STORE" in environment and name != "spark-worker":
            user = environment["MLFLOW_TRACKING_USERNAME"]
            assert environment["MLFLOW_TRACKING_PASSWORD_FILE"] == f"/run/secrets/mlflow_{user}_password"
            assert (user == "worker") == (name == "airflow-worker")
            assert environment["SMAR_TRUSTED_KEYS"] == "/run/secrets/release_public_key"


def test_airflows_first_user_gets_its_password_over_standard_input(tmp_path: Path) -> None:
    fake = tmp_path / "airflow"
    fake.write_text(
        '#!/bin/bash\necho "arguments $*" >>"$LOG"\n[[ "$*" == "users create"* ]] && sed "s/^/input /" >>"$LOG"\nexit 0\n',
        encoding="utf-8",
    )
    fake.chmod(0o755)
    (tmp_path / "airflow_admin_password").write_text("a-long-word", encoding="utf-8")
    script = (DOCKER / "airflow" / "start_api_server.sh").read_text(encoding="utf-8")
    log = tmp_path / "log"
    subprocess.run(
        [shutil.which("bash") or "bash", "-c", script.replace("/run/secrets", str(tmp_path))],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log)},
        check=True,
    )
    lines = log.read_text(encoding="utf-8").splitlines()
    assert lines.count("input a-long-word") == 2
    assert not [line for line in lines if line.startswith("arguments") and "a-long-word" in line]


def test_workers_take_every_queue() -> None:
    taken: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        if "celery" in service.get("command", []):
            queues = service["command"][service["command"].index("--queues") + 1]
            taken[name] = set(with_defaults(queues).split(","))
    assert taken == {
        "airflow-worker": {"default", "gpu"},
        "airflow-worker-spark": {"spark"},
        "airflow-worker-gpu": {"gpu"},
    }


def test_the_settings_are_of_these_services() -> None:
    default = with_defaults(SERVICES["airflow-worker"]["environment"]["SMAR_SETTINGS"])
    settings = load_settings(REPOSITORY / default)
    master = SERVICES["spark-worker"]["environment"]["SPARK_MASTER"]
    assert settings.spark.master == master == "spark://spark-master:7077"
    assert settings.tracking_uri == "http://mlflow:5000"
    assert "mlflow:5000" in SERVICES["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"]
    assert SERVICES["airflow-worker-spark"]["environment"]["SPARK_LOCAL_HOSTNAME"] == "airflow-worker-spark"


@pytest.mark.parametrize("name", ["cluster", "kubernetes"])
def test_a_clusters_sample_shop_is_the_laptops(name: str) -> None:
    laptop = load_settings(REPOSITORY / "configs" / "sample_shop.yaml").model_dump()
    cluster = load_settings(REPOSITORY / "configs" / f"{name}_sample_shop.yaml").model_dump()
    assert {section for section in laptop if laptop[section] != cluster[section]} == {"spark", "release"}


def test_the_health_check_tells_a_good_answer_from_a_bad_one(tmp_path: Path) -> None:
    import http.server
    import threading

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 503)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        proxied = os.environ | {"http_proxy": "http://127.0.0.1:9"}

        def check(path: str) -> int:
            address = f"http://127.0.0.1:{server.server_port}{path}"
            command = [sys.executable, str(DOCKER / "http_ok.py"), address]
            return subprocess.run(command, env=proxied, capture_output=True, check=False).returncode

        assert (check("/healthz"), check("/readyz")) == (0, 1)
        server.shutdown()
    assert check("/healthz") == 1


def test_databases_are_made_as_the_services_name_them(tmp_path: Path) -> None:
    """The script that PostgreSQL's image runs, with `psql` in its place telling what it was given."""
    fake = tmp_path / "psql"
    # psql's backquotes: a shell's output.
    fake.write_text(
        """#!/bin/bash\nread -r _ _ command\necho "$@ told $(bash -c "${command//\\`/}")"\ncat\n""", encoding="utf-8"
    )
    fake.chmod(0o755)
    script = (DOCKER / "postgres" / "create_databases.sh").read_text(encoding="utf-8")
    for name in ("airflow", "mlflow"):
        (tmp_path / f"{name}_database_password").write_text(f"word-of-{name}", encoding="utf-8")
    done = subprocess.run(
        [shutil.which("bash") or "bash", "-c", script.replace("/run/secrets", str(tmp_path))],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "POSTGRES_USER": "postgres"},
        check=True,
        capture_output=True,
        text=True,
    )
    for name in ("airflow", "mlflow"):
        assert f"--set name={name} told word-of-{name}" in done.stdout
    assert "=word-of" not in done.stdout, "no password is among the arguments"
    assert "@postgres/mlflow" in SERVICES["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"]
