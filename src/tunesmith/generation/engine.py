"""Write text: prompts in, continuations out, with a key-value cache and without padding.

All texts of a call are written side by side; each has its own random generator, so what it becomes depends on
its seed and prompt, not on its neighbours. A text ends at end-of-text, at its length limit, or where the model's
positions end.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch

from tunesmith.errors import UserError
from tunesmith.generation.cache import DecodeAttention, KeyValueCache, PrefillAttention
from tunesmith.generation.sampling import SamplingRules, choose_token
from tunesmith.model.attention import DocumentLayout, attention_over
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.packed import inference


@dataclass(frozen=True)
class Continuation:
    """What was written behind one prompt.

    Attributes:
        tokens: ids, without end-of-text.
        logprobs: log-probability of each in nats, under the model before temperature and filters.
        finish_reason: "stop" at end-of-text, "length" at a limit.
    """

    tokens: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]


def continue_texts(
    model: GPT2,
    prompts: list[list[int]],
    *,
    seeds: list[int],
    rules: SamplingRules,
    max_new_tokens: int,
    end_of_text_id: int,
) -> list[Continuation]:
    """Continue each prompt.

    Args:
        model: on its device, in evaluation mode or not: dropout is off here.
        prompts: token ids of each, none empty (begin with end-of-text to start a text from nothing).
        seeds: one for each prompt.
        rules: how to choose tokens.
        max_new_tokens: longest continuation.
        end_of_text_id: ends a text.

    Raises:
        UserError: if a prompt leaves no room for even one token.
    """
    longest_prompt = max(map(len, prompts))
    room = model.config.n_positions + 1 - longest_prompt
    if room < 1:
        raise UserError(
            f"the prompt has {longest_prompt} tokens, and the model reads at most {model.config.n_positions}",
            hint="shorten the prompt",
        )
    max_new_tokens = min(max_new_tokens, room)
    writers = [_Writer(end_of_text_id, torch.Generator().manual_seed(seed)) for seed in seeds]
    cache = KeyValueCache(
        model.config,
        texts=len(prompts),
        positions=longest_prompt + max_new_tokens,
        dtype=torch.float32 if model.config.reorder_and_upcast_attn else model.compute_dtype,
        device=model.head_VC.device,
    )
    with inference(model):
        logits_BV = _read_prompts(model, prompts, cache)
        for number in range(1, max_new_tokens + 1):
            _refuse_no_numbers(logits_BV)
            next_tokens = [
                writer.write(logits_V, rules) for writer, logits_V in zip(writers, logits_BV.cpu(), strict=True)
            ]
            if number == max_new_tokens or all(writer.stopped for writer in writers):
                break
            logits_BV = _read_one_token_each(model, next_tokens, cache)
    return [Continuation(writer.tokens, writer.logprobs, "stop" if writer.stopped else "length") for writer in writers]


@dataclass
class _Writer:
    """One text while it is written."""

    end_of_text_id: int
    generator: torch.Generator
    stopped: bool = False
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def write(self, logits_V: torch.Tensor, rules: SamplingRules) -> int:
        """Choose the next token and return what the model is to read: end-of-text once the text has stopped."""
        if self.stopped:
            return self.end_of_text_id
        token, logprob = choose_token(logits_V, rules, self.generator)
        self.stopped = token == self.end_of_text_id
        if not self.stopped:
            self.tokens.append(token)
            self.logprobs.append(logprob)
        return token


def _refuse_no_numbers(logits_BV: torch.Tensor) -> None:
    if not torch.isfinite(logits_BV).all():
        raise UserError(
            "the model computes no numbers (NaN or infinity): its weights are damaged or the precision is too low",
            hint="try --precision fp32; if that does not help, get or train the model again",
        )


def _read_prompts(model: GPT2, prompts: list[list[int]], cache: KeyValueCache) -> torch.Tensor:
    """Logits behind each prompt, [B, V]; the cache is filled."""
    lengths_B = torch.tensor([len(prompt) for prompt in prompts])
    ends_B = lengths_B.cumsum(0)
    layout = DocumentLayout.of((0, *ends_B.tolist()))
    tokens_N = torch.tensor([token for prompt in prompts for token in prompt])
    positions_N = torch.cat([torch.arange(len(prompt)) for prompt in prompts])
    device = model.head_VC.device
    attend = PrefillAttention(cache, layout, attention_over(layout, device, model.attention_dtype))
    hidden_NC = model(tokens_N.to(device), positions_N.to(device), attend.of_layer)
    return model.logits(hidden_NC[ends_B - 1])


def _read_one_token_each(model: GPT2, tokens: list[int], cache: KeyValueCache) -> torch.Tensor:
    """Logits behind one more token of each text, [B, V]; the cache grows by one position."""
    tokens_B = torch.tensor(tokens, device=model.head_VC.device)
    # A stopped text goes on reading end-of-text unseen; its position must stay inside the table.
    positions_B = cache.lengths_B.clamp(max=model.config.n_positions - 1)
    hidden_BC = model(tokens_B, positions_B, DecodeAttention(cache).of_layer)
    cache.lengths_B += 1
    return model.logits(hidden_BC)
