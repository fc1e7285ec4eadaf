"""The verb `generate`: a model and prompts in, texts out."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import psutil
import torch
from torch import Tensor

from tunesmith.config import Auto, GenerateConfig
from tunesmith.data.copies import SHORTEST_COPY_TOKENS, CopyIndex
from tunesmith.data.prompt_file import read_prompts
from tunesmith.data.sources import escapes
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.data.trained_text import trained_text
from tunesmith.distributed.team import ALONE, Team
from tunesmith.distributed.verbs import device_of, refuse_different_models, team_of
from tunesmith.errors import UserError
from tunesmith.files import refuse_existing
from tunesmith.generation.cache import cache_bytes
from tunesmith.generation.engine import Engine
from tunesmith.generation.inference_weights import ready_for_writing
from tunesmith.generation.packed_linears import can_hold_half
from tunesmith.generation.request import Continuation, Request
from tunesmith.generation.sampling import SamplingRules
from tunesmith.generation.text_stream import StopWatch, TextStream
from tunesmith.machine import choose_dtype
from tunesmith.messages.catalogue import say
from tunesmith.model.config_file import read_hf_config
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hub import local_folder
from tunesmith.model.weights import load_gpt2
from tunesmith.out_of_memory import in_pieces

MOST_TEXTS_AT_ONCE = {"cpu": 64, "cuda": 256}
ATTEMPTS = 10
"""At a text that copies nothing; what still copies then is left out."""
CACHE_MEMORY_SHARE = 0.5
"""Of the free memory; the rest is for reading prompts and for everybody else."""


@dataclass(frozen=True)
class TextModel:
    """A model that is ready to write.

    Attributes:
        model: on its device.
        tokenizer: its own.
        logits: hidden states [N, C] to logits [N, V].
    """

    model: GPT2
    tokenizer: TextTokenizer
    logits: Callable[[Tensor], Tensor]


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


def generate_texts(
    config: GenerateConfig,
    *,
    on_text: Callable[[int, int], object] = lambda _done, _of: None,
    show: Callable[[str], object] | None = None,
) -> list[GeneratedText]:
    """Load a model and write texts: every sample of every prompt at every temperature, in this order.

    Args:
        config: what to write.
        on_text: told how many texts of how many are done.
        show: called with the pieces of a single text as they are written.

    Raises:
        UserError: if the model cannot be used or a setting is impossible.
        Interrupted: at Ctrl-C, with the texts that were done.
    """
    with team_of(config) as team:
        texts, is_whole = _written(config, team, on_text, show)
    if not is_whole:
        raise Interrupted(texts)
    return texts


def _written(
    config: GenerateConfig, team: Team, on_text: Callable[[int, int], object], show: Callable[[str], object] | None
) -> tuple[list[GeneratedText], bool]:
    """The texts, in order, and whether they are all that was asked for; of several processes only the first has them.

    Raises:
        UserError: as above.
    """
    requests = text_requests(config, team.share(lambda: _prompts(config)))
    if config.out and team.leads:
        refuse_existing(Path(config.out))
    with team.one_after_the_other("model"):
        folder = local_folder(config.model)
    refuse_different_models(team, folder)
    model = load_for_writing(config, team)
    show_it = show if len(requests) == 1 and not config.reject_copied and team.size == 1 else None
    if show_it and config.include_prompt:
        show_it(requests[0].prompt)

    def write(some: Sequence[TextRequest]) -> list[GeneratedText]:
        return write_requests(
            model,
            some,
            include_prompt=config.include_prompt,
            texts_at_once=config.batch_size,
            on_text=on_text,
            show=show_it,
        )

    def accepted(some: Sequence[TextRequest]) -> list[GeneratedText]:
        if index is None:
            return write(some)
        shortest = config.reject_copied
        return write_uncopied(write, some, index, shortest, n_texts=len(requests), is_all=team.size == 1)

    index = _index_of_copies(config, model.tokenizer, team)
    own, is_whole = requests[team.rank :: team.size], True
    try:
        with _ended_as_interrupted(team):
            texts = accepted(own) if own else []
    except Interrupted as interruption:
        texts, is_whole = interruption.texts, False
    if team.size == 1:
        return texts, is_whole
    told = team.collect({"texts": [asdict(text) for text in texts], "is_whole": is_whole})
    texts = [GeneratedText(**text) for one in told for text in one["texts"]]
    texts.sort(key=lambda text: ((text.seed - config.seed) % len(requests), config.temperature.index(text.temperature)))
    is_whole = all(one["is_whole"] for one in told)
    on_text(len(texts), len(requests))
    if team.leads and is_whole and not texts:
        raise _all_copy(config.reject_copied)
    return texts, is_whole


def _index_of_copies(config: GenerateConfig, tokenizer: TextTokenizer, team: Team) -> CopyIndex | None:
    """Of the text that nothing is to be copied from; None where everything is taken."""
    if not config.reject_copied:
        return None
    with team.one_after_the_other("text"):
        return CopyIndex(trained_text(local_folder(config.model), tokenizer, config.trained_on).train)


@contextmanager
def _ended_as_interrupted(team: Team) -> Iterator[None]:
    """With several processes SIGTERM is what Ctrl-C becomes on its way; the second time neither does anything."""
    if team.size == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except Interrupted:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise


def write_uncopied(
    write: Callable[[Sequence[TextRequest]], list[GeneratedText]],
    requests: Sequence[TextRequest],
    index: CopyIndex,
    shortest_copy_tokens: int,
    *,
    n_texts: int | None = None,
    is_all: bool = True,
) -> list[GeneratedText]:
    """Write texts, those anew with another seed that hold a copy; in order, without those that copy in every attempt.

    Args:
        write: writes what was asked for.
        requests: to be written.
        index: of the training text.
        shortest_copy_tokens: so many tokens in a row are a copy.
        n_texts: asked for in all, where these are some of them.
        is_all: whether it is an error when all of them copy.

    Raises:
        UserError: if all of them copy in every attempt.
    """
    accepted: dict[int, GeneratedText] = {}
    numbers = list(range(len(requests)))
    for attempt in range(ATTEMPTS):
        # seeds beyond those of all other texts, so that no two texts ever share one
        apart = attempt * (n_texts or len(requests))
        again = [replace(requests[n], seed=requests[n].seed + apart) for n in numbers]
        try:
            texts = write(again)
        except Interrupted:
            raise Interrupted([accepted[number] for number in sorted(accepted)]) from None
        accepted |= {
            number: text
            for number, text in zip(numbers, texts, strict=True)
            if all(copy.tokens < shortest_copy_tokens for copy in index.copies(text.tokens))
        }
        numbers = [n for n in numbers if n not in accepted and requests[n].rules.temperature > 0]
        if not numbers:
            break
    if not accepted and is_all:
        raise _all_copy(shortest_copy_tokens)
    return [accepted[number] for number in sorted(accepted)]


def _all_copy(shortest_copy_tokens: int) -> UserError:
    return UserError(
        "every text holds {n_tokens} tokens in a row of the training text, in {attempts} attempts",
        hint="raise --temperature or --reject-copied; the model may be overfitted: train it for fewer epochs",
        n_tokens=shortest_copy_tokens,
        attempts=ATTEMPTS,
    )


def load_for_writing(config: GenerateConfig, team: Team = ALONE) -> TextModel:
    """The model that was asked for, with its weights arranged for writing.

    On a CPU that is fp16 weights and fp32 arithmetic, unless another precision is asked for.

    Raises:
        UserError: if it cannot be used.
    """
    device = device_of(team, config.device)
    may_round = config.precision == "auto" and device.type == "cpu" and can_hold_half()
    dtype = torch.float32 if may_round else choose_dtype(config.precision, device).value
    folder = local_folder(config.model)
    tokenizer = load_tokenizer(folder, read_hf_config(folder))
    model = load_gpt2(folder).to(device, dtype)
    model.compute_dtype = dtype
    return TextModel(model, tokenizer, ready_for_writing(model, config.quantize, may_round=may_round))


def text_requests(config: GenerateConfig, prompts: Sequence[str] | None = None) -> list[TextRequest]:
    """One for every text; seeds count on from the one that was given.

    Args:
        config: what to write.
        prompts: behind which, where they were read already.

    Raises:
        UserError: if a setting is impossible or prompts cannot be read.
    """
    _refuse_impossible(config)
    stops = tuple(escapes(stop) for stop in (*config.stop, *([config.truncate] if config.truncate else [])))
    prompts = _prompts(config) if prompts is None else prompts
    numbered = enumerate(product(prompts, range(config.num_samples)))
    return [
        TextRequest(
            prompt=prompt,
            seed=config.seed + number,
            rules=SamplingRules(
                temperature,
                config.top_k,
                config.top_p,
                config.min_p,
                config.repetition_penalty,
                config.no_repeat_ngram_size,
            ),
            max_new_tokens=config.max_new_tokens,
            min_new_tokens=config.min_new_tokens,
            stops=stops,
        )
        for number, (prompt, _) in numbered
        for temperature in config.temperature
    ]


def _prompts(config: GenerateConfig) -> list[str]:
    if config.prompts_file is not None:
        if config.prompt:
            raise UserError("--prompt and --prompts-file exclude each other", hint="put all prompts into the file")
        return read_prompts(config.prompts_file, config.prompt_field)
    return [sys.stdin.read() if prompt == "-" else prompt for prompt in config.prompt] or [""]


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


def texts_that_fit(model: GPT2, positions: int) -> int:
    """As many as find room, up to what still gains speed."""
    device = model.head_VC.device
    free_bytes = psutil.virtual_memory().available if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    room = int(free_bytes * CACHE_MEMORY_SHARE / cache_bytes(model, positions))
    return min(max(room, 1), MOST_TEXTS_AT_ONCE[device.type])


def _refuse_impossible(config: GenerateConfig) -> None:
    """Name everything that makes no sense, at once."""
    limits = [
        ("--num-samples", config.num_samples, config.num_samples >= 1, say("at least 1")),
        ("--max-new-tokens", config.max_new_tokens, config.max_new_tokens >= 1, say("at least 1")),
        (
            "--min-new-tokens",
            config.min_new_tokens,
            0 <= config.min_new_tokens <= config.max_new_tokens,
            say("from 0 to --max-new-tokens"),
        ),
        *(
            ("--temperature", temperature, 0 <= temperature < float("inf"), say("0 (greedy) or more"))
            for temperature in config.temperature
        ),
        ("--top-k", config.top_k, config.top_k >= 0, say("0 (all) or more")),
        ("--top-p", config.top_p, 0 < config.top_p <= 1, say("above 0 and at most 1")),
        ("--min-p", config.min_p, 0 <= config.min_p <= 1, say("from 0 (all) to 1")),
        ("--repetition-penalty", config.repetition_penalty, config.repetition_penalty > 0, say("above 0 (1 is none)")),
        (
            "--no-repeat-ngram-size",
            config.no_repeat_ngram_size,
            config.no_repeat_ngram_size >= 0,
            say("0 (off) or more"),
        ),
        ("--batch-size", config.batch_size, config.batch_size == "auto" or config.batch_size >= 1, say("at least 1")),
    ]
    wrong = [(flag, value, rule) for flag, value, allowed, rule in limits if not allowed]
    if wrong:
        raise UserError(
            "{problems}",
            hint="{rules}",
            problems="; ".join(
                say("{flag} {value} makes no sense", flag=flag, value=value) for flag, value, _ in wrong
            ),
            rules="; ".join(
                say("{flag}: write a number that is {rule}", flag=flag, rule=rule) for flag, _, rule in wrong
            ),
        )
    if config.reject_copied and config.reject_copied < SHORTEST_COPY_TOKENS:
        raise UserError(
            "--reject-copied {reject_copied} is too short to speak of copying",
            hint="write {least} or more, or 0 to take all texts",
            reject_copied=config.reject_copied,
            least=SHORTEST_COPY_TOKENS,
        )
    if "" in config.stop or config.truncate == "":
        raise UserError("an empty --stop or --truncate would end every text at once", hint="leave it out")
