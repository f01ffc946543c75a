"""Checks: items that somebody gets from the queue although they do not wait in it, to measure how people decide.

- A golden item is a text of the policy's golden set, under an id that looks like those of other items.
- A second look is an item about which a colleague decided.

The page of a check is that of an item which is decided blind. Nothing follows the decision: it is kept as a label, and
the person is told what it was. Both come instead of an item that waits, so that an empty queue
hands out none.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Mapping
from datetime import timedelta
from pathlib import Path
from random import SystemRandom
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, and_, delete, exists, literal, null, select, true, update

from safeguard_streams.console.database import clean
from safeguard_streams.console.schema import actions, audit_log, checks, items, review_items, reviews, verdicts
from safeguard_streams.console.web import harms, item_facts, policy_text
from safeguard_streams.console.web.item_facts import Facts
from safeguard_streams.console.web.policy_text import PolicyText
from safeguard_streams.contract.records import EVERY_POLICY, content_sha256, now
from safeguard_streams.errors import PolicyError
from safeguard_streams.policies import golden
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.policies.golden import Golden
from safeguard_streams.runtime.settings import Settings

_CANDIDATES = 50  # newest decisions to choose a second look from
_TRIES = 50  # ids that look like one, of which some are taken
_LAST_NUMBER = re.compile(r"[0-9A-Za-z]*[0-9][0-9A-Za-z]*(?=[^0-9]*$)")
_RANDOM = 8  # characters from which on a number with letters is taken for a random one
_random = SystemRandom()  # nobody can foresee a check


def find(connection: Connection, who: str, content_id: str) -> Row[Any] | None:
    """Somebody's check of this id, judged or not."""
    return connection.execute(select(checks).where(checks.c.who == who, checks.c.content_id == content_id)).first()


def held(connection: Connection, who: str, lease: timedelta, without: Collection[str] = ()) -> str | None:
    """The check that somebody got within the lease, and has not judged.

    without: policies of which they get none, except what they revealed today.
    """
    current = checks.c.who == who, checks.c.key.is_(None), checks.c.since > now() - lease
    found = select(checks.c.content_id, checks.c.policy_id).where(*current).order_by(checks.c.since)
    for content_id, policy_id in connection.execute(found).all():
        if policy_id not in without or harms.was_revealed(connection, who, content_id):
            return str(content_id)
    return None


def give_back(connection: Connection, who: str, content_id: str) -> None:
    """End somebody's check that they have not judged."""
    connection.execute(
        delete(checks).where(checks.c.who == who, checks.c.content_id == content_id, checks.c.key.is_(None))
    )


def draw(
    connection: Connection,
    settings: Settings,
    who: str,
    instead_of: str,
    filters: Mapping[str, str],
    without: Collection[str],
) -> str | None:
    """Hand somebody a check instead of the next item of the queue, on the shares that are set. None where it is none.

    instead_of: the item that is next. without: policies whose items they do not get. An earlier check that they have
    not judged ends.
    """
    connection.execute(delete(checks).where(checks.c.who == who, checks.c.key.is_(None)))
    chance = _random.random()
    if chance < settings.console_golden_share:
        return _golden(connection, settings, who, instead_of, filters)
    if chance < settings.console_golden_share + settings.console_second_share:
        return _second(connection, who, filters, without)
    return None


def _golden(
    connection: Connection, settings: Settings, who: str, instead_of: str, filters: Mapping[str, str]
) -> str | None:
    """A golden text of the policy and the language of the item that it replaces, which this person has not judged."""
    replaced = connection.execute(
        select(review_items.c.policy_id, items.c.language)
        .outerjoin(items, items.c.content_id == review_items.c.content_id)
        .where(review_items.c.content_id == instead_of, review_items.c.state == "open")
        .where(review_items.c.policy_id == filters["policy"] if filters.get("policy") else true())
        .where(review_items.c.policy_id != EVERY_POLICY)
    ).first()
    content_id = _disguise(connection, instead_of) if replaced is not None else None
    if replaced is None or content_id is None:
        return None
    policy_id, language = replaced
    policy = policy_text.version(connection, policy_id, None)
    known = reviews.c.who == who, reviews.c.golden
    judged = set(connection.execute(select(reviews.c.content_sha256).where(*known)).scalars())
    rows = [
        one
        for one in _golden_set(settings.console_policies or LIBRARY, policy_id)
        if policy is not None and policy.rule(one.rule) is not None
        if language is None or _primary(one.language) == _primary(language)
        if content_sha256(one.text) not in judged
    ]
    if not rows:
        return None
    chosen = _random.choice(rows)
    values = {"content_sha256": content_sha256(chosen.text), "text": clean(chosen.text), "language": language}
    _hand_out(connection, who, content_id, policy_id, expected=chosen.decision, rule=chosen.rule, **values)
    return content_id


def _golden_set(library: Path, policy_id: str) -> list[Golden]:
    """The golden texts of a policy; none where it has no golden set here, or its id is no folder's name."""
    try:
        file = golden.read(library / policy_id / golden.NAME) if Path(policy_id).name == policy_id else None
    except PolicyError:
        return []
    return [row.golden for row in file.rows] if file else []


def _primary(language: str) -> str:
    return language.partition("-")[0].lower()


def _disguise(connection: Connection, like: str) -> str | None:
    """An id that looks like another one, and that no known item or check has. None where no such id is found."""
    for _ in range(_TRIES):
        made = _LAST_NUMBER.sub(lambda found: _varied(found[0]), like)
        if made != like and not any(_has(connection, table, made) for table in (items, verdicts, checks)):
            return made
    return None


def _has(connection: Connection, table: Table, content_id: str) -> bool:
    return bool(connection.execute(select(exists().where(table.c.content_id == content_id))).scalar())


def _varied(number: str) -> str:
    """A number with another second half; the first may be a time or a range. Letters differ in what looks random."""
    half, is_random = len(number) // 2, len(number) >= _RANDOM
    alphabets = (string.digits, "".join(filter(str.islower, number)), "".join(filter(str.isupper, number)))
    varied = ""
    for one in number[half:]:
        alphabet = next((letters for letters in alphabets[: 3 if is_random else 1] if one in letters), one)
        varied += _random.choice(alphabet)
    return number[:half] + varied


def _second(connection: Connection, who: str, filters: Mapping[str, str], without: Collection[str]) -> str | None:
    """An item about which a colleague decided lately, and of which this person has seen nothing."""
    found = connection.execute(_decided_by_others(who, filters, without).limit(_CANDIDATES)).all()
    if not found:
        return None
    chosen = _random.choice(found)
    _hand_out(connection, who, chosen.content_id, chosen.policy_id, content_sha256=chosen.content_sha256)
    return str(chosen.content_id)


def _decided_by_others(who: str, filters: Mapping[str, str], without: Collection[str]) -> Select[Any]:
    again, about = reviews.alias("again"), reviews.c.content_id
    wanted = [items.c.language == filters["language"]] if filters.get("language") else []
    wanted += [reviews.c.policy_id == filters["policy"]] if filters.get("policy") else []
    return (
        select(about, reviews.c.policy_id, reviews.c.content_sha256)
        .join(items, and_(items.c.content_id == about, items.c.content_sha256 == reviews.c.content_sha256))
        .where(
            reviews.c.action_id.is_not(None),
            reviews.c.decision != "undetermined",
            reviews.c.policy_id.not_in([EVERY_POLICY, *without]),
            items.c.text.is_not(None),
            *wanted,
            ~exists().where(again.c.content_id == about, (again.c.who == who) | again.c.action_id.is_(None)),
            ~exists().where(checks.c.content_id == about, checks.c.who == who),
            ~exists().where(audit_log.c.object == about, audit_log.c.who == who),
            ~exists().where(actions.c.content_id == about, actions.c.withdraws == reviews.c.action_id),
            ~exists().where(review_items.c.content_id == about, review_items.c.state == "open"),
        )
        .order_by(reviews.c.at.desc())
    )


def _hand_out(connection: Connection, who: str, content_id: str, policy_id: str, **values: Any) -> None:
    handed = checks.insert().values(who=who, content_id=content_id, policy_id=policy_id, since=now(), **values)
    connection.execute(handed)


def load(connection: Connection, who: str, content_id: str) -> Facts | None:
    """What somebody may know of an item: of their check, its text and its policy alone."""
    check = find(connection, who, content_id)
    item = _item_of(connection, check) if check is not None and check.key is None else None
    if check is None or item is None:
        return item_facts.load(connection, content_id)
    waits = connection.execute(_as(review_items, check, state="open")).all()
    policy = policy_text.version(connection, check.policy_id, None)
    texts: dict[tuple[str, str | None], PolicyText] = {(check.policy_id, None): policy} if policy is not None else {}
    nothing: dict[str, Any] = dict.fromkeys(Facts.__struct_fields__, ())
    known = {"content_id": content_id, "item": item, "waiting": waits, "policies": texts}
    return Facts(**{**nothing, **known, "erased_at": None, "with_rationale": frozenset()})


def is_there(connection: Connection, check: Row[Any]) -> bool:
    """Whether the text that a check is about is still there, unchanged."""
    return _item_of(connection, check) is not None


def _item_of(connection: Connection, check: Row[Any]) -> Row[Any] | None:
    """The item of a check; None where its text is another by now, or gone."""
    if check.expected is not None:
        return connection.execute(_as(items, check, effective="review", held=0)).first()
    same = items.c.content_id == check.content_id, items.c.content_sha256 == check.content_sha256
    return connection.execute(select(items).where(*same, items.c.text.is_not(None))).first()


def _as(table: Table, check: Row[Any], **values: Any) -> Select[Any]:
    """A check as a row of another table, whose other columns are null."""
    columns = [
        (literal(values[name]) if name in values else checks.c[name] if name in checks.c else null()).label(name)
        for name in table.c.keys()  # noqa: SIM118 - iterating over columns gives no names
    ]
    return select(*columns).where(checks.c.who == check.who, checks.c.content_id == check.content_id)


def judge(connection: Connection, check: Row[Any], key: str, **said: Any) -> bool:
    """Keep what somebody decided about their check. False where that was kept before.

    key: of the form. said: decision, rule and action, as columns of a review.
    """
    first = update(checks).where(checks.c.who == check.who, checks.c.content_id == check.content_id)
    if not connection.execute(first.where(checks.c.key.is_(None)).values(key=key, text=None)).rowcount:
        return False
    connection.execute(
        reviews.insert().values(
            who=check.who,
            content_id=check.content_id,
            policy_id=check.policy_id,
            content_sha256=check.content_sha256,
            blind=True,
            golden=check.expected is not None,
            second=check.expected is None,
            expected=check.expected,
            verdict_id=_verdict_before(connection, check),
            at=now(),
            **said,
        )
    )
    return True


def _verdict_before(connection: Connection, check: Row[Any]) -> str | None:
    """The verdict that the colleague of a second look had before them; None for a golden item."""
    same = reviews.c.content_id == check.content_id, reviews.c.content_sha256 == check.content_sha256
    before = select(reviews.c.verdict_id).where(*same, reviews.c.action_id.is_not(None))
    return connection.execute(before.order_by(reviews.c.at.desc())).scalar()


def told(connection: Connection, check: Row[Any], decision: str) -> str:
    """What a check was, for who has judged it."""
    if check.expected is not None:
        right = "You decided the same." if decision == check.expected else f"You decided {decision}."
        return f"This was a text of the golden set: {check.expected}, {check.rule}. {right} Nothing follows."
    colleagues = connection.execute(
        select(reviews.c.who, reviews.c.decision)
        .where(reviews.c.content_id == check.content_id, reviews.c.action_id.is_not(None))
        .order_by(reviews.c.at.desc())
    ).first()
    before = f"{colleagues.who} decided before you: {colleagues.decision}." if colleagues else "It was decided before."
    return f"{before} Your decision is kept as a second opinion. Nothing follows."
