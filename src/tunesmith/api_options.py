"""Options of the functions in `tunesmith.api`, for type checkers and editors.

Generated from `tunesmith/config.py` by `python recipes/api_options.py`; do not edit.
"""

from collections.abc import Iterable
from os import PathLike
from typing import Literal, TypedDict

from tunesmith.config import (
    ActivationCheckpointing,
    Auto,
    AutoYesNo,
    Language,
    MemoryMode,
    Precision,
    ShapeName,
    TrackerName,
)

Path = str | PathLike[str]


class _TextKeys(TypedDict, total=False):
    """Options of `tunesmith.config.TextConfig`."""

    split_on: Path
    text_field: Path | None
    prompt_field: Path | None
    completion_field: Path | None
    template: Path
    encoding: Path
    encoding_errors: Literal["strict", "replace", "skip"]


class _ReadingKeys(_TextKeys, total=False):
    """Options of `tunesmith.config.ReadingConfig`."""

    dedupe: Literal["none", "exact", "near"]
    source_weights: float | Iterable[float]


class _CommonKeys(TypedDict, total=False):
    """Options of `tunesmith.config.CommonConfig`."""

    lang: Language


class _SeedKeys(_CommonKeys, total=False):
    """Options of `tunesmith.config._SeedConfig`."""

    seed: int


class _QuietKeys(_CommonKeys, total=False):
    """Options of `tunesmith.config._QuietConfig`."""

    quiet: bool


class _ComputingKeys(_SeedKeys, total=False):
    """Options of `tunesmith.config.ComputingConfig`."""

    device: Path
    precision: Precision


class _TrainingKeys(_ComputingKeys, _ReadingKeys, total=False):
    """Options of `tunesmith.config.TrainingConfig`."""

    model: Path
    deterministic: bool
    from_scratch: bool
    size: ShapeName | None
    n_layer: int | None
    n_embd: int | None
    n_head: int | None
    tokenizer: Path | None
    vocab_size: int | None
    optimizer: Literal["auto", "adamw", "muon"]
    epochs: float
    max_steps: int | None
    max_hours: float | None
    learning_rate: float | Auto
    weight_decay: float | Auto
    adam_beta2: float | Auto
    warmup_ratio: float
    max_grad_norm: float
    tokens_per_step: int | Auto
    context_length: int | Auto
    lora_r: int
    lora_alpha: float | Auto
    lora_dropout: float
    lora_target_modules: Path | Iterable[Path]
    freeze: Literal["none", "embeddings"] | int
    memory_mode: Auto | MemoryMode
    fused_backward: AutoYesNo
    activation_checkpointing: Auto | ActivationCheckpointing
    devices: int
    shard: AutoYesNo
    compile: AutoYesNo
    dropout: float
    eval_steps: int | Auto
    save_steps: int | Auto
    val_fraction: float


class DoctorOptions(_CommonKeys, total=False):
    """Options of `tunesmith.config.DoctorConfig`."""


class PrepareOptions(_SeedKeys, _ReadingKeys, total=False):
    """Options of `tunesmith.config.PrepareConfig`."""

    tokenizer: Path
    out: Path | None
    val_fraction: float
    preview: int


class TokenizerTrainOptions(_CommonKeys, _TextKeys, total=False):
    """Options of `tunesmith.config.TokenizerTrainConfig`."""

    vocab_size: int


class TokenizerExtendOptions(_CommonKeys, _TextKeys, total=False):
    """Options of `tunesmith.config.TokenizerExtendConfig`."""

    words: Path | None
    special_tokens: Path | Iterable[Path]
    new_tokens: int


class PlanOptions(_TrainingKeys, total=False):
    """Options of `tunesmith.config.PlanConfig`."""

    out: Path
    vram: Path | None
    gpu: Path | None


class TrainOptions(_QuietKeys, _TrainingKeys, total=False):
    """Options of `tunesmith.config.TrainConfig`."""

    resume: bool
    verify_resume: bool
    stop_at: Path | None
    keep_gb: float | None
    sample_prompts: Path | None
    dashboard: bool
    report_to: TrackerName | Iterable[TrackerName]


class EvaluateOptions(_ComputingKeys, _ReadingKeys, total=False):
    """Options of `tunesmith.config.EvaluateConfig`."""

    base: Path | None
    context_length: int | Auto
    stride: int | Auto
    memorization: int
    training_data: Path | Iterable[Path]
    worst: int
    devices: int
    out: Path | None


class GenerateOptions(_ComputingKeys, _QuietKeys, total=False):
    """Options of `tunesmith.config.GenerateConfig`."""

    prompt: Path | Iterable[Path]
    prompts_file: Path | None
    prompt_field: Path | None
    num_samples: int
    max_new_tokens: int
    min_new_tokens: int
    temperature: float | Iterable[float]
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    stop: Path | Iterable[Path]
    truncate: Path | None
    include_prompt: bool
    sample_delim: Path | None
    reject_memorized: int
    training_data: Path | Iterable[Path]
    batch_size: int | Auto
    quantize: Literal["none", "int8"]
    devices: int
    out: Path | None


class ExportOptions(_CommonKeys, total=False):
    """Options of `tunesmith.config.ExportConfig`."""

    format: Literal["gguf", "onnx", "safetensors", "nanogpt"] | None
    dtype: Literal["auto", "f32", "f16", "bf16", "q8_0"]
    merge: bool
    base: Path | None


class ImportOptions(_CommonKeys, total=False):
    """Options of `tunesmith.config.ImportConfig`."""

    tokenizer: Path | None
    activation: Literal["auto", "gelu", "gelu_new"]


class PushOptions(_CommonKeys, total=False):
    """Options of `tunesmith.config.PushConfig`."""

    private: bool


class ServeOptions(_ComputingKeys, _QuietKeys, total=False):
    """Options of `tunesmith.config.ServeConfig`."""

    runs: Path | None
    host: Path
    port: int
    api_key: Path | None
    batch_size: int | Auto
    max_queue: int
    max_new_tokens: int
    request_timeout: float
    quantize: Literal["none", "int8"]
    training_data: Path | Iterable[Path]


class ReportOptions(_SeedKeys, total=False):
    """Options of `tunesmith.config.ReportConfig`."""

    out: Path | None
    memorization: int


class RunsOptions(_CommonKeys, total=False):
    """Options of `tunesmith.config.RunsConfig`."""

    sort: Literal["time", "perplexity", "name"]
    out: Path | None


class CacheOptions(_CommonKeys, total=False):
    """Options of `tunesmith.config.CacheConfig`."""

    clear: bool


class ExplainOptions(_CommonKeys, total=False):
    """Options of `tunesmith.config.ExplainConfig`."""
