"""safeguard prefilter."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson
import typer
from rich.console import Console
from rich.table import Table

from safeguard_streams.cli.options import Bootstrap, Data, Json, Library, console, load_policy, needs_extra
from safeguard_streams.policies.files import LIBRARY, with_changes
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.process import configure_logging

app = typer.Typer(no_args_is_help=True, help="The first stage: what needs a closer look.")
PolicyName = Annotated[
    str, typer.Argument(metavar="POLICY", help="Id of a policy in the library, or a policy.md file.")
]
Model = Annotated[
    Path | None, typer.Option("--model", show_default="the one in the package", help="The fastText model.")
]
Seed = Annotated[int, typer.Option(help="Equal data and seed give an equal result.")]
LabelsFile = Annotated[
    Path | None,
    typer.Option("--labels", help="JSON lines {text, violates, weight} to use in place of verdicts on Kafka."),
]
Plot = Annotated[Path | None, typer.Option(help="Draw recall against the share escalated: a .svg or .png file.")]


@app.command("run")
def run(
    bootstrap: Bootstrap = None,
    port: Annotated[int | None, typer.Option(help="Port of the health pages.")] = None,
) -> None:
    """Classify content.events: clear most of it, escalate the rest. Ends on SIGTERM with its work committed."""
    try:
        from safeguard_streams.prefilter.app import run as run_prefilter
    except ImportError as error:
        raise needs_extra(error, "prefilter") from error
    current = settings.load(bootstrap=bootstrap, prefilter_port=port)
    configure_logging(form=current.log_format)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run_prefilter(current))


@app.command("train")
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="The model to write; its card goes beside it as card.md.")] = Path(
        "prefilter.bin"
    ),
    validation: Annotated[Path | None, typer.Option(help="Folder of sources that are only measured on.")] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Train once more without each source, and measure on it. Slow.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Train the fastText classifier and write its model card."""
    try:
        from safeguard_streams.quality import model_card, training
    except ImportError as error:
        raise needs_extra(error, "all-cpu") from error
    rows, held = training.read_folder(data, typer.echo)
    typer.echo(f"training on {len(rows):,} rows; {len(held):,} are held out (about a minute for 300,000 rows)")
    training.fit(rows, out, seed)
    typer.echo(f"measuring {out} ({out.stat().st_size:,} bytes)")
    card = out.with_name("card.md")
    text = model_card.card(data, validation, out, rows, held, seed, leave_one_out=leave_one_out, progress=typer.echo)
    card.write_text(text, encoding="utf-8")
    typer.echo(f"card: {card}")


@app.command("evaluate")
def evaluate(
    data: Data,
    model: Model = None,
    policy: Annotated[
        str | None, typer.Option(help="Measure the gate of this policy (id or file) and not 1 - P(none).")
    ] = None,
    library: Library = LIBRARY,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Measure on labelled texts, by set and by harm: ROC-AUC, average precision, recall by share escalated, and the
    share escalated by recall; with 95 % bootstrap intervals.
    """
    import numpy as np

    from safeguard_streams.policies import labelled
    from safeguard_streams.prefilter.classifier import NONE, SHIPPED, Classifier

    try:
        from safeguard_streams.quality import distillation, evaluation
    except ImportError as error:
        raise needs_extra(error, "all-cpu") from error
    classifier = Classifier(model or SHIPPED)
    under = load_policy(policy, library)[0] if policy else None

    def score(texts: Any) -> Any:
        if under:
            return distillation.gate_scores(under, classifier, texts)
        return np.array([1 - scores[NONE] for scores in classifier.score(texts)])

    rows = []
    curves = {}
    sets = []
    with Console(stderr=True).status("measuring") as status:
        for path in labelled.files(data):
            status.update(f"measuring {path.name}")
            group = list(labelled.read(path))
            rows += group
            scores, violates = score([row.text for row in group]), np.array([row.violates for row in group])
            curves[group[0].source] = scores, violates
            sets.append(evaluation.figures(group[0].source, scores, violates))
        status.update("measuring by harm")
        harms = evaluation.by_label(rows, score)
    if plot:
        evaluation.plot(curves, plot, f"Recall of {classifier.name}" + (f", gate of {under.id}" if under else ""))
    if as_json:
        found = {
            "model": classifier.name,
            "sets": sets,
            "harms": harms,
            "mean_roc_auc": round(evaluation.mean_roc_auc(sets), 4),
        }
        print(msgspec.json.encode(found).decode())
        return
    print("\n".join(evaluation.markdown(sets)))
    if harms:
        print("\nBy harm, against all texts that violate nothing:\n")
        print("\n".join(evaluation.markdown(harms)))
    if plot:
        print(f"\nplot: {plot}")


@app.command("calibrate")
def calibrate(
    policy: PolicyName,
    target_recall: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Share of violating content to catch.")
    ] = 0.95,
    labels: LabelsFile = None,
    library: Library = LIBRARY,
    model: Model = None,
    write: Annotated[bool, typer.Option("--write", help="Set the threshold in the policy's file.")] = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Set the threshold of a policy's gate for a wanted recall, on labelled texts or on the verdicts on Kafka (live and
    audit lanes, weighted by how they were drawn), and say what to expect of it.
    """
    import numpy as np

    from safeguard_streams.errors import ConfigurationError
    from safeguard_streams.prefilter.classifier import SHIPPED, Classifier
    from safeguard_streams.quality import verdict_labels

    try:
        from safeguard_streams.quality import distillation, threshold
    except ImportError as error:
        raise needs_extra(error, "all-cpu") from error
    document, path = load_policy(policy, library)
    if labels:
        rows = verdict_labels.from_file(labels).rows
        scores = distillation.gate_scores(document, Classifier(model or SHIPPED), [row.text or "" for row in rows])
        source = "labels"
    else:
        found = asyncio.run(verdict_labels.from_kafka(settings.load(bootstrap=bootstrap), document.id))
        rows = [row for row in found.rows if row.prefilter and row.prefilter.score is not None]
        if not rows:
            raise ConfigurationError(f"no verdicts with scores for {document.id} on Kafka; give --labels")
        scores = np.array([row.prefilter.score or 0.0 for row in rows if row.prefilter])
        source = "verdicts"
    result = threshold.calibrate(
        scores,
        [row.violates for row in rows],
        target_recall,
        [row.weight for row in rows],
        [row.prefilter is not None and row.prefilter.gate in {"terms", "everything"} for row in rows],
    )
    if write:
        expected = {
            "target_recall": target_recall,
            "recall": [result.recall.value, result.recall.low, result.recall.high],
            "escalated": [result.escalated.value, result.escalated.low, result.escalated.high],
            "violating": result.violating,
            "rows": result.rows,
            "source": source,
        }
        changed = with_changes(document.document, "gate", threshold=result.threshold, calibration=expected)
        path.write_text(changed, encoding="utf-8")
    if as_json:
        print(msgspec.json.encode(result).decode())
        return
    print(
        f"{document.id}: threshold {result.threshold:.4f} for recall {target_recall:.2f} (now {document.gate.threshold})"
    )
    print(f"from {result.rows:,} {source}, {result.violating:,} of them violating")
    print(f"expected on content like this: recall {result.recall}, escalated {result.escalated}")
    print(f"at the threshold {result.probability:.1%} violate, by the {result.map} map (Brier score {result.brier})")
    print(f"written to {path}" if write else "nothing was changed; --write sets it in the policy's file")


@app.command("recall")
def recall(
    policies: Annotated[list[str] | None, typer.Argument(help="Policies; by default all that have verdicts.")] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Recall of each policy's gates on live traffic, from the verdicts on what the audit lane drew, with a 95 % interval;
    what was missed by stratum; and what a higher recall would cost.
    """
    from safeguard_streams.bus import kafka
    from safeguard_streams.contract import topics
    from safeguard_streams.contract.records import Verdict, decode
    from safeguard_streams.quality import gate_recall, verdict_labels

    async def read() -> list[Verdict]:
        current = settings.load(bootstrap=bootstrap)
        await kafka.wait_for_broker(current, timeout=10)
        return [decode(record.value, Verdict) async for record in kafka.read_all(current, [topics.VERDICTS])]

    verdicts = asyncio.run(read())
    names = policies or sorted({v.policy_id for v in verdicts if v.stage == "reasoner"})
    found = {name: gate_recall.estimate(verdict_labels.from_verdicts(verdicts, name).rows) for name in names}
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    if not found:
        print("no verdicts yet")
    for name, result in found.items():
        value = "-" if result.recall is None else f"{result.recall:.3f}"
        print(f"{name}: recall {value}, 95 % interval {result.low:.3f} to {result.high:.3f}")
        print(
            f"  {result.caught:,} violating caught, about {result.missed:,.0f} missed; {result.escalated:.2%} escalated"
        )
        if result.why:
            print(f"  {result.why}")
        table = Table("stratum", "drawn at", "audited", "violating", "stands for", "missed", "95 % interval", box=None)
        for s in result.strata:
            interval = f"{s.low:,.0f} to {s.high:,.0f}"
            counts = f"{s.audited:,}", f"{s.violating:,}", f"{s.contents:,.0f}", f"{s.missed:,.0f}"
            table.add_row(s.name, f"{s.rate:.2%}", *counts, interval)
        if result.strata:
            console().print(table)
        for cost in result.costs:
            change = "is reached now" if cost.threshold is None else f"threshold {cost.threshold:.4f}"
            print(f"  recall {cost.recall:.2f}: {change}, {cost.escalated:.2%} escalated")


@app.command("distill")
def distill(
    policy: PolicyName,
    labels: LabelsFile = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the policy with its new gate: policy.md and distilled.json.")
    ] = None,
    target_recall: Annotated[float, typer.Option(min=0.01, max=1.0, help="For the new gate's threshold.")] = 0.95,
    library: Library = LIBRARY,
    model: Model = None,
    plot: Plot = None,
    seed: Seed = 0,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Train a label for one policy from its verdicts on Kafka, compare it with the gate in force on verdicts that it did
    not see, and propose the switch. Nothing switches by itself: look at the figures, then release the written policy.
    """
    import hashlib

    from safeguard_streams.prefilter.classifier import SHIPPED, Classifier
    from safeguard_streams.quality import verdict_labels

    try:
        from safeguard_streams.quality import distillation, evaluation, threshold
    except ImportError as error:
        raise needs_extra(error, "all-cpu") from error
    document, _ = load_policy(policy, library)
    classifier = Classifier(model or SHIPPED)
    if labels:
        found = verdict_labels.from_file(labels)
    else:
        found = asyncio.run(verdict_labels.from_kafka(settings.load(bootstrap=bootstrap), document.id, texts=True))
    with Console(stderr=True).status(f"distilling from {len(found.rows):,} judged texts"):
        proposal = distillation.propose(document, classifier, found.rows, seed)
    proposed = threshold.calibrate(proposal.scores[1], proposal.violates, target_recall).threshold
    files = {}
    if out:
        out.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(proposal.label).hexdigest()[:12]
        gate = with_changes(document.document, "gate", distilled=digest, threshold=proposed, calibration=None)
        files = {out / "distilled.json": proposal.label, out / "policy.md": gate.encode()}
        for path, content in files.items():
            path.write_bytes(content)
    if plot:
        curves = zip((proposal.before.name, proposal.after.name), proposal.scores, strict=True)
        title = f"{document.id}, on texts that the label did not see"
        evaluation.plot({name: (scores, proposal.violates) for name, scores in curves}, plot, title)
    if as_json:
        said = {
            "policy": document.id,
            "rows": len(found.rows),
            "before": msgspec.to_builtins(proposal.before),
            "after": msgspec.to_builtins(proposal.after),
            "threshold": proposed,
            "files": [str(path) for path in files],
        }
        print(orjson.dumps(said).decode())
        return
    print("\n".join(evaluation.markdown([proposal.before, proposal.after])[:-2]))
    print(f"threshold for recall {target_recall:.2f}: {proposed:.4f}")
    if out:
        print(
            f"proposed in {out}: policy.md, distilled.json. To switch, put both into the library and release the policy."
        )
    else:
        print("nothing was written; --out FOLDER writes the policy with its new gate")
