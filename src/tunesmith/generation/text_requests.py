"""What `generate` was asked for, text by text; what makes no sense is refused."""

import sys
from collections.abc import Sequence
from itertools import product

from tunesmith.config import GenerateConfig
from tunesmith.data.line_files import read_prompts
from tunesmith.data.ngram_index import MIN_MATCH_TOKENS
from tunesmith.data.readers import escapes
from tunesmith.errors import UserError
from tunesmith.generation.sampling import SamplingRules
from tunesmith.generation.write_texts import TextRequest
from tunesmith.messages.catalogue import say


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
    prompts = prompts_of(config) if prompts is None else prompts
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


def prompts_of(config: GenerateConfig) -> list[str]:
    """The prompts of the flags, of the file or of standard input; an empty one where there is none.

    Raises:
        UserError: if they cannot be read.
    """
    if config.prompts_file is not None:
        if config.prompt:
            raise UserError("--prompt and --prompts-file exclude each other", hint="put all prompts into the file")
        return read_prompts(config.prompts_file, config.prompt_field)
    return [sys.stdin.read() if prompt == "-" else prompt for prompt in config.prompt] or [""]


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
    if config.reject_copied and config.reject_copied < MIN_MATCH_TOKENS:
        raise UserError(
            "--reject-copied {reject_copied} is too short to speak of copying",
            hint="write {least} or more, or 0 to take all texts",
            reject_copied=config.reject_copied,
            least=MIN_MATCH_TOKENS,
        )
    if "" in config.stop or config.truncate == "":
        raise UserError("an empty --stop or --truncate would end every text at once", hint="leave it out")
