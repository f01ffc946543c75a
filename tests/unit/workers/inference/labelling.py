"""A server whose model answers by a label, with the logarithms of probabilities, on the route of its dialect."""

import contextlib
import math

from aiohttp import web

from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.dialects import DIALECTS
from safeguard_streams.workers.inference.dialects.interface import ChatPrompt

# What the model writes, for violating and for safe content, and the tokens of its labels where they are other texts.
_WRITTEN = {
    "cope-a": ("1", "0"),
    "cope-b": ("1", "0"),
    "shieldstral": ("yes", "no"),
    "llama-guard": ("unsafe\nS10", "safe"),
    "qwen3guard": ("Safety: Unsafe\nCategories: Violent", "Safety: Safe\nCategories: None"),
    "shieldgemma": ("Yes", "No"),
}
TEMPLATE_TOKENS = 300
_TOKENS = {"llama-guard": ("unsafe", "safe"), "qwen3guard": (" Unsafe", " Safe")}


class LabelServer:
    """A score by the first of `scores` whose word the prompt's content has, or else 0.01.

    asked: bodies of the requests. script: a status or text that the next answers are instead.
    """

    def __init__(self, model, dialect, scores, *, logprobs=True, context=8192):
        self.model = model
        self.dialect = DIALECTS[dialect]
        self.scores = scores
        self.asked = []
        self.script = []
        self.logprobs = logprobs
        self.context = context
        self.cut = None  # the tokens of a prompt that it keeps, if it cuts prompts

    @contextlib.asynccontextmanager
    async def running(self):
        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/models", self._models),
                web.post("/v1/completions", self._text),
                web.post("/v1/chat/completions", self._chat),
            ]
        )
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()

    async def _models(self, _):
        return web.json_response({"data": [{"id": self.model, "owned_by": "vllm", "max_model_len": self.context}]})

    async def _text(self, request):
        body = await request.json()
        if isinstance(body["prompt"], list):  # as vLLM with any model
            choice = {"token_ids": [1], "finish_reason": "length"}
            return web.json_response({"choices": [choice], "usage": {"prompt_tokens": len(body["prompt"])}})
        assert not isinstance(self.dialect.render("", "")[0], ChatPrompt), "the model has a chat template"
        return self._answer(body, body["prompt"])

    async def _chat(self, request):
        body = await request.json()
        assert isinstance(self.dialect.render("", "")[0], ChatPrompt), "the model has no chat template"
        return self._answer(body, body["messages"][-1]["content"])

    def _answer(self, body, prompt):
        assert body["max_tokens"] == self.dialect.max_tokens
        self.asked.append(body)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, int):
            return web.json_response({"error": {"message": "no"}}, status=step)
        score = next((score for word, score in self.scores.items() if word in prompt), 0.01)
        text = step or _WRITTEN[self.dialect.name][score <= 0.5]
        read = TEMPLATE_TOKENS + len(harmony.encode_text(prompt))
        usage = {"prompt_tokens": min(read, self.cut or read), "completion_tokens": 1}
        choice = {"index": 0, "finish_reason": "stop", **self._content(body, text, score)}
        return web.json_response({"choices": [choice], "usage": usage})

    def _content(self, body, text, score):
        yes, no = _TOKENS.get(self.dialect.name, _WRITTEN[self.dialect.name])
        likeliest = {yes: math.log(score), no: math.log(1 - score), "maybe": -9.0}
        label = yes if score > 0.5 else no
        if "messages" not in body:
            logprobs = {"tokens": [label], "token_logprobs": [likeliest[label]], "top_logprobs": [likeliest]}
            return {"text": text, "logprobs": logprobs if self.logprobs else None}
        tops = [{"token": token, "logprob": value} for token, value in likeliest.items()]
        content = [{"token": label, "logprob": likeliest[label], "top_logprobs": tops}]
        if self.dialect.name == "qwen3guard":
            content = [{"token": "Safety", "logprob": 0.0}, {"token": ":", "logprob": 0.0}, *content]
        return {
            "message": {"role": "assistant", "content": text},
            "logprobs": {"content": content} if self.logprobs else None,
        }
