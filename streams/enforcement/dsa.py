"""Statements of reasons as the EU's DSA Transparency Database takes them, checked against its schema.

Article 24(5) of the Digital Services Act obliges online platforms to send their statements of reasons there, without
personal data. `dsa.schema.json` is the schema of its interface, written down from its public documentation:

- https://transparency.dsa.ec.europa.eu/page/api-documentation: attributes, codes and lengths, since 1 July 2025.
- https://transparency.dsa.ec.europa.eu/page/additional-explanation-for-statement-attributes: what they mean.
- https://github.com/digital-services-act/transparency-database: its source code, for the last day that dates may have
  and the languages.

The schema's comment names what this documentation leaves open. A submission holds nothing of a text, and names neither
its author nor its id: the words are those of the policy and of the templates.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema
import orjson

from safeguard_streams.contract.records import (
    AuthorEnforced,
    Automation,
    Enforced,
    Reporter,
    StatementOfReasons,
    in_utc,
)
from safeguard_streams.policies.document import primary_language
from safeguard_streams.policies.statements import OTHER_VIOLATION

BATCH = 100  # statements that one request of the interface takes
_ONLY_EEA = ("IS", "LI", "NO")
_VISIBILITY: Mapping[Enforced, str] = {
    "remove": "DECISION_VISIBILITY_CONTENT_REMOVED",
    "limit": "DECISION_VISIBILITY_CONTENT_DEMOTED",
    "label": "DECISION_VISIBILITY_CONTENT_LABELLED",
}
_ACCOUNT: Mapping[AuthorEnforced, Mapping[str, object]] = {
    "suspend": {"decision_account": "DECISION_ACCOUNT_SUSPENDED"},
    "limit": {"decision_visibility": ["DECISION_VISIBILITY_CONTENT_DEMOTED"]},
}
_SOURCE: Mapping[Reporter | None, str] = {
    None: "SOURCE_VOLUNTARY",
    "user": "SOURCE_ARTICLE_16",
    "trusted_flagger": "SOURCE_TRUSTED_FLAGGER",
    "authority": "SOURCE_TYPE_OTHER_NOTIFICATION",
}
_AUTOMATED: Mapping[Automation | None, str] = {
    "fully": "AUTOMATED_DECISION_FULLY",
    "partially": "AUTOMATED_DECISION_PARTIALLY",
    "not": "AUTOMATED_DECISION_NOT_AUTOMATED",
    None: "AUTOMATED_DECISION_NOT_AUTOMATED",
}


@cache
def schema() -> dict[str, Any]:
    """The schema of a request's body."""
    found: dict[str, Any] = orjson.loads((files("safeguard_streams.enforcement") / "dsa.schema.json").read_bytes())
    return found


@cache
def _validator() -> jsonschema.Draft202012Validator:
    statement = {"$ref": "#/$defs/statement", "$defs": schema()["$defs"]}
    return jsonschema.Draft202012Validator(statement)


def problem(submission: Mapping[str, Any]) -> str | None:
    """Why the interface would refuse a submission, by attribute and without its value; None if it would take it."""
    error = next(iter(_validator().iter_errors(submission)), None)
    if error is None:
        return None
    attribute = next(iter(error.absolute_path), None)
    if attribute is not None:
        return f"{attribute} breaks the rule {error.validator}"
    return error.message if error.validator == "required" else f"the attributes break the rule {error.validator}"


def territories(given: tuple[str, ...]) -> list[str]:
    """The countries of the European Economic Area among territories; all where a restriction holds everywhere."""
    known: list[str] = schema()["$defs"]["statement"]["properties"]["territorial_scope"]["items"]["enum"]
    if not given or "EEA" in given:
        return known
    in_union = [code for code in known if code not in _ONLY_EEA] if "EU" in given else []
    return [code for code in known if code in given or code in in_union]


def submission(
    statement: StatementOfReasons, *, created_at: datetime | None, ended_at: datetime | None
) -> dict[str, Any]:
    """A statement as the interface takes it. created_at: of the content, which is no later than the decision about it,
    whatever its producer's clock said; ended_at: of a restriction that ended.
    """
    found: dict[str, Any] = {
        **_decision(statement),
        **_ground(statement),
        "content_type": ["CONTENT_TYPE_TEXT"],
        "category": statement.category or OTHER_VIOLATION,
        "territorial_scope": territories(statement.territory),
        "application_date": str(_day(statement.stated_at)),
        "decision_facts": statement.facts or "",
        "source_type": _SOURCE[statement.reporter],
        "automated_detection": "Yes" if statement.automated_detection else "No",
        "automated_decision": _AUTOMATED[statement.automated_decision],
        "puid": statement.statement_id,
    }
    end = "end_date_account_restriction" if "decision_account" in found else "end_date_visibility_restriction"
    ends_at = ended_at or statement.ends_at
    optional = {
        "category_addition": list(statement.more_categories) or None,
        "category_specification": [statement.keyword] if statement.keyword else None,
        "content_language": _language(statement.content_language),
        "content_date": str(min(_day(created_at), _day(statement.stated_at))) if created_at else None,
        end: str(max(_day(ends_at), _day(statement.stated_at))) if ends_at else None,  # clocks may differ
        "decision_ground_reference_url": statement.terms,
    }
    return found | {name: value for name, value in optional.items() if value is not None}


def _decision(statement: StatementOfReasons) -> Mapping[str, object]:
    """The restriction, of an account or of an item."""
    if statement.account_action is not None:
        return _ACCOUNT[statement.account_action]
    assert statement.action is not None
    return {"decision_visibility": [_VISIBILITY[statement.action]]}


def _ground(statement: StatementOfReasons) -> dict[str, str]:
    """The ground of the decision and its explanation, cut to the lengths that the interface takes."""
    named = statement.ground or "Terms of the service"
    explanation = (statement.explanation or named)[:2000]
    if statement.law:
        return {
            "decision_ground": "DECISION_GROUND_ILLEGAL_CONTENT",
            "illegal_content_legal_ground": statement.law[:500],
            "illegal_content_explanation": explanation,
        }
    return {
        "decision_ground": "DECISION_GROUND_INCOMPATIBLE_CONTENT",
        "incompatible_content_ground": named[:500],
        "incompatible_content_explanation": explanation,
    }


def _language(tag: str | None) -> str | None:
    """The language of content, if the interface knows its code: a submission without one is as good."""
    known: list[str] = schema()["$defs"]["statement"]["properties"]["content_language"]["enum"]
    code = (primary_language(tag) or "").upper()
    return code if code in known else None


def _day(moment: datetime) -> date:
    return in_utc(moment).date()
