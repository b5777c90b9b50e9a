"""`smar register`: the run's model, its index and report as one immutable MLflow model version, signed, alias `challenger`."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import yaml

from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact
from smar_model.lake.checkout import commit
from smar_model.lake.digests import digest_bytes
from smar_model.lake.release_manifest import (
    WITHIN_VERSION,
    content_digest,
    make_manifest,
    model_content_digest,
    record_manifest,
    sign_manifest,
)
from smar_model.lake.runs import Run
from smar_model.lake.signing_keys import signing_key
from smar_model.release.experiment import experiment_under_way
from smar_model.release.lease import registry_lease
from smar_model.release.registry import CHALLENGER, Registry
from smar_model.release.steps import recorded_step, report_outcome
from smar_model.release.tracking import parent_run
from smar_model.settings import REPOSITORY, home

NO_BYTECODE = "__pycache__"
"""Name in a version at which Python would keep bytecode of `pyfunc_model.py` when MLflow loads it, and run what it finds there."""
SERVING_PACKAGES = (
    "faiss-cpu",
    "mlflow",
    "numpy",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "tokenizers",
)
"""What a server needs beside this project itself; pinned as in the lock."""


def register_run(run: Run) -> str:
    """Make the version of a run's model and index, or find the one made before; returns its number.

    Raises:
        InputError: the run lacks a finished output, its index was built from another finetuned model, or there is no key to sign with.
    """
    with recorded_step(run, "register") as details:
        finetune, index = run.output("finetune"), run.output("index")
        if index.manifest["inputs"]["finetune"] != finetune.digest:
            raise InputError(
                f"run {run.name}: its index was built for another model; run `smar index --run {run.name}`"
            )
        registry = Registry(run.settings)
        signing_key()  # before any work
        with registry_lease(purpose=f"register {run.name}"):
            found = registry.find(model_digest=finetune.manifest["content"]["model"], index_digest=index.digest)
            release = found or registry.release(_new_version(registry, run, finetune, index), index=index.digest)
            under_way = experiment_under_way(registry)
            is_held = under_way is not None and under_way.version != release.version
            # Settings that ask for no interleaving are somebody's word that it is over; a run that promotes nothing has no say.
            ends = run.settings.gate.interleaving is None and run.promotion != "never"
            if under_way and is_held and not ends:
                print(
                    f"[{run.name}] register: the alias {CHALLENGER!r} stays at version {under_way.version}, which is being interleaved with "
                    f"the champion since {under_way.since}"
                )
            elif registry.aliased(CHALLENGER) != release.version:
                if under_way and is_held:
                    print(
                        f"[{run.name}] register: version {under_way.version} is no longer interleaved with the champion, since {under_way.since}: "
                        "this run's settings ask for none (gate.interleaving), and its version is the challenger now"
                    )
                registry.client.set_registered_model_alias(registry.name, CHALLENGER, release.version)
        details |= {"reused": found is not None, "version": release.version, "release_digest": release.release_digest}
        details["metrics"] = {"version": int(release.version)}
    print(f"[{run.name}] register: {release.name} of {registry.name!r} {'found again' if found else 'made'}")
    report_outcome(version=release.version)
    return release.version


def _new_version(registry: Registry, run: Run, finetune: Artifact, index: Artifact) -> str:
    from mlflow.exceptions import MlflowException

    parent = parent_run(registry, run)
    tags = version_tags(run, finetune, index)
    about = {name: tags[f"smar.{name}"] for name in ("run", "date", "cutoff", "model_digest", "index_digest")}
    with tempfile.TemporaryDirectory(dir=home(), prefix=".register-") as name:
        staging = Path(name)
        place(finetune, staging, only="model")
        place(index, staging / "index")
        place(run.output("report"), staging, only="report.html")
        settings = yaml.safe_dump(run.settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        (staging / "settings.yaml").write_text(settings, encoding="utf-8")
        info, manifest = _log_signed(registry, run, parent, staging, about | {"model": registry.name})
    # In the lake before there is a version: one whose manifest was never recorded would be an older one for its readers.
    record_manifest(run.name, manifest)
    try:
        registry.client.create_registered_model(
            registry.name, description="Text queries to items with text and pictures; alias `champion` is what serves."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = registry.client.create_model_version(
        registry.name,
        source=info.model_uri,
        run_id=parent,
        model_id=info.model_id,  # without it a server takes no model whose files it keeps itself
        tags=tags | {"smar.release_digest": digest_bytes(manifest.encode())},
        description=f"Trained by run {run.name} on {run.days[0]} to {run.training_days[-1]}, judged on "
        f"{run.evaluation_days[0]} to {run.date}. The report is among its artifacts: artifacts/report.html.",
    )
    return str(created.version)


def _log_signed(registry: Registry, run: Run, parent: str, staging: Path, about: dict[str, str]) -> tuple[Any, str]:
    """Log what lies in `staging` as an MLflow model; returns what MLflow says of it, and its manifest."""
    import mlflow
    from mlflow.models import Model

    mlflow.set_tracking_uri(run.settings.tracking_uri)
    mlflow.set_registry_uri(run.settings.tracking_uri)
    signer = ReleaseSigner(about)
    with mlflow.start_run(run_id=parent):
        info = Model.log(artifact_path=None, name=registry.name, flavor=signer, staging=staging)
    return info, signer.manifest


class ReleaseSigner:
    """What MLflow takes for a flavor: it has all files of a version written on this machine, signs them, and MLflow sends those very files."""

    __name__ = "mlflow.pyfunc"

    def __init__(self, about: dict[str, str]) -> None:
        self.about = about
        self.manifest = ""

    def save_model(self, path: str, mlflow_model: Any, staging: Path) -> None:
        """Write and sign a version.

        Raises:
            InputError: model or index in `staging` are not what the version will name, or there is no key.
        """
        folder = Path(path)
        save_pyfunc(folder, mlflow_model, staging)
        model, index = (folder / "artifacts" / name for name in ("model", "index"))
        for made, content, digest in (
            (model, model_content_digest(model), self.about["model_digest"]),
            (index, content_digest(index), self.about["index_digest"]),
        ):
            if content != digest:
                raise InputError(f"{made}: damaged: not what its stage made ({digest[:12]}); nothing is registered")
        self.manifest = make_manifest(folder, self.about)
        sign_manifest(folder, self.manifest)


def save_pyfunc(folder: Path, mlflow_model: Any, staging: Path) -> None:
    """Write all of a version that is not signed yet: MLflow's files and, under `artifacts/`, what lies in `staging`."""
    import mlflow

    from smar_model.retrieval import pyfunc_model

    with warnings.catch_warnings():
        # MLflow advises type hints and an input example in place of the signature that we state.
        warnings.simplefilter("ignore", UserWarning)
        mlflow.pyfunc.save_model(
            path=str(folder),
            mlflow_model=mlflow_model,
            python_model=str(Path(pyfunc_model.__file__)),
            artifacts={name: str(staging / name) for name in ("model", "index", "report.html", "settings.yaml")},
            signature=pyfunc_model.SIGNATURE,
            pip_requirements=pinned_requirements(),
        )
    for cached in folder.rglob("__pycache__"):
        shutil.rmtree(cached)
    (folder / NO_BYTECODE).write_text(
        "A file, so that Python keeps no bytecode beside what is signed.\n", encoding="utf-8"
    )


def version_tags(run: Run, finetune: Artifact, index: Artifact) -> dict[str, str]:
    measured = run.output("evaluate").metrics
    figures = {
        f"smar.{prefix}{metric}": f"{measured[name]:.4f}"
        for segment, prefix in (("overall", ""), ("fashion", "fashion_"), ("not_fashion", "not_fashion_"))
        for metric in ("recall_at_50", "ndcg_at_10")
        if (name := f"challenger_{segment}_{metric}") in measured
    }
    if (over_bm25 := measured.get("challenger_minus_bm25_overall_recall_at_50_mean")) is not None:
        figures["smar.over_bm25"] = f"{over_bm25:.4f}"
    return figures | {
        "smar.run": run.name,
        "smar.date": str(run.date),
        "smar.cutoff": run.cutoff.isoformat(),
        "smar.started_from": finetune.metrics.get("started_from", "pretraining"),
        "smar.model_digest": finetune.manifest["content"]["model"],
        "smar.commit": commit(),
        "smar.index_digest": index.digest,
        "index": index.digest,
        "index_source": WITHIN_VERSION,
    }


def pinned_requirements() -> list[str]:
    """The lock's lines for the packages that serving needs."""
    lines = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [line.split(" ")[0] for line in lines if line.split("==")[0].lower() in SERVING_PACKAGES]


def place(artifact: Artifact, folder: Path, *, only: str | None = None) -> None:
    """Hard links to an artifact's listed files (all, or those of one file or folder), copied where links cannot be."""
    for name in artifact.manifest["files"]:
        if only in {None, name, name.split("/")[0]}:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(artifact.file(name), target)
            except OSError:
                shutil.copy2(artifact.file(name), target)


def registered_version(run: Run) -> str:
    """The version that the run was registered as.

    Raises:
        InputError: the run has not been registered.
    """
    state = run.state("register")
    if not state or state["state"] != "finished":
        raise InputError(f"run {run.name}: not registered; run `smar register --run {run.name}`")
    return str(state["version"])
