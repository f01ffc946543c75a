"""The table of limits states the bounds of the code, which the contract's layer cannot import."""

import pytest

from safeguard_streams.bus import dead_letters, engine, watermark
from safeguard_streams.client import event_files
from safeguard_streams.contract import limits
from safeguard_streams.enforcement import app as enforcement
from safeguard_streams.runtime import record_batches, settings
from safeguard_streams.workers.inference import routes, transport
from safeguard_streams.workers.judging import cache, parse, prompt, rationale, reasoner

ENGINE, SETTINGS, BUDGET = engine.Limits(), settings.Settings.model_fields, reasoner.InferenceBudget()
BY_THE_CODE = {
    "reason of a dead letter": [dead_letters._LONGEST_TEXT],
    "a batch of Kafka after decompression": [record_batches.LARGEST_BATCH],
    "records that are done behind one that is not, in each partition": [watermark.SPAN],
    "records in hand with their outputs, in each partition": [ENGINE.max_buffered_bytes],
    "outputs of one commit": [ENGINE.max_commit_bytes],
    "windows of an item": [reasoner.MAX_WINDOWS],
    "text that is tokenised whole": [prompt.MAX_CHARACTERS],
    "requests for one item, `SAFEGUARD_CONTENT_TIMEOUT`": [SETTINGS["content_timeout"].default, BUDGET.content_seconds],
    "what the model writes about one item, `SAFEGUARD_CONTENT_TOKENS`": [
        SETTINGS["content_tokens"].default,
        BUDGET.content_tokens,
    ],
    "one output of the model, `SAFEGUARD_MAX_TOKENS`": [SETTINGS["max_tokens"].default, BUDGET.max_answer_tokens],
    "response of an inference server": [transport.MAX_RESPONSE],
    "answer by the chat route": [routes.MAX_ANSWER],
    "`reason` of a verdict": [parse.MAX_REASON],
    "`analysis` of a rationale": [rationale.MAX_ANALYSIS],
    "`final` of a rationale": [rationale.MAX_FINAL],
    "outputs in a rationale": [rationale.MAX_BYTES],
    "judgements kept, `SAFEGUARD_JUDGEMENT_CACHE_SIZE`": [SETTINGS["judgement_cache_size"].default, BUDGET.cache_size],
    "judgements kept, by size": [cache.MAX_BYTES],
    "messages to the webhook at once": [enforcement.MAX_DELIVERIES],
    "a file to publish, after decompression": [event_files.MAX_BYTES],
}
TABLE = {limit.what: limit for limit in limits.TABLE}


@pytest.mark.parametrize("what", BY_THE_CODE)
def test_a_bound_of_the_table_is_that_of_the_code(what):
    assert {TABLE[what].value} == set(BY_THE_CODE[what])


def test_no_bound_is_listed_twice():
    assert len(TABLE) == len(limits.TABLE)
