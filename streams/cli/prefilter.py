"""safeguard prefilter."""

from __future__ import annotations

import asyncio
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from safeguard_streams.cli.options import Bootstrap, Data, Json, Library, Port, extra, load_policy, output_file
from safeguard_streams.cli.output import console, say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import LIBRARY, write_document
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.durations import moment
from safeguard_streams.runtime.ports import check_port
from safeguard_streams.runtime.process import configure_logging

app = typer.Typer(no_args_is_help=True, help="The first stage: clear most content, escalate the rest.")
PolicyName = Annotated[
    str, typer.Argument(metavar="POLICY", help="Id of a policy in the library, or a policy.md file.")
]
Model = Annotated[Path | None, typer.Option("--model", show_default="the shipped model", help="The fastText model.")]
Seed = Annotated[int, typer.Option(help="Random seed; equal data and seed give equal results.")]
LabelsFile = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        exists=True,
        dir_okay=False,
        help="File of labels as JSON lines {text, violates, weight}; by default the verdicts on Kafka.",
    ),
]
Since = Annotated[
    str | None,
    typer.Option(help="Read verdicts written from this time on: 2026-01-31T12:00:00Z, or 7d for seven days ago."),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        parser=output_file, metavar="FILE", help="Plot recall against the share escalated to this .svg or .png file."
    ),
]


@app.command("run")
def run(bootstrap: Bootstrap = None, port: Port = None) -> None:
    """Run the prefilter: clear most of content.events and escalate the rest. SIGTERM stops it after its last commit."""
    current = settings.load(bootstrap=bootstrap, prefilter_port=port)
    check_port(current.host, current.prefilter_port)
    with extra("prefilter"):
        from safeguard_streams.prefilter.app import run as run_prefilter
    configure_logging(form=current.log_format)
    settings.log_misspelled()
    asyncio.run(run_prefilter(current))


@app.command("train")
def train(
    data: Data,
    out: Annotated[
        Path, typer.Option(parser=output_file, metavar="FILE", help="Model to write, with card.md beside it.")
    ] = Path("prefilter.bin"),
    validation: Annotated[
        Path | None, typer.Option(help="Folder of labelled texts to measure on, never to train on.")
    ] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Also train without each source and measure on it. Slow.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Train the fastText classifier and write its model card."""
    with extra("all-cpu"):
        from safeguard_streams.quality import model_card, training
    rows = training.read_folder(data, typer.echo)
    held_out = f"{len(rows.held_out):,} are held out (about a minute for 300,000 rows)"
    typer.echo(f"training on {counted(len(rows.train), 'row')}; {held_out}")
    training.fit(rows.train, out, seed)
    typer.echo(f"measuring {out} ({counted(out.stat().st_size, 'byte')})")
    inputs = model_card.CardInputs(out, data, rows, seed, validation, leave_one_out)
    card = out.with_name("card.md")
    card.write_text(model_card.card(inputs, typer.echo), encoding="utf-8")
    typer.echo(f"card: {card}")


@app.command("evaluate")
def evaluate(
    data: Data,
    model: Model = None,
    policy: Annotated[
        str | None, typer.Option(help="Policy (id or file) whose gate to measure; by default 1 - P(none).")
    ] = None,
    library: Library = LIBRARY,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Measure scores on labelled texts, by set and by harm: ROC-AUC, average precision, recall by share escalated, and
    share escalated by recall. ROC-AUC has a 95% bootstrap interval; --json has one for each figure.
    """
    document = load_policy(policy, library).policy if policy else None
    with extra("all-cpu"):
        from safeguard_streams.cli import prefilter_tables
        from safeguard_streams.prefilter.classifier import SHIPPED, Classifier
        from safeguard_streams.quality import evaluation, scoring
    classifier = Classifier(model or SHIPPED)
    title = f"Recall of {classifier.name}"
    score: scoring.Score = partial(scoring.harm_scores, classifier)
    if document:
        title += f", gate of {document.id}"
        score = partial(scoring.gate_scores, document, classifier)
    with console(stderr=True).status("measuring") as status:
        result = evaluation.evaluate_folder(data, score, lambda step: status.update(f"measuring {step}"))
    if plot:
        evaluation.plot(result.scored, plot, title)
    if as_json:
        mean = round(evaluation.mean_roc_auc(result.sets), 4)
        _print_json({"model": classifier.name, "sets": result.sets, "harms": result.harms, "mean_roc_auc": mean})
        return
    prefilter_tables.show_evaluation(result, plot)


@app.command("calibrate")
def calibrate(
    policy: PolicyName,
    target_recall: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Share of violating content to escalate.")
    ] = 0.95,
    labels: LabelsFile = None,
    library: Library = LIBRARY,
    model: Model = None,
    encoder: Annotated[
        bool,
        typer.Option(
            "--encoder", help="Score the labels of --labels as prefilters with the encoder do; needs the extra encoder."
        ),
    ] = False,
    write: Annotated[bool, typer.Option("--write", help="Set the threshold in the policy's file.")] = False,
    since: Since = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Compute the threshold of a policy's gate for a target recall, and its expected effect. Uses labelled texts or the
    verdicts on Kafka (live and audit lanes). Weights correct for sampling.
    """
    if encoder and not labels:
        raise ConfigurationError("--encoder needs --labels: verdicts on Kafka have the scores of the prefilters")
    document, path = load_policy(policy, library)
    start = _since(since)
    with extra("all-cpu"):
        from safeguard_streams.cli import prefilter_tables
        from safeguard_streams.prefilter.classifier import SHIPPED, Classifier
        from safeguard_streams.prefilter.encoder.encoder import Encoder
        from safeguard_streams.quality import threshold
    if labels:
        vectors = Encoder() if encoder else None
        scored = threshold.score_file(document, Classifier(model or SHIPPED), labels, vectors)
    else:
        with shown_reading():
            scored = asyncio.run(threshold.score_verdicts(settings.load(bootstrap=bootstrap), document.id, start))
    result = threshold.calibrate_gate(scored, target_recall)
    if write:
        write_document(path, threshold.with_calibration(document, result, scored.source, encoder=encoder))
    if as_json:
        _print_json(result)
        return
    field = threshold.field(document, encoder=encoder)
    prefilter_tables.show_calibration(document, field, result, scored, path if write else None)


@app.command("recall")
def recall(
    policies: Annotated[
        list[str] | None, typer.Argument(help="Ids of policies; by default all that have verdicts.")
    ] = None,
    by_language: Annotated[
        bool,
        typer.Option("--by-language", help="Estimate each language alone: that of the event, or else a detected one."),
    ] = False,
    since: Since = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Estimate the recall of each policy's gates on live traffic from samples and audits of what they let pass, with
    95% intervals. Also shows what each stratum missed, and what a higher recall would cost.
    """
    start = _since(since)
    with extra("all-cpu"):
        from safeguard_streams.cli import prefilter_tables
        from safeguard_streams.quality import gate_recall
    if by_language:
        _recall_by_language(policies, start, bootstrap, as_json=as_json)
        return
    with shown_reading():
        results = asyncio.run(gate_recall.from_kafka(settings.load(bootstrap=bootstrap), policies, start))
    if as_json:
        _print_json(results)
        return
    prefilter_tables.show_recall(results)


def _recall_by_language(
    policies: list[str] | None, start: datetime | None, bootstrap: str | None, *, as_json: bool
) -> None:
    with extra("all-cpu"):
        from safeguard_streams.cli import prefilter_tables
        from safeguard_streams.quality import gate_recall
        from safeguard_streams.quality.languages import language_of
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        results = asyncio.run(gate_recall.by_language(current, policies, start, language_of))
    if as_json:
        _print_json(results)
        return
    prefilter_tables.show_recall_by_language(results)


@app.command("distill")
def distill(
    policy: PolicyName,
    labels: LabelsFile = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the policy with its new gate to: policy.md, distilled.json.")
    ] = None,
    target_recall: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Target recall for the new gate's threshold.")
    ] = 0.95,
    library: Library = LIBRARY,
    model: Model = None,
    encoder: Annotated[
        bool, typer.Option("--encoder", help="Also learn weights for vectors of texts; needs the extra encoder.")
    ] = False,
    plot: Plot = None,
    seed: Seed = 0,
    since: Since = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Distil a classifier for one policy from its verdicts on Kafka, and compare it with the gate in force on held-out
    verdicts. The gate in force stays: check the figures, then release the policy in --out.
    """
    document, _ = load_policy(policy, library)
    start = _since(since)
    with extra("all-cpu"):
        from safeguard_streams.cli import prefilter_tables
        from safeguard_streams.prefilter.classifier import SHIPPED, Classifier
        from safeguard_streams.prefilter.encoder.encoder import Encoder
        from safeguard_streams.quality import distillation, evaluation, gate_evidence, verdict_labels
    vectors = Encoder() if encoder else None
    if labels:
        judged = verdict_labels.from_file(labels)
    else:
        current = settings.load(bootstrap=bootstrap)
        with shown_reading():
            judged = asyncio.run(gate_evidence.labels_to_learn_from(current, document, start))
    with console(stderr=True).status(f"distilling from {counted(len(judged.rows), 'judged text')}"):
        proposal = distillation.propose(document, Classifier(model or SHIPPED), judged.rows, seed, vectors)
    threshold = proposal.threshold(target_recall)
    files = distillation.write(document, proposal, target_recall, out) if out else []
    if plot:
        title = f"{document.id}, on texts that the distilled classifier did not see"
        evaluation.plot(proposal.scored, plot, title)
    if as_json:
        _print_json(
            {
                "policy": document.id,
                "rows": len(judged.rows),
                "left_out": judged.left_out,
                "before": proposal.before,
                "after": proposal.after,
                **({"with_encoder": proposal.after_vectors} if proposal.after_vectors else {}),
                "choices": proposal.choices(target_recall),
                "target_recall": target_recall,
                "aimed_recall": round(proposal.aimed_recall(target_recall), 4),
                "threshold": threshold,
                "files": [str(path) for path in files],
            }
        )
        return
    if judged.left_out:
        say(f"left out: {judged.left_out}")
    prefilter_tables.show_proposal(proposal, target_recall, threshold, files)
    if document.distilled is not None:
        say("the gate in force was distilled, too, and may have learned from these verdicts, which flatters it;")
        say("compare it on later ones with: safeguard gates advise")


def _since(given: str | None) -> datetime | None:
    return moment(given, "--since") if given else None


def _print_json(result: object) -> None:
    print(msgspec.json.encode(result).decode())
