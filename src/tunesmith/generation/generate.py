"""The verb `generate`: a model and a prompt in, texts out."""

from dataclasses import dataclass

from tunesmith.config import GenerateConfig
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.errors import UserError
from tunesmith.generation.engine import Continuation, continue_texts
from tunesmith.generation.sampling import SamplingRules
from tunesmith.machine import choose_device, choose_dtype
from tunesmith.model.config_file import read_hf_config
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hub import local_folder
from tunesmith.model.weights import load_gpt2
from tunesmith.out_of_memory import in_pieces

TEXTS_AT_ONCE = 32


@dataclass(frozen=True)
class GeneratedText:
    """One text a model wrote.

    Attributes:
        prompt: what it began with.
        text: the prompt, unless it was to be left out, and what was written.
        seed: writes the same text again.
        finish_reason: "stop" at end-of-text, "length" at a limit.
        tokens: ids that were written, without end-of-text.
        logprobs: log-probability of each in nats, under the model before temperature and filters.
    """

    prompt: str
    text: str
    seed: int
    finish_reason: str
    tokens: list[int]
    logprobs: list[float]


def generate_texts(config: GenerateConfig) -> list[GeneratedText]:
    """Load a model and write `config.num_samples` texts.

    Raises:
        UserError: if the model cannot be used or a setting is impossible.
    """
    rules = _checked_rules(config)
    device = choose_device(config.device).value
    dtype = choose_dtype(config.precision, device).value
    folder = local_folder(config.model)
    tokenizer = load_tokenizer(folder, read_hf_config(folder))
    model = load_gpt2(folder).to(device, dtype)
    model.compute_dtype = dtype
    seeds = [config.seed + number for number in range(config.num_samples)]
    texts: list[GeneratedText] = []
    for first in range(0, len(seeds), TEXTS_AT_ONCE):
        some_seeds = seeds[first : first + TEXTS_AT_ONCE]
        texts += write_texts(
            model,
            tokenizer,
            [config.prompt] * len(some_seeds),
            seeds=some_seeds,
            rules=rules,
            max_new_tokens=config.max_new_tokens,
            include_prompt=config.include_prompt,
        )
    return texts


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
    """Write one text behind each prompt; as in training, an end-of-text stands before it.

    Where memory runs out, fewer are written at once, with the same words: a text depends on its own seed only.
    """
    prompt_ids = [[tokenizer.end_of_text_id, *ids] for ids in tokenizer.encode(prompts)]

    def write(pieces: int) -> list[Continuation]:
        at_once = -(-len(prompts) // pieces)
        groups = (slice(first, first + at_once) for first in range(0, len(prompts), at_once))
        return [
            written
            for group in groups
            for written in continue_texts(
                model,
                prompt_ids[group],
                seeds=seeds[group],
                rules=rules,
                max_new_tokens=max_new_tokens,
                end_of_text_id=tokenizer.end_of_text_id,
            )
        ]

    continuations, _ = in_pieces(
        write,
        pieces=1,
        most=max(len(prompts), 1),
        what="a single text to write",
        hint="free memory, or take a shorter --max-new-tokens or a smaller model",
    )
    return [
        GeneratedText(
            prompt=prompt,
            # decoded together: a character may begin in the prompt's tokens and end in the new ones
            text=tokenizer.decode(ids[1:] + written.tokens) if include_prompt else tokenizer.decode(written.tokens),
            seed=seed,
            finish_reason=written.finish_reason,
            tokens=written.tokens,
            logprobs=written.logprobs,
        )
        for prompt, ids, seed, written in zip(prompts, prompt_ids, seeds, continuations, strict=True)
    ]


def _checked_rules(config: GenerateConfig) -> SamplingRules:
    limits = (
        ("--num-samples", config.num_samples, config.num_samples >= 1, "at least 1"),
        ("--max-new-tokens", config.max_new_tokens, config.max_new_tokens >= 1, "at least 1"),
        ("--temperature", config.temperature, 0 <= config.temperature < float("inf"), "0 (greedy) or more"),
        ("--top-k", config.top_k, config.top_k >= 0, "0 (all) or more"),
        ("--top-p", config.top_p, 0 < config.top_p <= 1, "above 0 and at most 1"),
    )
    for flag, value, allowed, rule in limits:
        if not allowed:
            raise UserError(f"{flag} {value} makes no sense", hint=f"write a number that is {rule}")
    return SamplingRules(config.temperature, config.top_k, config.top_p)
