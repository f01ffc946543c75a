"""Judges texts at temperature 1 with the small model: python -m tests.integration.sampled COUNT [FIRST].

Prints how many stay undetermined, how outputs were rejected and accepted, and the tokens of second tries. FIRST is the
number of the first text, to judge many in several runs.
"""

import asyncio
import sys
import time
from collections import Counter

from safeguard_streams.policies import small_model
from safeguard_streams.runtime import settings
from safeguard_streams.workers.bench.items import make_items, policies, policy_for
from safeguard_streams.workers.evaluation.offline import offline_judge
from safeguard_streams.workers.judging.instructions import instructions_for


async def sample(count, first):
    candidates = policies()
    instructions = {policy.id: instructions_for(policy, [policy]) for policy in candidates}
    items = make_items(first + count, seed=20)[first:]
    current = settings.load(model=small_model.SMALL, max_model_len=8192)
    async with offline_judge(current, lambda *_: None, candidates, temperature=1.0) as judge:
        begin = time.perf_counter()
        judged = await asyncio.gather(
            *(judge.judge_text(instructions[policy_for(text, candidates).id], text) for text in items)
        )
        seconds = time.perf_counter() - begin
        outputs = judge._reasoner.outputs
    findings = [finding for judgement in judged for finding in judgement.findings.values()]
    undetermined = sum(finding.decision == "undetermined" for finding in findings)
    written = sum(judgement.tokens.completion for judgement in judged)
    print(f"{count} texts from {first} in {seconds:.0f} s, {count / seconds:.1f}/s; undetermined {undetermined}")
    print("answers", dict(Counter(finding.by for finding in findings)))
    print("without a score", sum(finding.score is None for finding in findings))
    print("rejected", dict(outputs.malformed), "variants", dict(outputs.variants))
    print("second tries", dict(outputs.second_tries), "tokens", outputs.second_try_tokens, "of", written)


if __name__ == "__main__":
    asyncio.run(sample(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
