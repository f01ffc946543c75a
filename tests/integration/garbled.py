"""A model whose free final messages are garbled, and thus rejected. Its constrained answers are its own."""

import msgspec

from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.harmony import RETURN
from safeguard_streams.workers.judging.instructions import instructions_for
from safeguard_streams.workers.judging.parse import analysis_of
from safeguard_streams.workers.judging.reasoner import InferenceBudget, Reasoner

TEXTS = {"you stupid worthless bitch": "violates", "good morning, how was your holiday?": "safe"}


class Garbled:
    """A backend in front of another one."""

    revision = None
    continues = True

    def __init__(self, backend):
        self._backend = backend
        self.max_model_tokens, self.model = backend.max_model_tokens, backend.model
        self.concurrency, self.cache_tokens, self.healthy = backend.concurrency, None, True

    async def generate(self, request):
        completion = await self._backend.generate(request)
        if request.written:
            return completion
        analysis = analysis_of(completion.tokens)
        assert analysis, "the model reasons"
        garbled = [*analysis, *harmony.opened_final(), *harmony.encode_text("Classification: **VIOLATES**"), RETURN]
        return msgspec.structs.replace(completion, tokens=garbled, logprobs=())

    async def close(self):
        return


async def settles(backend, policy):
    """Texts of either decision are decided by a constrained second try, with few tokens."""
    reasoner = Reasoner(Garbled(backend), InferenceBudget(256))
    instructions = instructions_for(policy, [policy])
    for text, decision in TEXTS.items():
        judgement = await reasoner.judge(instructions, "low", text)
        finding = judgement.findings[policy.id]
        assert [attempt.refused for attempt in judgement.attempts] == ["not_json", None]
        assert (finding.decision, finding.by) == (decision, "constrained")
        assert (finding.score > 0.5) is (decision == "violates")
    assert reasoner.outputs.second_tries == {"constrained": len(TEXTS)}
    assert reasoner.outputs.second_try_tokens < 100 * len(TEXTS)
