"""Texts that were asked for, written: requests in, texts in their order out."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from tunesmith.config import Auto
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.generation.engine import Engine
from tunesmith.generation.request import Continuation, Request
from tunesmith.generation.sampling import SamplingRules
from tunesmith.generation.text_model import TextModel, texts_that_fit
from tunesmith.generation.text_stream import StopWatch, TextStream
from tunesmith.messages.catalogue import say
from tunesmith.model.gpt2 import GPT2
from tunesmith.utils.oom import in_pieces


@dataclass(frozen=True)
class TextRequest:
    """One text to write.

    Attributes:
        prompt: what it begins with.
        seed: of its chance.
        rules: how to choose tokens.
        max_new_tokens: longest continuation.
        min_new_tokens: it cannot end by itself before.
        stops: strings that end it.
    """

    prompt: str
    seed: int
    rules: SamplingRules
    max_new_tokens: int
    min_new_tokens: int = 0
    stops: tuple[str, ...] = ()


@dataclass(frozen=True)
class GeneratedText:
    """One text a model wrote.

    Attributes:
        prompt: what it began with.
        text: the prompt, unless it was to be left out, and what was written, up to a stop string.
        seed: writes the same text again.
        temperature: it was written with.
        finish_reason: "stop" at end-of-text or a stop string, "length" at the limit.
        tokens: ids that were written, without end-of-text; the last ones may hold a stop string.
        logprobs: log-probability of each in nats, under the model before temperature, filters and penalties.
    """

    prompt: str
    text: str
    seed: int
    temperature: float
    finish_reason: str
    tokens: list[int]
    logprobs: list[float]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while texts were written.

    Attributes:
        texts: that were finished, in order.
    """

    def __init__(self, texts: list[GeneratedText]) -> None:
        super().__init__()
        self.texts = texts


def write_texts(
    model: GPT2,
    tokenizer: TextTokenizer,
    prompts: list[str],
    *,
    seeds: list[int],
    rules: SamplingRules,
    max_new_tokens: int,
    include_prompt: bool = True,
) -> list[GeneratedText]:
    """Write one text behind each prompt, with a model as it is."""
    requests = [TextRequest(prompt, seed, rules, max_new_tokens) for prompt, seed in zip(prompts, seeds, strict=True)]
    return write_requests(TextModel(model, tokenizer, model.logits), requests, include_prompt=include_prompt)


def write_requests(
    writer: TextModel,
    requests: Sequence[TextRequest],
    *,
    include_prompt: bool = True,
    texts_at_once: int | Auto = "auto",
    on_text: Callable[[int, int], object] = lambda _done, _of: None,
    show: Callable[[str], object] | None = None,
) -> list[GeneratedText]:
    """Write the texts that were asked for; as in training, an end-of-text stands before each.

    Where memory runs out, fewer are written at once, with the same words: a text depends on its own seed only.
    """
    tokenizer = writer.tokenizer
    prompt_ids = [
        [tokenizer.end_of_text_id, *ids] for ids in tokenizer.encode([request.prompt for request in requests])
    ]
    positions = max(len(ids) + request.max_new_tokens for ids, request in zip(prompt_ids, requests, strict=True))
    positions = min(positions, writer.model.config.n_positions)
    at_once = texts_that_fit(writer.model, positions) if texts_at_once == "auto" else texts_at_once
    at_once = min(at_once, len(requests))
    finished: dict[int, GeneratedText] = {}

    def write(pieces: int) -> bool:
        finished.clear()
        engine = Engine(
            writer.model,
            end_of_text_id=tokenizer.end_of_text_id,
            texts_at_once=-(-at_once // pieces),
            positions=positions,
            logits=writer.logits,
        )
        watches = [
            StopWatch(TextStream(tokenizer, ids[1:]), request.stops, show)
            for request, ids in zip(requests, prompt_ids, strict=True)
        ]
        for request, ids, watch in zip(requests, prompt_ids, watches, strict=True):
            engine.submit(
                Request(ids, request.seed, request.rules, request.max_new_tokens, request.min_new_tokens, watch)
            )
        with closing(engine):
            for number, continuation in engine.run():
                watches[number].end()
                finished[number] = _text(requests[number], watches[number].text, continuation, include_prompt)
                on_text(len(finished), len(requests))
        return True

    try:
        in_pieces(
            write,
            pieces=1,
            most=at_once,
            what=say("a single text to write"),
            hint=say("free memory, or take a shorter --max-new-tokens or a smaller model"),
        )
    except KeyboardInterrupt:
        raise Interrupted([finished[number] for number in sorted(finished)]) from None
    return [finished[number] for number in range(len(requests))]


def _text(request: TextRequest, written: str, continuation: Continuation, include_prompt: bool) -> GeneratedText:  # noqa: FBT001
    return GeneratedText(
        prompt=request.prompt,
        text=request.prompt + written if include_prompt else written,
        seed=request.seed,
        temperature=request.rules.temperature,
        finish_reason=continuation.finish_reason,
        tokens=continuation.tokens,
        logprobs=continuation.logprobs,
    )
