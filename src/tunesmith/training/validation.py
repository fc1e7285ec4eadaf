"""Validation of a configuration before anything is loaded; all problems are reported at once."""

from tunesmith.config import TrainConfig, TrainingConfig
from tunesmith.errors import UserError
from tunesmith.i18n import say
from tunesmith.model.gpt2_config import PROJECTIONS
from tunesmith.tokenization.train_tokenizer import MIN_VOCAB_SIZE
from tunesmith.training.from_scratch import SCRATCH_FLAGS


def validate_config(config: TrainingConfig) -> None:
    """Check what can be checked before anything is loaded.

    Raises:
        UserError: with all problems on one line.
    """

    def at_least(flag: str, value: float | str | None, least: float) -> str | None:
        wrong = isinstance(value, int | float) and not least <= value < float("inf")
        return (
            say("{flag} {value} is not a number from {least:g}", flag=flag, value=value, least=least) if wrong else None
        )

    def between(flag: str, value: float, low: float, high: float) -> str | None:
        if low <= value < high:
            return None
        return say("{flag} {value} is not in [{low:g}, {high:g})", flag=flag, value=value, low=low, high=high)

    def above_0(flag: str, value: float | str | None, below: float = float("inf")) -> str | None:
        if not isinstance(value, int | float) or 0 < value < below:
            return None
        if below < float("inf"):
            return say("{flag} {value} is not between 0 and {below:g}", flag=flag, value=value, below=below)
        return say("{flag} {value} is not above 0", flag=flag, value=value)

    def exclude_each_other(flag: str, other: str) -> str | None:
        return say("{flag} and {other} exclude each other", flag=flag, other=other)

    problems = [
        above_0("--epochs", config.epochs),
        at_least("--max-steps", config.max_steps, 1),
        above_0("--learning-rate", config.learning_rate, 1),
        at_least("--weight-decay", config.weight_decay, 0),
        above_0("--adam-beta2", config.adam_beta2, 1),
        between("--warmup-ratio", config.warmup_ratio, 0, 1),
        None if config.max_grad_norm == float("inf") else above_0("--max-grad-norm", config.max_grad_norm),
        at_least("--tokens-per-step", config.tokens_per_step, 1),
        at_least("--eval-steps", config.eval_steps, 1),
        at_least("--save-steps", config.save_steps, 1),
        at_least("--keep-gb", config.keep_gb if isinstance(config, TrainConfig) else None, 0),
        above_0("--max-hours", config.max_hours),
        between("--dropout", config.dropout, 0, 1),
        at_least("--devices", config.devices, 1),
        at_least("--lora-r", config.lora_r, 0),
        above_0("--lora-alpha", config.lora_alpha),
        between("--lora-dropout", config.lora_dropout, 0, 1),
        *(
            say("--lora-target-modules {target} is none of {names}", target=target, names=", ".join(PROJECTIONS))
            for target in config.lora_target_modules
            if target not in PROJECTIONS
        ),
        *(
            say("{flag} needs --from-scratch", flag=f"--{name.replace('_', '-')}")
            for name in SCRATCH_FLAGS
            if getattr(config, name) is not None and not config.from_scratch
        ),
        *(
            at_least(f"--{name.replace('_', '-')}", getattr(config, name), 1)
            for name in ("n_layer", "n_embd", "n_head")
        ),
        at_least("--vocab-size", config.vocab_size, MIN_VOCAB_SIZE),
        exclude_each_other("--size", "--model") if config.size and config.model != TrainingConfig.model else None,
        exclude_each_other("--tokenizer", "--vocab-size") if config.tokenizer and config.vocab_size else None,
        exclude_each_other("--lora-r", "--from-scratch") if config.lora_r and config.from_scratch else None,
        exclude_each_other("--lora-r", "--optimizer") if config.lora_r and config.optimizer == "muon" else None,
        say("--optimizer muon keeps everything in fp32: leave --memory-mode out")
        if config.optimizer == "muon" and config.memory_mode not in {"auto", "fp32"}
        else None,
        exclude_each_other("--lora-r", "--fused-backward")
        if config.lora_r and config.fused_backward == "yes"
        else None,
        say("--fused-backward yes goes with --memory-mode split-8bit, bf16-8bit or bf16-4bit, and with AdamW")
        if config.fused_backward == "yes"
        and (config.memory_mode in {"fp32", "8bit", "cpu-offload"} or config.optimizer == "muon")
        else None,
        exclude_each_other("--lora-r", "--freeze") if config.lora_r and config.freeze != "none" else None,
        exclude_each_other("--lora-r", "--memory-mode") if config.lora_r and config.memory_mode != "auto" else None,
        None
        if 0 < config.val_fraction < 1
        else say(
            "--val-fraction {fraction} is not between 0 and 1 (some samples must be held out)",
            fraction=config.val_fraction,
        ),
        None if 0 <= config.seed < 1 << 63 else say("--seed {seed} is not from 0 to 2^63 - 1", seed=config.seed),
    ]
    if problems := [problem for problem in problems if problem]:
        raise UserError(
            "{problems}", hint="see {command}", problems="; ".join(problems), command="tunesmith train --help"
        )
