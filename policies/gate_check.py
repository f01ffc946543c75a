"""Check a policy's gate: the conditions together, and each term and pattern by trial."""

from __future__ import annotations

import re2

from safeguard_streams.policies import trial
from safeguard_streams.policies.document import Gate, pattern_options
from safeguard_streams.policies.golden import canonical
from safeguard_streams.policies.parsing import control, invalid
from safeguard_streams.policies.patterns import inner_boundary
from safeguard_streams.policies.reading import Document
from safeguard_streams.policies.terms import Term

_ASCII_BOUNDARY = (
    r"has \b or \B beside a letter that is not ASCII, where RE2 sees no word: begin or end the pattern with it, "
    r"or write (?:^|[^\p{L}\p{N}]) for it"
)


def check_gate(read: Document, gate: Gate) -> None:
    """Report conditions that never or always hold. What is reported at parsing is left out."""
    if "gate" not in read.broken:
        _check_conditions(read, gate)
    _check_score(read, gate)
    _check_terms(read, gate)
    _check_patterns(read, gate)


def _check_conditions(read: Document, gate: Gate) -> None:
    line = read.line("gate")
    scored = bool(gate.harms or gate.distilled)
    others = scored or gate.terms or gate.patterns or gate.sample
    if not (others or gate.everything):
        read.error(
            line, "gate", "this gate escalates nothing: set harms and a threshold, terms, a sample, or everything"
        )
    if scored and gate.threshold == 1:
        read.error(line, "gate", "set gate.threshold: without it, harms escalate nothing")
    if gate.threshold != 1 and not scored:
        read.error(read.line("gate", "threshold"), "gate", "a threshold needs harms or a distilled classifier")
    if scored and gate.threshold == 0:
        message = "this gate sends everything to the model: every score reaches a threshold of 0"
        read.warn(read.line("gate", "threshold"), "gate", message)
    if gate.sample == 1 and not gate.everything:
        message = "this gate sends everything to the model: write 'everything: true' if you want that"
        read.warn(read.line("gate", "sample"), "gate", message)
    if gate.everything and others:
        read.warn(read.line("gate", "everything"), "gate", "everything is escalated: the gate's other parts do nothing")


def _check_score(read: Document, gate: Gate) -> None:
    """Report parts of a score that the gate does not have, and a threshold that every score reaches."""
    for field in ("general", "threshold_with_encoder"):
        if getattr(gate, field) and gate.distilled:
            read.warn(read.line("gate", field), "gate", f"gate.{field} does nothing beside a distilled classifier")
        elif getattr(gate, field) and not gate.harms and gate.threshold == 1:  # another threshold is reported already
            read.error(read.line("gate", field), "gate", f"gate.{field} needs harms")
    if gate.threshold_with_encoder == 0:
        message = "this gate sends everything to the model: every score reaches a threshold_with_encoder of 0"
        read.warn(read.line("gate", "threshold_with_encoder"), "gate", message)


def _check_terms(read: Document, gate: Gate) -> None:
    seen: set[str] = set()
    for number, written in enumerate(gate.terms):
        line = read.line("gate", "terms", number)
        term = Term(written)
        if control(written):
            continue  # reported when it was parsed
        if not term.needles:
            read.error(line, "gate", f"the term {written!r} has no letter, digit or emoji: it never matches")
        elif reason := trial.broad(term):
            read.error(line, "gate", f"the term {written!r} {reason}")
        elif not trial.is_found(written):
            message = f"the term {written!r} is not found between words of its script: write its words alone"
            read.error(line, "gate", message)
        elif canonical(written) in seen:
            read.warn(line, "gate", f"the term {written!r} is listed twice")
        if cut := read.cut("gate", "terms", number):
            read.error(line, "comment", f"YAML reads {cut!r} as a comment: quote the term, as in 'one #two'")
        seen.add(canonical(written))


def _check_patterns(read: Document, gate: Gate) -> None:
    for number, pattern in enumerate(gate.patterns):
        line = read.line("gate", "patterns", number)
        if control(pattern) or invalid(pattern):
            continue  # reported when it was parsed
        if re2.compile(pattern, pattern_options()).search(""):
            message = f"the pattern {pattern!r} matches every text: write 'everything: true' if you want that"
            read.error(line, "gate", message)
        elif inner_boundary(pattern):
            read.error(line, "gate", f"the pattern {pattern!r} {_ASCII_BOUNDARY}")
        elif not trial.can_match(pattern):
            message = f"the pattern {pattern!r} cannot match: texts are one line, without control characters"
            read.error(line, "gate", message)
        if cut := read.cut("gate", "patterns", number):
            read.error(line, "comment", f"YAML reads {cut!r} as a comment: put the pattern in single quotes")
