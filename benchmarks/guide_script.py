"""The guide's script, mended only so far that it runs on today's transformers.

What it does is kept: one line is one sample, padded or cut to 512 tokens; the padding token is end-of-text, which the
collator therefore masks out of the loss; AdamW at 5e-5, weight decay 0.01, 3 epochs, batches of 4 samples with
gradients accumulated over 4 of them. Mended: a plain list instead of `datasets` (no download), `eval_strategy`, no
fp16 on a CPU, no progress bar.
"""

import time
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

PADDED_TOKENS = 512


class Lines(torch.utils.data.Dataset[dict[str, list[int]]]):
    """Tokenised lines."""

    def __init__(self, lines: list[str], tokenizer: AutoTokenizer) -> None:
        encoded = tokenizer(lines, truncation=True, padding="max_length", max_length=PADDED_TOKENS)
        self.rows = [
            {"input_ids": ids, "attention_mask": mask}
            for ids, mask in zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.rows[index]


def train(model_folder: Path, train_lines: list[str], val_lines: list[str], out: Path, *, epochs: int) -> float:
    """Fine-tune as the guide does and return the seconds of `Trainer.train`."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    arguments = TrainingArguments(
        output_dir=str(out / "trainer"),
        num_train_epochs=epochs,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        gradient_accumulation_steps=4,
        learning_rate=5e-5,
        weight_decay=0.01,
        eval_strategy="epoch",
        save_strategy="no",
        logging_steps=500,
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        fp16=torch.cuda.is_available(),
        seed=42,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Lines(train_lines, tokenizer),
        eval_dataset=Lines(val_lines, tokenizer),
        data_collator=DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm=False),
    )
    started_s = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started_s
    trainer.save_model(str(out / "model"))
    tokenizer.save_pretrained(out / "model")
    return seconds
