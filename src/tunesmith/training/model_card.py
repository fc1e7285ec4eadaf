"""The model card: README.md of a model folder, filled from the run."""

from pathlib import Path
from typing import Any

from tunesmith.model.hub import PRESETS
from tunesmith.training.plan import TrainPlan
from tunesmith.training.state import TrainState

SHOWN_SOURCES = 3

TEMPLATE = """\
---
library_name: transformers
pipeline_tag: text-generation
{base_model}tags:
- gpt2
- tunesmith
---

# {name}

{what} on {samples:,} samples ({tokens:,} tokens) of {sources} with tunesmith {version}.

| | validation perplexity |
|---|---|
| {base} before training | {base_perplexity:.2f} |
| this model, after step {best_step:,} of {steps:,} | **{perplexity:.2f}** |

Measured on {val_samples:,} samples ({val_tokens:,} tokens) that were not trained on: {method}.

## Use it

```python
from transformers import pipeline

write = pipeline("text-generation", model="PATH/TO/THIS/FOLDER")
print(write("")[0]["generated_text"])
```

or, faster, `tunesmith generate PATH/TO/THIS/FOLDER -n 5`.

## How it was made

| setting | value |
|---|---|
| optimizer | {optimizer_name}, learning rate {learning_rate:g}, weight decay {weight_decay:g}, \
gradient norm at most {max_grad_norm:g} |
| schedule | {warmup_steps:,} steps of warm-up, then linear decay; {steps:,} steps, {epochs:g} epochs |
| effective batch | {tokens_per_step:,} tokens, samples packed, attention inside each sample only |
| context | {context_length:,} tokens |
| arithmetic | {precision}, fp32 master weights, on {device_name} |
| seed | {seed} |
"""


def model_card(
    *,
    name: str,
    base: str,
    from_scratch: bool,
    plan: TrainPlan,
    state: TrainState,
    data: dict[str, Any],
    version: str,
    method: str,
) -> str:
    """Return Markdown with the front matter that the Hugging Face Hub reads.

    Args:
        name: of the model folder.
        base: the MODEL that training started from.
        from_scratch: whether only its shape was used.
        plan: of the run.
        state: with the best model's perplexity.
        data: the corpus's manifest.
        version: of tunesmith.
        method: of measuring perplexity.
    """
    hub_id = PRESETS.get(base, "")
    shown = _plain(Path(base).name if Path(base).is_dir() else base)  # the user's folders exist nowhere else
    return TEMPLATE.format(
        base_model=f"base_model: {hub_id}\n" if hub_id and not from_scratch else "",
        name=_plain(name),
        what=f"Trained from scratch in the shape of {shown}" if from_scratch else f"{shown}, fine-tuned",
        samples=plan.train_samples,
        tokens=plan.train_tokens,
        sources=_names([source["name"] for source in data["sources"]]),
        version=version,
        optimizer_name="Muon and AdamW" if plan.optimizer == "muon" else "AdamW",
        base="fresh weights" if from_scratch else shown,
        base_perplexity=state.base_perplexity,
        best_step=state.best_step,
        perplexity=state.best_perplexity,
        method=method,
        **{key: value for key, value in vars(plan).items() if key != "reasons"},
    )


def _names(names: list[str]) -> str:
    shown = ", ".join(f"`{_plain(name)}`" for name in names[:SHOWN_SOURCES])
    return shown if len(names) <= SHOWN_SOURCES else f"{shown} and {len(names) - SHOWN_SOURCES} more files"


def _plain(text: str) -> str:
    """Names come from users' files: nothing in them may act as markup."""
    return "".join(character if character not in "`<>|[]\r\n" else "_" for character in text)
