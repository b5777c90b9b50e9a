"""`smar describe-decision`: what a person reads who is asked whether a version becomes the champion; Markdown."""

from __future__ import annotations

from smar_model.errors import NothingToDo
from smar_model.evaluation.decision import read_decision
from smar_model.evaluation.evaluation_record import EvaluationRecord, read_evaluation
from smar_model.evaluation.preference import p_text
from smar_model.evaluation.terminal_table import percent
from smar_model.lake.runs import Run
from smar_model.release.experiment import read_evidence, rule, today
from smar_model.release.register import registered_version
from smar_model.release.registry import Registry
from smar_model.release.steps import report_outcome
from smar_model.release.tracking import page_address, parent_run, served_by_make_ui

MODELS = {"challenger": "this run", "champion": "champion", "text_only": "text-only", "bm25": "BM25"}
SEGMENTS = {"overall": "all", "fashion": "fashion", "not_fashion": "not fashion"}
METRICS = {"recall_at_50": "Recall@50", "ndcg_at_10": "nDCG@10"}


def describe_decision(run: Run) -> str:
    """The headline figures, the gate's rules, and where the report is, which is put there.

    Raises:
        InputError: the run has not been evaluated or judged.
    """
    evaluation = read_evaluation(run.output("evaluate").file("evaluation.json"))
    decision = read_decision(run.output("gate").file("decision.json"))
    registry, state = Registry(run.settings), run.state("register")
    parent = parent_run(registry, run)
    if report := run.find_output("report"):
        # Who is asked reads it now; `smar track` shows the run only after the answer.
        registry.client.log_artifact(parent, str(report.file("report.html")))
    address = page_address(run, registry.experiment_id(), parent)
    version = f"version {state['version']}" if state and state["state"] == "finished" else "not registered yet"
    champion = run.champion.name if run.champion else "none yet"
    broken = any(not reason.passed for reason in decision.reasons)
    text = "\n".join(
        [
            f"**Run** {_plain(run.name)}, {version}, trained up to {run.cutoff:%Y-%m-%d}, judged up to {run.date}. "
            f"**Champion**: {champion}.",
            *(["", f"**Note**: {_plain(run.note)}"] if run.note else []),
            "",
            *_table(evaluation),
            "",
            *_shoppers(run, registry, state["version"] if state and state["state"] == "finished" else None),
            f"**Gate**: {_plain(decision.verdict)}",
            "",
            f"{decision.count}:",
            "",
            *(f"- {reason.mark} {_plain(reason.text)}" for reason in decision.reasons),
            *(["", "**A version that breaks a rule is not promoted, whoever approves it.**"] if broken else []),
            "",
            f"[Report in MLflow]({address})" + (" (answers while `make ui` runs)" if served_by_make_ui(run) else ""),
        ]
    )
    report_outcome(text=text)
    return text


def refuse_idle_question(run: Run) -> None:
    """Whether a person's word decides anything.

    Raises:
        InputError: the gate has not decided.
        NothingToDo: the gate keeps the champion, or the run asks nobody, or shoppers have still to be asked.
    """
    if run.promotion != "ask":
        raise NothingToDo(f"run {run.name} was started with --promotion {run.promotion}: nobody is asked")
    decision = read_decision(run.output("gate").file("decision.json"))
    if not decision.promote:
        raise NothingToDo(f"run {run.name}: {decision.verdict}: there is nothing to ask")
    if asked := run.settings.gate.interleaving:
        seen = read_evidence(run, Registry(run.settings), registered_version(run))
        ruling = rule(seen, asked, today=today()) if seen else None
        if ruling and ruling.kind != "promote":
            raise NothingToDo(f"run {run.name}: {ruling.text}: there is nothing to ask a person yet")


def _shoppers(run: Run, registry: Registry, version: str | None) -> list[str]:
    """What shoppers preferred, where the gate asks for it."""
    asked = run.settings.gate.interleaving
    seen = read_evidence(run, registry, version) if asked and version else None
    if asked is None or seen is None:
        return []
    said = f"**Interleaving**: {_plain(rule(seen, asked, today=today()).text)}"
    if (found := seen.preference) is None:
        return [said, ""]
    last = found.last
    cells = (
        *(str(found.pair), str(last.day), f"{len(found.looks):,}", f"{last.requests:,}", f"{last.shoppers:,}"),
        f"{last.wins:,} / {last.ties:,} / {last.losses:,}",
        f"{found.preference:.3f} ({found.low:.3f} to {found.high:.3f})",
        *(p_text(last.p), p_text(found.corrected_p), found.verdict),
    )
    heads = (
        "pair",
        "up to",
        "days",
        "requests",
        "shoppers",
        "wins / ties / losses",
        "preference",
        "p",
        "corrected",
        "verdict",
    )
    rows = [" | ".join(heads), " | ".join("---" for _ in heads), " | ".join(_plain(cell) for cell in cells)]
    return [said, "", *(f"| {row} |" for row in rows), ""]


def _table(evaluation: EvaluationRecord) -> list[str]:
    """In per cent, a model a row."""
    heads = [f"{metric}, {segment}" for segment in SEGMENTS.values() for metric in METRICS.values()]
    rows = [["", *heads]]
    for model, name in MODELS.items():
        cells = [percent(evaluation.figure(model, s, m)) for s in SEGMENTS for m in METRICS]
        rows.append([f"**{name}**", *cells])
    counted = ", ".join(f"{name} {evaluation.segments[segment]:,}" for segment, name in SEGMENTS.items())
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "| --- |" + " ---: |" * len(heads), *lines[1:], "", f"In per cent; queries: {counted}."]


def _plain(text: str) -> str:
    """Words of others as words: no markup, no line break."""
    words = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>|#" else letter for letter in words)
