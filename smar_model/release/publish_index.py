"""`smar publish-index`: point a version at the index build that the run refreshed (`refresh-index`), once that has answered."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact
from smar_model.lake.release_manifest import sign_index
from smar_model.lake.runs import Run
from smar_model.release.changes import carry_out
from smar_model.release.history import new_entry
from smar_model.release.reconcile import reconciled
from smar_model.release.register import place
from smar_model.release.registry import Registry, released_index, signature_tag, source_tag
from smar_model.release.steps import Outcome, decided_step
from smar_model.release.verify import verify_release
from smar_model.settings import home


def publish_index(run: Run) -> str:
    """Make the run's refreshed index the current build of the release that the run works on.

    Returns:
        The outcome: `published`, `unchanged` (it is the current build already) or `kept` (another run has published one since this
        run started, which may hold a newer catalogue).

    Raises:
        InputError: the run works on no release or has refreshed nothing, the build is of another model, or does not answer.
    """
    outcome = decided_step(run, "publish-index", lambda: _publish(run))
    print(f"[{run.name}] publish-index: {outcome.text}")
    return outcome.kind


def _publish(run: Run) -> Outcome:
    release = run.release
    if release is None:
        raise InputError(f"run {run.name}: met no release when it started, so there is no index to publish")
    build, registry, version = run.output("refresh-index"), Registry(run.settings), release.version
    tags = registry.version(version).tags
    made_for = json.loads(build.file("index.json").read_text(encoding="utf-8"))["model_digest"]
    if made_for != tags["smar.model_digest"]:
        raise InputError(
            f"run {run.name}: its index was built for the model {made_for[:12]}, version {version} has "
            f"{tags['smar.model_digest'][:12]}; start a new run"
        )
    short, answered, source, signature = build.digest[:12], None, "", ""
    if not _is_current(build, tags):
        # Before the lease: a large build takes a while to check and to send.
        # Not the folders that the run met: a copy from a server may be gone.
        whole = registry.release(version, index=released_index(tags))
        whole = replace(whole, index_digest=build.digest, index_folder=str(build.folder))
        about = {"model": registry.name, "model_digest": made_for, "index_digest": build.digest, "run": run.name}
        answered, signature = verify_release(whole), sign_index(about)
        source = _place(registry, version, build)
    with reconciled(registry, run, "publish-index") as (lease, found):
        tags = registry.version(version).tags
        current = tags["index"]
        if answered is None or _is_current(build, tags):
            # Made again, as it was damaged, it lies elsewhere in the lake.
            if tags.get(source_tag(current), "").startswith("file:") and current == build.digest:
                registry.tag(version, source_tag(current), build.folder.as_uri())
            text = f"version {version} has this index already, {short}"
            return Outcome(kind="unchanged", text=text, version=version)
        is_broken = found.problem is not None and found.champion is not None and found.champion[0] == version
        if current != release.index_digest and not is_broken:
            text = f"the index of version {version} became {current[:12]} while this run was under way; start a new run"
            return Outcome(kind="kept", text=text, version=version)
        entry = new_entry(
            registry.name,
            "refresh",
            **{"from": version, "to": version, "index_from": current, "index": build.digest},
            index_source=source,
            index_signature=signature,
            run=run.name,
            date=str(run.date),
            by="smar publish-index",
            reason=run.note,
            evidence={"answered": answered, **{name: build.metrics.get(name) for name in _FIGURES}},
        )
        carry_out(registry, lease, entry)
    text = f"version {version} answers by index {short}, of {build.metrics['items']:,.0f} items"
    return Outcome(kind="published", text=text, version=version)


def _is_current(build: Artifact, tags: dict[str, str]) -> bool:
    """Whether the version answers by this build, and it is signed: alone, or with the version that it was released with."""
    is_signed = signature_tag(build.digest) in tags or released_index(tags) == build.digest
    return tags["index"] == build.digest and is_signed


_FIGURES = ("items", "items_added", "items_removed", "recall_at_100")


def _place(registry: Registry, version: str, build: Artifact) -> str:
    """URI of the build for all who read the registry: beside the version's own files on a tracking server; in the lake where the
    registry is a database that is reached without one, from this machine's files."""
    if not registry.settings.tracking_uri.startswith("http"):
        return build.folder.as_uri()
    run_id, name = registry.version(version).run_id, f"index-{build.digest[:16]}"
    if not run_id:
        raise InputError(
            f"version {version} names no MLflow run to keep the index in; it was not made by `smar register`"
        )
    with tempfile.TemporaryDirectory(dir=home(), prefix=".publish-") as folder:
        place(build, Path(folder))
        registry.client.log_artifacts(run_id, folder, artifact_path=name)
    return f"runs:/{run_id}/{name}"
