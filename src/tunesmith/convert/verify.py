"""Whether another program computes from an exported file what the model itself computes.

Twenty prompts in several scripts are read and continued greedily by both. Logits are compared at every place, up to
where the texts part, if they do: two tokens may be equally likely to within rounding.

Shapes: N tokens of a text, V vocabulary.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from tunesmith.convert.exported_model import Exported
from tunesmith.errors import UserError
from tunesmith.generation.generate import generate_batch
from tunesmith.generation.sampling import SamplingParams
from tunesmith.model.attention import GroupedSDPA, PackedLayout
from tunesmith.model.compile import inference_mode
from tunesmith.model.gpt2 import GPT2

PROMPTS = (
    "",
    "Once upon a time",
    "The",
    "It was a dark and stormy night;",
    "Dear Sir or Madam,\n\n",
    "  two spaces before, and a tab\tbetween",
    "1 + 1 = 2, 12345.6789 and 3/4",
    "don't they've we'll I'm she'd it's",
    "def main() -> int:\n    return 0\n",
    "ÄÖÜ äöü ß, façade, naïve, Ångström, Łódź",
    "Привет, мир! Как дела?",
    "Καλημέρα κόσμε",
    "مرحبا بالعالم",
    "你好，世界。今天天气很好。",  # noqa: RUF001  Chinese has this comma
    "吾輩は猫である。名前はまだ無い。",
    "春はあけぼの。やうやう白くなりゆく山ぎは、",
    "カタカナとひらがな、ﾊﾝｶｸも。",
    "안녕하세요, 세계!",
    "Good morning 🌅🙂 👩‍👩‍👧‍👦 🇯🇵 done",
    "<|endoftext|> is ordinary text here",
)
GREEDY = SamplingParams(temperature=0, top_k=0, top_p=1)
NEW_TOKENS = 24

Logits = npt.NDArray[np.float32]


class Runtime(Protocol):
    """A program that runs an exported file; `name` includes its version."""

    name: str

    def encode(self, text: str) -> list[int] | None:
        """Token ids of a prompt, end-of-text first; None without a tokenizer of its own."""
        ...

    def read(self, tokens: list[int]) -> Logits:
        """Start a text: the logits after each of its tokens, [N, V]."""
        ...

    def go_on(self, token: int) -> Logits:
        """Logits after one more token, [V]."""
        ...


@dataclass(frozen=True)
class Verification:
    """Result of a verification: logit differences in nats (of weights, where nothing ran the file)."""

    by: str
    largest_logit_difference: float
    texts: int
    equal_texts: int


def verify(exported: Exported, runtime: Runtime, *, largest_difference: float) -> Verification:
    """Let a runtime read and continue the prompts, and compare; logits may differ by `largest_difference` nats.

    Raises:
        UserError: if the runtime computes something else.
    """
    model, tokenizer = exported.model, exported.tokenizer
    n_positions = model.config.n_positions
    prompts = [
        prompt
        for prompt, ids in zip(PROMPTS, tokenizer.encode(list(PROMPTS)), strict=True)
        if len(ids) + 1 + NEW_TOKENS <= n_positions
    ]
    written = generate_batch(
        model, tokenizer, prompts, seeds=[0] * len(prompts), params=GREEDY, max_new_tokens=NEW_TOKENS
    )
    differences, equal_texts = [0.0], 0
    for prompt, text in zip(prompts, written, strict=True):
        ids = [tokenizer.end_of_text_id, *tokenizer.encode([prompt])[0]]
        _refuse_other_ids(prompt, ids, runtime.encode(prompt), runtime.name)
        expected_NV = full_logits(model, ids + text.tokens)
        found_NV = runtime.read(ids)
        differences.append(_difference(found_NV, expected_NV[: len(ids)]))
        wanted = [*text.tokens, *([tokenizer.end_of_text_id] if text.finish_reason == "stop" else [])]
        logits_V, agreed = found_NV[-1], 0
        for token in wanted:
            if int(logits_V.argmax()) != token:
                break
            agreed += 1
            if agreed < len(wanted):
                logits_V = runtime.go_on(token)
                differences.append(_difference(logits_V, expected_NV[len(ids) + agreed - 1]))
        equal_texts += agreed == len(wanted)
    found = Verification(runtime.name, max(differences), len(prompts), equal_texts)
    if not found.largest_logit_difference <= largest_difference:
        raise UserError(
            "{by} computes something else from the file: logits differ by up to {found:.2g}, allowed are {allowed:.2g}",
            hint="nothing was kept; the model's numbers are extreme, or it is a mistake in tunesmith or {by}",
            by=found.by,
            found=found.largest_logit_difference,
            allowed=largest_difference,
        )
    return found


def full_logits(model: GPT2, tokens: list[int]) -> Logits:
    """Logits after each token of a text, [N, V] in fp32, without any cache."""
    attend = GroupedSDPA(PackedLayout.of((0, len(tokens))))
    with inference_mode(model):
        hidden_NC = model(torch.tensor(tokens), torch.arange(len(tokens)), lambda _layer: attend)
        logits_NV: Logits = model.logits(hidden_NC).numpy()
        return logits_NV


class ReadBack:
    """Computes the model that was read from the file with our own code; `name` is the file's program."""

    def __init__(self, model: GPT2, name: str) -> None:
        self.name = name
        self._model = model
        self._tokens: list[int] = []

    def encode(self, text: str) -> list[int] | None:
        """Return None: the tokenizer is copied, not converted."""
        del text
        return None

    def read(self, tokens: list[int]) -> Logits:
        """Logits after each token, [N, V]."""
        self._tokens = tokens
        return full_logits(self._model, tokens)

    def go_on(self, token: int) -> Logits:
        """Logits after one more token, [V]."""
        logits_V: Logits = self.read([*self._tokens, token])[-1]
        return logits_V


def _difference(found: Logits, expected: Logits) -> float:
    return float(np.abs(found - expected).max())


def _refuse_other_ids(prompt: str, expected: list[int], found: list[int] | None, by: str) -> None:
    if found is not None and found != expected:
        raise UserError(
            "{by} reads {prompt!r} as other tokens than the model's own tokenizer",
            hint="nothing was kept; this tokenizer cannot be written in that form",
            by=by,
            prompt=prompt,
        )
