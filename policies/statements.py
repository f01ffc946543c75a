"""What a policy says for statements of reasons: translated notes, legal grounds, and the codes of the EU's database.

Article 17 of the Digital Services Act (Regulation (EU) 2022/2065) obliges platforms to give authors a statement of
reasons. Article 24(5) obliges them to send each to the DSA Transparency Database, which sorts them by these codes:

- Categories and keywords: https://transparency.dsa.ec.europa.eu/page/api-documentation, as in force since 1 July 2025.
- Which keyword belongs to which category: Annex II of Implementing Regulation (EU) 2024/2835. The database's
  documentation does not say whether its interface checks that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from safeguard_streams.errors import choices
from safeguard_streams.policies.vocabulary import rules_above

if TYPE_CHECKING:
    from safeguard_streams.policies.reading import Document

MAX_NOTE = 500  # characters
Note = Annotated[str, Meta(min_length=1, max_length=MAX_NOTE)]
Language = Annotated[str, Meta(pattern=r"^[a-z]{2,3}\Z")]  # ISO 639, without script and region
Category = Literal[
    "STATEMENT_CATEGORY_ANIMAL_WELFARE",
    "STATEMENT_CATEGORY_CONSUMER_INFORMATION",
    "STATEMENT_CATEGORY_CYBER_VIOLENCE",
    "STATEMENT_CATEGORY_CYBER_VIOLENCE_AGAINST_WOMEN",
    "STATEMENT_CATEGORY_DATA_PROTECTION_AND_PRIVACY_VIOLATIONS",
    "STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH",
    "STATEMENT_CATEGORY_INTELLECTUAL_PROPERTY_INFRINGEMENTS",
    "STATEMENT_CATEGORY_NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS",
    "STATEMENT_CATEGORY_NOT_SPECIFIED_NOTICE",
    "STATEMENT_CATEGORY_OTHER_VIOLATION_TC",
    "STATEMENT_CATEGORY_PROTECTION_OF_MINORS",
    "STATEMENT_CATEGORY_RISK_FOR_PUBLIC_SECURITY",
    "STATEMENT_CATEGORY_SCAMS_AND_FRAUD",
    "STATEMENT_CATEGORY_SELF_HARM",
    "STATEMENT_CATEGORY_UNSAFE_AND_PROHIBITED_PRODUCTS",
    "STATEMENT_CATEGORY_VIOLENCE",
]
CATEGORIES: tuple[Category, ...] = get_args(Category)
OTHER_VIOLATION: Category = "STATEMENT_CATEGORY_OTHER_VIOLATION_TC"  # of a rule for which the policy names none
OTHER_KEYWORD = "KEYWORD_OTHER"  # of any category
KEYWORDS_OF: Mapping[Category, tuple[str, ...]] = {
    "STATEMENT_CATEGORY_ANIMAL_WELFARE": ("KEYWORD_ANIMAL_HARM", "KEYWORD_UNLAWFUL_SALE_ANIMALS"),
    "STATEMENT_CATEGORY_CONSUMER_INFORMATION": (
        "KEYWORD_HIDDEN_ADVERTISEMENT",
        "KEYWORD_INSUFFICIENT_INFORMATION_ON_TRADERS",
        "KEYWORD_MISLEADING_INFO_GOODS_SERVICES",
        "KEYWORD_MISLEADING_INFO_CONSUMER_RIGHTS",
        "KEYWORD_NONCOMPLIANCE_PRICING",
    ),
    "STATEMENT_CATEGORY_CYBER_VIOLENCE": (
        "KEYWORD_CYBER_BULLYING_INTIMIDATION",
        "KEYWORD_CYBER_HARASSMENT",
        "KEYWORD_CYBER_INCITEMENT",
        "KEYWORD_CYBER_STALKING",
        "KEYWORD_NON_CONSENSUAL_IMAGE_SHARING",
        "KEYWORD_NON_CONSENSUAL_MATERIAL_DEEPFAKE",
    ),
    "STATEMENT_CATEGORY_CYBER_VIOLENCE_AGAINST_WOMEN": (
        "KEYWORD_BULLYING_AGAINST_GIRLS",
        "KEYWORD_CYBER_HARASSMENT_AGAINST_WOMEN",
        "KEYWORD_CYBER_STALKING_AGAINST_WOMEN",
        "KEYWORD_FEMALE_GENDERED_DISINFORMATION",
        "KEYWORD_INCITEMENT_AGAINST_WOMEN",
        "KEYWORD_NON_CONSENSUAL_IMAGE_SHARING_AGAINST_WOMEN",
        "KEYWORD_NON_CONSENSUAL_MATERIAL_DEEPFAKE_AGAINST_WOMEN",
    ),
    "STATEMENT_CATEGORY_DATA_PROTECTION_AND_PRIVACY_VIOLATIONS": (
        "KEYWORD_BIOMETRIC_DATA_BREACH",
        "KEYWORD_DATA_FALSIFICATION",
        "KEYWORD_MISSING_PROCESSING_GROUND",
        "KEYWORD_RIGHT_TO_BE_FORGOTTEN",
    ),
    "STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH": (
        "KEYWORD_DEFAMATION",
        "KEYWORD_DISCRIMINATION",
        "KEYWORD_HATE_SPEECH",
    ),
    "STATEMENT_CATEGORY_INTELLECTUAL_PROPERTY_INFRINGEMENTS": (
        "KEYWORD_COPYRIGHT_INFRINGEMENT",
        "KEYWORD_DESIGN_INFRINGEMENT",
        "KEYWORD_GEOGRAPHIC_INDICATIONS_INFRINGEMENT",
        "KEYWORD_PATENT_INFRINGEMENT",
        "KEYWORD_TRADE_SECRET_INFRINGEMENT",
        "KEYWORD_TRADEMARK_INFRINGEMENT",
    ),
    "STATEMENT_CATEGORY_NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS": (
        "KEYWORD_MISINFORMATION_DISINFORMATION",
        "KEYWORD_VIOLATION_EU_LAW",
        "KEYWORD_VIOLATION_NATIONAL_LAW",
    ),
    "STATEMENT_CATEGORY_NOT_SPECIFIED_NOTICE": (),
    "STATEMENT_CATEGORY_OTHER_VIOLATION_TC": (
        "KEYWORD_ADULT_SEXUAL_MATERIAL",
        "KEYWORD_AGE_SPECIFIC_RESTRICTIONS",
        "KEYWORD_GEOGRAPHICAL_REQUIREMENTS",
        "KEYWORD_GOODS_SERVICES_NOT_PERMITTED",
        "KEYWORD_LANGUAGE_REQUIREMENTS",
        "KEYWORD_NUDITY",
    ),
    "STATEMENT_CATEGORY_PROTECTION_OF_MINORS": (
        "KEYWORD_AGE_SPECIFIC_RESTRICTIONS_MINORS",
        "KEYWORD_CHILD_SEXUAL_ABUSE_MATERIAL",
        "KEYWORD_CHILD_SEXUAL_ABUSE_MATERIAL_DEEPFAKE",
        "KEYWORD_GROOMING_SEXUAL_ENTICEMENT_MINORS",
        "KEYWORD_UNSAFE_CHALLENGES",
    ),
    "STATEMENT_CATEGORY_RISK_FOR_PUBLIC_SECURITY": (
        "KEYWORD_ILLEGAL_ORGANIZATIONS",
        "KEYWORD_RISK_ENVIRONMENTAL_DAMAGE",
        "KEYWORD_RISK_PUBLIC_HEALTH",
        "KEYWORD_TERRORIST_CONTENT",
    ),
    "STATEMENT_CATEGORY_SCAMS_AND_FRAUD": (
        "KEYWORD_IMPERSONATION_ACCOUNT_HIJACKING",
        "KEYWORD_INAUTHENTIC_ACCOUNTS",
        "KEYWORD_INAUTHENTIC_LISTINGS",
        "KEYWORD_INAUTHENTIC_USER_REVIEWS",
        "KEYWORD_PHISHING",
        "KEYWORD_PYRAMID_SCHEMES",
    ),
    "STATEMENT_CATEGORY_SELF_HARM": (
        "KEYWORD_CONTENT_PROMOTING_EATING_DISORDERS",
        "KEYWORD_SELF_MUTILATION",
        "KEYWORD_SUICIDE",
    ),
    "STATEMENT_CATEGORY_UNSAFE_AND_PROHIBITED_PRODUCTS": ("KEYWORD_PROHIBITED_PRODUCTS", "KEYWORD_UNSAFE_PRODUCTS"),
    "STATEMENT_CATEGORY_VIOLENCE": (
        "KEYWORD_COORDINATED_HARM",
        "KEYWORD_INCITEMENT_VIOLENCE_HATRED",
        "KEYWORD_HUMAN_EXPLOITATION",
        "KEYWORD_HUMAN_TRAFFICKING",
        "KEYWORD_TRAFFICKING_WOMEN_GIRLS",
    ),
}


class RuleStatement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a statement of reasons says about a violation of a rule, beside the rule's note.

    category, keyword: codes of the EU's database. law: the law that the content violates. Without it, the content is
    incompatible with the terms of the service. notes: the rule's note in other languages, by their codes.
    """

    category: Category = OTHER_VIOLATION
    keyword: str | None = None
    law: Note | None = None
    notes: dict[Language, Note] = {}


def of_rule(statements: Mapping[str, RuleStatement], rule: str) -> RuleStatement:
    """What statements say about a rule: its own words and codes, or those of the nearest rule above it."""
    return next((statements[name] for name in rules_above(rule) if name in statements), RuleStatement())


def drop_broken(read: Document, loaded: Any) -> None:
    """Report what is no entry of `statements`, and take it out of the front matter."""
    given = loaded.get("statements", {}) if isinstance(loaded, dict) else {}
    if not isinstance(given, dict):
        read.error(read.line("statements"), "field", "statements: write an entry for each rule, with its id as the key")
        read.broken.add("statements")
        del loaded["statements"]
        return
    for rule, entry in list(given.items()):
        try:
            problem = _problem(msgspec.convert(entry, RuleStatement))
        except msgspec.ValidationError as error:
            problem = _explained(str(error), entry)
        if not isinstance(rule, str):
            problem = "write the id of the rule as text"
        if problem:
            read.error(read.line("statements", str(rule)), "field", f"statements: {rule}: {problem}")
            read.broken.add("statements")
            del given[rule]


def _problem(entry: RuleStatement) -> str:
    """What is wrong with an entry whose form is right; empty if nothing is."""
    for text in (entry.law, *entry.notes.values()):
        if text is not None and not (text.strip() and text.isprintable()):
            return f"write law and notes as one line of 1 to {MAX_NOTE} characters"
    keywords = KEYWORDS_OF[entry.category]
    if entry.keyword in (None, OTHER_KEYWORD, *keywords):
        return ""
    return f"{entry.keyword} is no keyword of {entry.category}{choices(str(entry.keyword), (*keywords, OTHER_KEYWORD))}"


def _explained(message: str, entry: Any) -> str:
    """A message of msgspec, with what there is to choose from."""
    problem = message[:1].lower() + message[1:].replace("`", "")
    if isinstance(entry, dict) and message.startswith("Invalid enum"):
        return f"{problem}{choices(str(entry.get('category')), CATEGORIES)}"
    return problem
