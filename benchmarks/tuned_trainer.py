"""`Trainer` as somebody who knows it well would run it: nothing padded, bf16, fused AdamW, compiled.

Texts stand behind one another with end-of-text between them and are cut into windows of 512 tokens, all of which are
learned; attention crosses the borders of texts, as it does in every such script. What the `Trainer` example does
otherwise is kept: batches of 4 windows, gradients accumulated over 4 of them.
"""

from pathlib import Path
from typing import Any

import torch
from trainer_example import ACCUMULATED_BATCHES, BATCH_SAMPLES, PADDED_TOKENS
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    default_data_collator,
)


class Windows(torch.utils.data.Dataset[dict[str, list[int]]]):
    """Windows of one long stream of tokens."""

    def __init__(self, texts: list[str], tokenizer: PreTrainedTokenizerBase) -> None:
        ids: list[int] = []
        for encoded in tokenizer(texts)["input_ids"]:
            ids += [*encoded, tokenizer.eos_token_id]
        starts = range(0, len(ids) - PADDED_TOKENS + 1, PADDED_TOKENS)
        self.rows = [ids[start : start + PADDED_TOKENS] for start in starts]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def trainer(model_folder: Path, texts: list[str], out: Path, **arguments: Any) -> Trainer:
    """The well-tuned `Trainer`; `arguments` are added to its own."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop"):
        setattr(model.config, name, 0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    settings = {
        "output_dir": str(out / "tuned"),
        "per_device_train_batch_size": BATCH_SAMPLES,
        "gradient_accumulation_steps": ACCUMULATED_BATCHES,
        "learning_rate": 5e-5,
        "weight_decay": 0.01,
        "save_strategy": "no",
        "logging_steps": 500,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": True,
        "optim": "adamw_torch_fused",
        "torch_compile": True,
        "seed": 42,
    }
    return Trainer(
        model=model,
        args=TrainingArguments(**{**settings, **arguments}),
        train_dataset=Windows(texts, tokenizer),
        data_collator=default_data_collator,
    )
