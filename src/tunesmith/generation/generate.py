"""The `generate` command: a model and prompts in, texts out."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from tunesmith.config import Auto, GenerateConfig
from tunesmith.data.line_files import read_prompts
from tunesmith.data.ngram_index import MIN_MATCH_TOKENS, NgramIndex
from tunesmith.data.provenance import load_training_corpus
from tunesmith.data.readers import escapes
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.distributed.consistency import check_same_inputs
from tunesmith.distributed.launcher import command_world
from tunesmith.distributed.world import World
from tunesmith.errors import UserError
from tunesmith.generation.detokenizer import IncrementalDetokenizer, StopStringMatcher
from tunesmith.generation.engine import Engine
from tunesmith.generation.loading import LoadedModel, load_for_generation, max_batch_size
from tunesmith.generation.sampling import SamplingParams
from tunesmith.generation.sequence import GenerationRequest
from tunesmith.i18n import say
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hub import local_folder
from tunesmith.utils.files import check_is_new
from tunesmith.utils.oom import in_pieces

MAX_ATTEMPTS = 10
"""To generate a text that is not memorized; texts that are after the last one are left out."""


@dataclass(frozen=True)
class TextRequest:
    """A text to generate; a stop string ends it and is left out."""

    prompt: str
    seed: int
    params: SamplingParams
    max_new_tokens: int
    min_new_tokens: int = 0
    stops: tuple[str, ...] = ()


@dataclass(frozen=True)
class GeneratedText:
    """A text that a model generated.

    Attributes:
        text: the prompt, unless it was to be left out, and what was generated, up to a stop string.
        seed: generates the same text again.
        finish_reason: "stop" at end-of-text or a stop string, "length" at the limit.
        tokens: generated ids, without end-of-text; the last ones may be a part of a stop string.
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
    """Ctrl-C during generation.

    Attributes:
        texts: finished ones, in order.
    """

    def __init__(self, texts: list[GeneratedText]) -> None:
        super().__init__()
        self.texts = texts


def generate_texts(
    config: GenerateConfig,
    *,
    on_text: Callable[[int, int], object] = lambda _done, _of: None,
    show: Callable[[str], object] | None = None,
    on_model: Callable[[str], object] = lambda _notice: None,
) -> list[GeneratedText]:
    """Load a model and generate every sample of every prompt at every temperature, in this order.

    Args:
        config: what to generate.
        on_text: called with the number of finished texts and of all.
        show: called with the pieces of a single text as they come.
        on_model: called with what computes attention, on a GPU.

    Raises:
        UserError: if the model cannot be used or a setting is impossible.
        Interrupted: at Ctrl-C, with the finished texts.
    """
    with command_world(config) as world:
        texts, is_complete = _generate_in_team(config, world, on_text, show, on_model)
    if not is_complete:
        raise Interrupted(texts)
    return texts


def _generate_in_team(
    config: GenerateConfig,
    world: World,
    on_text: Callable[[int, int], object],
    show: Callable[[str], object] | None,
    on_model: Callable[[str], object],
) -> tuple[list[GeneratedText], bool]:
    """Return the texts, in order, and whether they are complete; of several processes only the first has them."""
    requests = text_requests(config, world.broadcast_object(lambda: _prompts_of(config)))
    if config.out and world.is_main_process:
        check_is_new(Path(config.out))
    with world.main_process_first():
        folder = local_folder(config.model)
    check_same_inputs(world, "", folder)
    loaded = load_for_generation(config, world)
    if loaded.attention_notice and world.is_main_process:
        on_model(loaded.attention_notice)
    on_piece = show if len(requests) == 1 and not config.reject_memorized and world.size == 1 else None
    if on_piece and config.include_prompt:
        on_piece(requests[0].prompt)

    def generate(batch: Sequence[TextRequest]) -> list[GeneratedText]:
        return run_requests(
            loaded,
            batch,
            include_prompt=config.include_prompt,
            batch_size=config.batch_size,
            on_text=on_text,
            show=on_piece,
        )

    index = _memorization_index(config, loaded.tokenizer, world)
    own, is_complete = requests[world.rank :: world.size], True
    texts: list[GeneratedText] = []
    try:
        with _sigterm_as_interrupt(world):
            if own and index is None:
                texts = generate(own)
            elif own and index is not None:
                texts = _without_memorized(
                    generate, own, index, config.reject_memorized, n_texts=len(requests), is_all=world.size == 1
                )
    except Interrupted as interruption:
        texts, is_complete = interruption.texts, False
    if world.size == 1:
        return texts, is_complete
    results = world.gather_object({"texts": [asdict(text) for text in texts], "is_complete": is_complete})
    texts = [GeneratedText(**text) for result in results for text in result["texts"]]
    texts.sort(key=lambda text: ((text.seed - config.seed) % len(requests), config.temperature.index(text.temperature)))
    is_complete = all(result["is_complete"] for result in results)
    on_text(len(texts), len(requests))
    if world.is_main_process and is_complete and not texts:
        raise _all_memorized_error(config.reject_memorized)
    return texts, is_complete


@contextmanager
def _sigterm_as_interrupt(world: World) -> Iterator[None]:
    """With several processes Ctrl-C arrives as SIGTERM; the second time neither does anything."""
    if world.size == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except Interrupted:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise


def text_requests(config: GenerateConfig, prompts: Sequence[str] | None = None) -> list[TextRequest]:
    """Return a request for every text; seeds count up from the configured one.

    Args:
        config: of the command.
        prompts: where they were read already.

    Raises:
        UserError: if a setting is impossible or prompts cannot be read.
    """
    _check_settings(config)
    stops = tuple(escapes(stop) for stop in (*config.stop, *([config.truncate] if config.truncate else [])))
    prompts = _prompts_of(config) if prompts is None else prompts
    filters = (config.top_k, config.top_p, config.min_p, config.repetition_penalty, config.no_repeat_ngram_size)
    return [
        TextRequest(
            prompt,
            config.seed + number,
            SamplingParams(temperature, *filters),
            config.max_new_tokens,
            config.min_new_tokens,
            stops,
        )
        for number, (prompt, _) in enumerate(product(prompts, range(config.num_samples)))
        for temperature in config.temperature
    ]


def _prompts_of(config: GenerateConfig) -> list[str]:
    """Return the prompts of the flags, of the file or of standard input; an empty one where there is none."""
    if config.prompts_file is not None:
        if config.prompt:
            raise UserError("--prompt and --prompts-file exclude each other", hint="put all prompts into the file")
        return read_prompts(config.prompts_file, config.prompt_field)
    return [sys.stdin.read() if prompt == "-" else prompt for prompt in config.prompt] or [""]


def _check_settings(config: GenerateConfig) -> None:
    """Report everything that is out of range, at once."""
    min_new, ngram_size, at_least_1 = config.min_new_tokens, config.no_repeat_ngram_size, say("at least 1")
    limits = [
        ("--num-samples", config.num_samples, config.num_samples >= 1, at_least_1),
        ("--max-new-tokens", config.max_new_tokens, config.max_new_tokens >= 1, at_least_1),
        ("--min-new-tokens", min_new, 0 <= min_new <= config.max_new_tokens, say("from 0 to --max-new-tokens")),
        *(
            ("--temperature", temperature, 0 <= temperature < float("inf"), say("0 (greedy) or more"))
            for temperature in config.temperature
        ),
        ("--top-k", config.top_k, config.top_k >= 0, say("0 (all) or more")),
        ("--top-p", config.top_p, 0 < config.top_p <= 1, say("above 0 and at most 1")),
        ("--min-p", config.min_p, 0 <= config.min_p <= 1, say("from 0 (all) to 1")),
        ("--repetition-penalty", config.repetition_penalty, config.repetition_penalty > 0, say("above 0 (1 is none)")),
        ("--no-repeat-ngram-size", ngram_size, ngram_size >= 0, say("0 (off) or more")),
        ("--batch-size", config.batch_size, config.batch_size == "auto" or config.batch_size >= 1, at_least_1),
    ]
    wrong = [(flag, value, rule) for flag, value, is_allowed, rule in limits if not is_allowed]
    if wrong:
        problems = [say("{flag} {value} makes no sense", flag=flag, value=value) for flag, value, _ in wrong]
        rules = [say("{flag}: write a number that is {rule}", flag=flag, rule=rule) for flag, _, rule in wrong]
        raise UserError("{problems}", hint="{rules}", problems="; ".join(problems), rules="; ".join(rules))
    if config.reject_memorized and config.reject_memorized < MIN_MATCH_TOKENS:
        raise UserError(
            "--reject-memorized {reject_memorized} is too short for a memorized passage",
            hint="write {least} or more, or 0 to take all texts",
            reject_memorized=config.reject_memorized,
            least=MIN_MATCH_TOKENS,
        )
    if "" in config.stop or config.truncate == "":
        raise UserError("an empty --stop or --truncate would end every text at once", hint="leave it out")


def generate_batch(
    model: GPT2,
    tokenizer: TextTokenizer,
    prompts: list[str],
    *,
    seeds: list[int],
    params: SamplingParams,
    max_new_tokens: int,
    include_prompt: bool = True,
) -> list[GeneratedText]:
    """Generate one text for each prompt, with a model that is not prepared for inference."""
    requests = [TextRequest(prompt, seed, params, max_new_tokens) for prompt, seed in zip(prompts, seeds, strict=True)]
    return run_requests(LoadedModel(model, tokenizer, model.logits), requests, include_prompt=include_prompt)


def run_requests(
    loaded: LoadedModel,
    requests: Sequence[TextRequest],
    *,
    include_prompt: bool = True,
    batch_size: int | Auto = "auto",
    on_text: Callable[[int, int], object] = lambda _done, _of: None,
    show: Callable[[str], object] | None = None,
) -> list[GeneratedText]:
    """Generate the requested texts; as in training, each begins after an end-of-text.

    Where memory runs out, the batch is smaller and the texts are the same: a text depends on its own seed only.

    Raises:
        Interrupted: at Ctrl-C, with the finished texts.
    """
    tokenizer = loaded.tokenizer
    prompt_ids = [
        [tokenizer.end_of_text_id, *ids] for ids in tokenizer.encode([request.prompt for request in requests])
    ]
    positions = max(len(ids) + request.max_new_tokens for ids, request in zip(prompt_ids, requests, strict=True))
    positions = min(positions, loaded.model.config.n_positions)
    n_fitting = max_batch_size(loaded.model, positions) if batch_size == "auto" else batch_size
    n_fitting = min(n_fitting, len(requests))
    finished: dict[int, GeneratedText] = {}

    def generate(pieces: int) -> bool:
        finished.clear()
        engine = Engine(
            loaded.model,
            end_of_text_id=tokenizer.end_of_text_id,
            batch_size=-(-n_fitting // pieces),
            positions=positions,
            logits=loaded.logits,
        )
        matchers = []
        for request, ids in zip(requests, prompt_ids, strict=True):
            matcher = StopStringMatcher(IncrementalDetokenizer(tokenizer, ids[1:]), request.stops, show)
            matchers.append(matcher)
            engine.submit(
                GenerationRequest(
                    ids, request.seed, request.params, request.max_new_tokens, request.min_new_tokens, matcher
                )
            )
        with closing(engine):
            for number, output in engine.run():
                matchers[number].end()
                request, new_text = requests[number], matchers[number].text
                finished[number] = GeneratedText(
                    prompt=request.prompt,
                    text=request.prompt + new_text if include_prompt else new_text,
                    seed=request.seed,
                    temperature=request.params.temperature,
                    finish_reason=output.finish_reason,
                    tokens=output.tokens,
                    logprobs=output.logprobs,
                )
                on_text(len(finished), len(requests))
        return True

    try:
        in_pieces(
            generate,
            pieces=1,
            most=n_fitting,
            what=say("a single text to generate"),
            hint=say("free memory, or take a shorter --max-new-tokens or a smaller model"),
        )
    except KeyboardInterrupt:
        raise Interrupted([finished[number] for number in sorted(finished)]) from None
    return [finished[number] for number in range(len(requests))]


def _memorization_index(config: GenerateConfig, tokenizer: TextTokenizer, world: World) -> NgramIndex | None:
    """Index the training text that no text may repeat; None where every text is taken."""
    if not config.reject_memorized:
        return None
    with world.main_process_first():
        return NgramIndex(load_training_corpus(local_folder(config.model), tokenizer, config.training_data).train)


def _without_memorized(
    generate: Callable[[Sequence[TextRequest]], list[GeneratedText]],
    requests: Sequence[TextRequest],
    index: NgramIndex,
    min_tokens: int,
    *,
    n_texts: int,
    is_all: bool,
) -> list[GeneratedText]:
    """Generate texts, with other seeds where they repeat training text; those that do in every attempt are left out.

    Args:
        generate: runs requests.
        requests: in the order of the result.
        index: of the training text.
        min_tokens: this many tokens in a row are memorized.
        n_texts: how many are requested in all processes.
        is_all: whether `requests` are all of them, so that none left is an error.

    Raises:
        UserError: if all of them repeat training text in every attempt.
    """
    accepted: dict[int, GeneratedText] = {}
    numbers = list(range(len(requests)))
    for attempt in range(MAX_ATTEMPTS):
        # seeds beyond those of all other texts, so that no two texts ever share one
        retried = [replace(requests[n], seed=requests[n].seed + attempt * n_texts) for n in numbers]
        try:
            texts = generate(retried)
        except Interrupted:
            raise Interrupted([accepted[number] for number in sorted(accepted)]) from None
        accepted |= {
            number: text
            for number, text in zip(numbers, texts, strict=True)
            if all(copy.tokens < min_tokens for copy in index.find_matches(text.tokens))
        }
        numbers = [n for n in numbers if n not in accepted and requests[n].params.temperature > 0]
        if not numbers:
            break
    if not accepted and is_all:
        raise _all_memorized_error(min_tokens)
    return [accepted[number] for number in sorted(accepted)]


def _all_memorized_error(min_tokens: int) -> UserError:
    return UserError(
        "every text repeats {n_tokens} tokens in a row of the training text, in {attempts} attempts",
        hint="raise --temperature or --reject-memorized; the model may be overfitted: train it for fewer epochs",
        n_tokens=min_tokens,
        attempts=MAX_ATTEMPTS,
    )
