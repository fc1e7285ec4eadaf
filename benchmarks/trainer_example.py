"""The Hugging Face `Trainer` example for GPT-2, changed only so far that it runs on today's transformers.

What it does is kept: one line is one sample, padded or cut to 512 tokens; the padding token is end-of-text, which the
collator therefore masks out of the loss; AdamW at 5e-5, weight decay 0.01, 3 epochs, batches of 4 samples with
gradients accumulated over 4 of them. Changed: a plain list instead of `datasets` (no download), `eval_strategy`, no
fp16 on a CPU, no progress bar.
"""

import time
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

PADDED_TOKENS = 512
BATCH_SAMPLES = 4
ACCUMULATED_BATCHES = 4


class Lines(torch.utils.data.Dataset[dict[str, list[int]]]):
    """Tokenized lines."""

    def __init__(self, lines: list[str], tokenizer: PreTrainedTokenizerBase) -> None:
        encoded = tokenizer(lines, truncation=True, padding="max_length", max_length=PADDED_TOKENS)
        self.rows = [
            {"input_ids": ids, "attention_mask": mask}
            for ids, mask in zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.rows[index]


def trainer(
    model_folder: Path, train_lines: list[str], val_lines: list[str], out: Path, **arguments: Any
) -> tuple[Trainer, PreTrainedTokenizerBase]:
    """The example's `Trainer`; `arguments` are added to its own."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    settings = {
        "output_dir": str(out / "trainer"),
        "per_device_train_batch_size": BATCH_SAMPLES,
        "per_device_eval_batch_size": BATCH_SAMPLES,
        "gradient_accumulation_steps": ACCUMULATED_BATCHES,
        "learning_rate": 5e-5,
        "weight_decay": 0.01,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "logging_steps": 500,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "fp16": torch.cuda.is_available(),
        "seed": 42,
    }
    made = Trainer(
        model=model,
        args=TrainingArguments(**{**settings, **arguments}),
        train_dataset=Lines(train_lines, tokenizer),
        eval_dataset=Lines(val_lines, tokenizer),
        data_collator=DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm=False),
    )
    return made, tokenizer


def train(model_folder: Path, train_lines: list[str], val_lines: list[str], out: Path, *, epochs: int) -> float:
    """Fine-tune as the example does and return the seconds of `Trainer.train`."""
    made, tokenizer = trainer(model_folder, train_lines, val_lines, out, num_train_epochs=epochs)
    started_s = time.perf_counter()
    made.train()
    seconds = time.perf_counter() - started_s
    made.save_model(str(out / "model"))
    tokenizer.save_pretrained(out / "model")
    return seconds
