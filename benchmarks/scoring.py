"""An evaluator that belongs to neither side: transformers, one sample at a time, nothing packed, nothing padded."""

from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.no_grad()
def score(model_folder: Path, lines: list[str]) -> dict[str, float]:
    """Mean cross-entropy in nats over held-out lines, end-of-text counted.

    A sample is read behind an end-of-text. Reported apart: all tokens, the text behind its first token (which a
    model that never saw end-of-text before a text can still predict), and the end-of-text behind the last.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    end_of_text = tokenizer.eos_token_id
    text_nats = first_nats = end_nats = 0.0
    text_tokens = 0
    for line in lines:
        ids = [end_of_text, *tokenizer(line)["input_ids"], end_of_text]
        logits_TV = model(torch.tensor([ids[:-1]])).logits[0]
        nats_T = F.cross_entropy(logits_TV, torch.tensor(ids[1:]), reduction="none")
        first_nats += float(nats_T[0])
        text_nats += float(nats_T[1:-1].sum())
        end_nats += float(nats_T[-1])
        text_tokens += len(ids) - 3
    tokens = text_tokens + 2 * len(lines)
    return {
        "nats_per_token": (first_nats + text_nats + end_nats) / tokens,
        "text_nats_per_token": text_nats / text_tokens,
        "end_of_text_nats": end_nats / len(lines),
        "tokens": tokens,
    }


@torch.no_grad()
def share_that_ends(model_folder: Path, *, samples: int = 50, max_new_tokens: int = 60) -> float:
    """Share of sampled texts that end by themselves within `max_new_tokens`."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    torch.manual_seed(0)
    start = torch.full((samples, 1), tokenizer.eos_token_id)
    written = model.generate(
        start,
        attention_mask=torch.ones_like(start),
        max_new_tokens=max_new_tokens,
        do_sample=True,
        temperature=0.8,
        top_p=0.95,
        top_k=0,
        pad_token_id=tokenizer.eos_token_id,
    )
    return float((written[:, 1:] == tokenizer.eos_token_id).any(dim=1).float().mean())
