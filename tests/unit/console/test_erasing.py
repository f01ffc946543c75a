"""After an erasure, no file of the database holds a word about the item."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from safeguard_streams.console import erasing, schema
from safeguard_streams.console.store import Store
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ErasureRequest
from tests import projected
from tests.projected import at, record

WORD = "wombat"  # in every text, context, attribute, reason, label and rationale about an item
OTHER = "quokka"


@pytest.fixture
def store(engine):
    """A database with an item that is to be erased among others, and more rows about them than one page holds."""
    opened = Store(engine, text_days=10_000)
    opened.open()
    records = []

    def write(topic, value):
        records.append(record(topic, value, offset=len(records)))

    for number in range(60):
        name, word = ("c1", WORD) if number == 30 else (f"o{number}", OTHER)
        words = {"reason": f"quotes {word}", "prefilter": projected.PrefilterResult("terms", label=word)}
        text = f"a {word} among words, padded: {number:0300}"
        one = projected.escalation(number, name, text, prefilter=words["prefilter"])
        event = projected.msgspec.structs.replace(one.event, context=(), attributes={"title": word})
        write(topics.ESCALATIONS, projected.msgspec.structs.replace(one, event=event))
        write(topics.VERDICTS, projected.verdict(number, name, **words))
        write(topics.REPLAYS, projected.verdict(number + 1000, name, **words))
        write(topics.ACTIONS, projected.action(number, name, reason=words["reason"], why=word))
        write(topics.REPORTS, projected.report(number, name, reason=f"says {word}"))
        named = {"content_id": name, "verdict_id": word}
        write(topics.STRIKES, projected.strike(number, **named, action_id=word))
        write(topics.AUTHOR_ACTIONS, projected.author_action(number, **named))
        if word == WORD:
            write(topics.RATIONALES, projected.rationale(number, name))
    for start in range(0, len(records), 12):
        opened.apply(records[start : start + 12])
    return opened


@pytest.fixture
def traces(engine, request):
    """Which files of the database hold a word; PostgreSQL's write-ahead log is recycled by the server."""
    if engine.dialect.name == "sqlite":
        folder = Path(engine.url.database).parent
    else:
        with engine.connect() as connection:
            own = connection.scalar(sa.text("SELECT oid FROM pg_database WHERE datname = current_database()"))
        folder = request.getfixturevalue("cluster").folder / "data" / "base" / str(own)

    def find(word):
        if engine.dialect.name == "postgresql":
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(sa.text("CHECKPOINT"))
        return [file.name for file in folder.rglob("*") if file.is_file() and word.encode() in file.read_bytes()]

    return find


def test_a_command_leaves_no_trace_in_the_files(store, traces):
    assert traces(WORD)
    assert erasing.erase(store.engine, "c1", at(5000))
    assert traces(WORD) == []
    assert traces(OTHER)


@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
def test_the_planner_keeps_no_word_in_its_statistics(store, traces):
    with store.engine.begin() as connection:
        connection.execute(sa.text("ANALYZE"))
        of_ids = "SELECT count(*) FROM pg_stats WHERE tablename = 'items' AND attname = 'content_id'"
        assert connection.scalar(sa.text(of_ids))
    assert erasing.erase(store.engine, "c1", at(5000))
    assert traces(WORD) == []


def test_the_projector_leaves_no_trace_in_the_files(store, traces):
    assert traces(WORD)
    store.apply([record(topics.ERASURES, ErasureRequest("c1", at(5000), "kim"))])
    assert store.has_traces
    store.tidy(at(5000))
    assert traces(WORD) == []
    assert traces(OTHER)


def test_a_projector_that_was_killed_before_it_overwrote_the_files_does_so_when_it_starts(store, traces):
    store.apply([record(topics.ERASURES, ErasureRequest("c1", at(5000), "kim"))])
    again = Store(store.engine)
    again.open()
    assert again.has_traces
    again.tidy(at(5000))
    assert traces(WORD) == []
    last = Store(store.engine)
    last.open()
    assert not last.has_traces


def test_an_erasure_of_what_is_not_there_overwrites_nothing(store):
    store.apply([record(topics.ERASURES, ErasureRequest("c-unknown", at(5000), "kim"))])
    assert not store.has_traces
    again = Store(store.engine)
    again.open()
    assert not again.has_traces


def test_only_words_are_removed(store):
    before = projected.dump(store.engine)
    erasing.erase(store.engine, "c1", at(5000))
    after = projected.dump(store.engine)
    for name in ("items", "verdicts", "replay_verdicts", "escalations", "actions", "reports"):
        words = {*schema.ITEM_WORDS, *schema.VERDICT_WORDS, *schema.ESCALATION_WORDS, *schema.ACTION_WORDS}
        words |= schema.REPORT_WORDS.keys()
        for old, new in zip(before[name], after[name], strict=True):
            if old["content_id"] == "c1":
                assert new == {key: None if key in words else value for key, value in old.items()}
            else:
                assert old == new
    assert after["rationales"] == []


def test_what_was_written_after_an_erasure_stays(store):
    erasing.erase(store.engine, "c1", at(5000))
    store.open()
    late, new = projected.verdict(70, "c1"), projected.verdict(6000, "c1")
    store.apply([record(topics.VERDICTS, one, offset=900 + n) for n, one in enumerate((late, new))])
    store.apply([record(topics.ESCALATIONS, projected.escalation(6000, "c1", "new text"), offset=902)])
    with store.engine.connect() as connection:
        table = schema.verdicts
        named = sa.select(table.c.verdict_id, table.c.reason).where(table.c.verdict_id.in_(("v70", "v6000")))
        assert dict(connection.execute(named).all()) == {"v70": None, "v6000": "quotes wombat"}
        text = sa.select(schema.items.c.text).where(schema.items.c.content_id == "c1")
        assert connection.scalar(text) == "new text"


def test_a_database_without_tables_has_nothing_to_erase(engine):
    assert erasing.erase(engine, "c1", at(1)) is False


def write_about(store, author):
    """All kinds of records about an author."""
    for topic, *values in (
        (
            topics.STRIKES,
            projected.strike(1, author, name=author),
            projected.strike(2, author, "decided", name=f"d{author}", action="limit"),
        ),
        (topics.AUTHOR_ACTIONS, projected.author_action(1, author, why=author)),
        (topics.AUTHOR_STANDING, projected.author_standing(author, [projected.strike(1, author)], "warn")),
    ):
        start = 0 if author == OTHER else 10
        store.apply([record(topic, value, offset=start + number) for number, value in enumerate(values)])


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_of_an_author_who_was_forgotten_no_file_holds_a_trace_but_that_it_was_done(engine, traces, killed, late):
    author = "wombat-author"
    store = Store(engine)
    store.open()
    write_about(store, OTHER)
    write_about(store, author)
    assert traces(author)
    store.apply([record(topics.STRIKES, projected.strike(9, author, "forgotten"), offset=20)])
    if late:
        store.tidy(at(5000))
        assert not store.has_traces
    store.apply([record(topics.AUTHOR_STANDING, None, offset=20, key=author.encode())])
    if killed:
        store = Store(engine)
        store.open()
    assert store.has_traces
    store.tidy(at(5000))
    after = projected.dump(engine)
    assert [one["author_id"] for one in after["forgotten_authors"]] == [author]
    for name in ("strikes", "author_decisions", "author_actions", "author_standings"):
        assert [one["author_id"] for one in after[name]] == [OTHER], name
    with engine.begin() as connection:
        connection.execute(sa.delete(schema.forgotten_authors))
    last = Store(engine)
    last.open()
    assert not last.has_traces
    erasing.overwrite(engine, ["forgotten_authors"])
    assert traces(author) == []
    assert traces(OTHER)
