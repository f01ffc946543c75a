"""Guards with fixed classes: Qwen3Guard, Llama Guard and ShieldGemma. They read no policy.

Sources, each for the classification of what a user wrote:

- Qwen3Guard-Gen: its model card. The chat template of the model writes the task around one user message, and the answer
  is `Safety: LABEL`, then `Categories: LIST`. The stream variant has another head and is not served like this.
- Llama Guard 3 and 4: their model cards (meta-llama/PurpleLlama) and the template in the tokenizer's configuration. The
  answer is `safe`, or `unsafe` and on the second line the codes of its classes.
- ShieldGemma: its model card (ai.google.dev/gemma/docs/shieldgemma) with the four guidelines for prompts, and the chat
  template of google/shieldgemma-9b as published renderings show it. It is scored by the tokens Yes and No, a prompt for
  each guideline.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from safeguard_streams.workers.inference.dialects.interface import (
    ChatPrompt,
    Label,
    MalformedLabel,
    OneWord,
    Prompt,
    TextPrompt,
    Token,
    beginning,
    first_written,
    share,
    without_control_tokens,
)

_CONVERSATION = re.compile(r"<\s*(?:BEGIN|END) (?:CONVERSATION|SAFETY POLICY|UNSAFE CONTENT CATEGORIES)", re.IGNORECASE)


class _Conversation:
    """A guard whose own chat template writes the task around one user message."""

    imitation = _CONVERSATION

    def render(self, policy: str, content: str, classes: Collection[str] = ()) -> Sequence[Prompt]:  # noqa: ARG002  (the protocol names it)
        return [ChatPrompt((("user", without_control_tokens(content)),))]


class Qwen3Guard(_Conversation):
    """Controversial content violates, as in the strict reading of the model card."""

    name = "qwen3guard"
    models = re.compile(r"qwen3guard-gen", re.IGNORECASE)
    classes: tuple[str, ...] = (
        "Violent",
        "Non-violent Illegal Acts",
        "Sexual Content or Sexual Acts",
        "PII",
        "Suicide & Self-Harm",
        "Unethical Acts",
        "Politically Sensitive Topics",
        "Copyright Violation",
        "Jailbreak",
    )
    max_tokens = 128
    _answer = re.compile(r"Safety: (Safe|Unsafe|Controversial)\nCategories: ([^\n]+)")

    def parse(self, text: str) -> Label:
        found = self._answer.fullmatch(text.strip())
        if found is None:
            raise MalformedLabel
        named = tuple(name.strip() for name in found[2].split(","))
        if found[1] == "Safe":
            if named != ("None",):
                raise MalformedLabel
            return Label(violates=False)
        return Label(violates=True, classes=_known(named, self.classes))

    def score(self, tokens: Sequence[Token]) -> float | None:
        written = ""
        for token in tokens:
            if written.strip() == "Safety:":
                return share(token.likeliest, beginning({"Unsafe": True, "Controversial": True, "Safe": False}))
            written += token.text
        return None


class LlamaGuard(_Conversation):
    """Llama Guard 3 and 4, whose classes are those of MLCommons."""

    name = "llama-guard"
    models = re.compile(r"llama-?guard-?[34]", re.IGNORECASE)
    classes = tuple(f"S{number}" for number in range(1, 15))
    max_tokens = 64
    _unsafe = re.compile(r"unsafe\n\s*(\S[^\n]*)")

    def parse(self, text: str) -> Label:
        answer = text.strip()
        if answer == "safe":
            return Label(violates=False)
        found = self._unsafe.fullmatch(answer)
        if found is None:
            raise MalformedLabel
        return Label(violates=True, classes=_known(tuple(c.strip() for c in found[1].split(",")), self.classes))

    def score(self, tokens: Sequence[Token]) -> float | None:
        token = first_written(tokens)
        return share(token.likeliest, beginning({"unsafe": True, "safe": False})) if token else None


_PROMPT_SHALL_NOT = "The prompt shall not contain or seek generation of content that"
_GUIDELINES = {
    "Dangerous Content": "harming oneself and/or others (e.g., accessing or building firearms and explosive devices, "
    "promotion of terrorism, instructions for suicide).",
    "Harassment": "is malicious, intimidating, bullying, or abusive content targeting another individual (e.g., "
    "physical threats, denial of tragic events, disparaging victims of violence).",
    "Hate Speech": "targeting identity and/or protected attributes (e.g., racial slurs, promotion of discrimination, "
    "calls to violence against protected groups) or dehumanizing/belittling/vilifying on the bases of race, ethnicity, "
    "religion, disability, age, nationality, veteran status, sexual orientation, gender, gender identity, caste, or "
    "any other protected status. We do allow content that includes a reference to a protected individual or group in a "
    "positive manner.",
    "Sexually Explicit Information": "contains references to sexual acts or other lewd content (e.g., sexually graphic "
    "descriptions, content aimed at causing arousal). Medical or scientific terms related to human anatomy or sex "
    "education are permitted.",
}


class ShieldGemma(OneWord):
    """ShieldGemma 1. ShieldGemma 2 is for images. The turns of its prompt are control tokens, the answer's is not."""

    name = "shieldgemma"
    models = re.compile(r"shieldgemma[-:](?:2|9|27)b", re.IGNORECASE)
    classes = tuple(_GUIDELINES)
    labels: Mapping[str, bool] = {"Yes": True, "No": False}
    imitation = re.compile(r"Our safety principle is defined|Your answer must start with", re.IGNORECASE)

    def render(self, policy: str, content: str, classes: Collection[str] = ()) -> Sequence[Prompt]:  # noqa: ARG002  (the protocol names it)
        question = without_control_tokens(content).strip()
        return [TextPrompt(_shieldgemma(question, name)) for name in self.classes if not classes or name in classes]


def _shieldgemma(question: str, name: str) -> str:
    return (
        "You are a policy expert trying to help determine whether a user prompt is in violation of the defined safety "
        f"policies.\n\n<start_of_turn>\nHuman Question: {question}\n<end_of_turn>\n\n"
        "Our safety principle is defined in the below:\n\n"
        f'* "No {name}": {_PROMPT_SHALL_NOT} {_GUIDELINES[name]}\n\n===\n\n'
        "Does the human question violate the above principle? Your answer must start with 'Yes' or 'No'. "
        "And then walk through step by step to be sure we answer correctly.\n\n"
    )


def _known(named: tuple[str, ...], classes: Collection[str]) -> tuple[str, ...]:
    """The named classes, at least one. Raises MalformedLabel for one that the guard does not have."""
    if not all(name in classes for name in named):
        raise MalformedLabel
    return named
