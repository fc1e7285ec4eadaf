"""Architecture: layers and the direction of imports, the size of modules, unique names, the public API."""

import ast
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import tunesmith
from tunesmith.config import (
    CacheConfig,
    DoctorConfig,
    EvaluateConfig,
    ExplainConfig,
    ExportConfig,
    GenerateConfig,
    ImportConfig,
    PlanConfig,
    PrepareConfig,
    PushConfig,
    ReportConfig,
    RunsConfig,
    ServeConfig,
    TokenizerExtendConfig,
    TokenizerTrainConfig,
    TrainConfig,
)
from tunesmith.config_values import flag_names

PACKAGE = Path(tunesmith.__file__).parent
_SPEC = spec_from_file_location("structure", Path(__file__).parent / "tools" / "structure.py")
assert _SPEC is not None
assert _SPEC.loader is not None
structure = module_from_spec(_SPEC)
_SPEC.loader.exec_module(structure)

LAYERS = [
    {"i18n"},
    {"errors"},
    {"config_values", "utils"},
    {"config", "monitoring", "run_dir"},
    {"commands"},
    {"backends"},
    {"model", "data"},
    {"optim"},
    {"distributed"},
    {"planning"},
    {"generation", "tokenization"},
    {"evaluation", "convert", "serving"},
    {"training"},
    {"diagnostics"},
    {"doctor", "reporting", "tracking"},
    {"dashboard"},
    {"ui"},
    {"training.train"},
    {"api_options"},
    {"api"},
    {"cli"},
    {"__main__"},
]
"""From the lowest up. A package may import from lower layers, and from itself."""

COMMAND = {"training/train.py", "training/callbacks.py"}
"""The `train` command with its callbacks: above the packages that observe a run, which import the rest of training."""


def imported_packages(path: Path) -> set[str]:
    """Packages of tunesmith that a file imports, at the top or inside functions."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tunesmith."):
            modules.add(node.module)
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names if alias.name.startswith("tunesmith.")}
    packages = {module.split(".")[1] for module in modules if f"{module[10:].replace('.', '/')}.py" not in COMMAND}
    return packages | {"training.train" for module in modules if f"{module[10:].replace('.', '/')}.py" in COMMAND}


def package_of(path: Path) -> str:
    """Package of a file; a file at the top is its own."""
    relative = path.relative_to(PACKAGE)
    return "training.train" if relative.as_posix() in COMMAND else relative.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    """A file imports from its own package or from a lower layer."""
    layer_of = {package: level for level, packages in enumerate(LAYERS) for package in packages}
    package = package_of(path)
    if package == "__init__":
        return  # the public API names what is in any layer
    upward = {other for other in imported_packages(path) - {package} if layer_of[other] >= layer_of[package]}
    assert not upward


MAX_MODULE_LINES = 600
MAX_MODULES, MAX_LINES = 200, 35_750
"""Of the whole package; lower them with the code."""


def test_modules_are_neither_too_many_nor_too_long() -> None:
    """`python -m tests.tools.structure` prints the numbers."""
    lines = structure.lines_of_modules()
    assert {path: count for path, count in lines.items() if count > MAX_MODULE_LINES} == {}
    assert len(lines) <= MAX_MODULES
    assert sum(lines.values()) <= MAX_LINES
    assert structure.median_lines() >= 100


def test_no_name_stands_for_two_things() -> None:
    """No class and no file name twice."""
    assert structure.basenames_twice() == {}
    assert structure.classes_twice() == {}


def test_the_model_knows_only_torch() -> None:
    """gpt2.py imports nothing but torch, the standard library and its own shape."""
    assert imported_packages(PACKAGE / "model" / "gpt2.py") == {"model"}
    roots = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(ast.parse((PACKAGE / "model" / "gpt2.py").read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert roots == {"torch", "math", "collections", "typing", "tunesmith"}


HEAVY = ("torch", "numpy", "transformers", "tokenizers", "huggingface_hub", "safetensors", "datasets")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["train", "--modle", "tiny"], ["--version"]])
def test_help_and_usage_errors_import_nothing_heavy(arguments: list[str]) -> None:
    """What answers at once has not waited for torch."""
    code = (
        "import sys; from tunesmith.cli import main; main(sys.argv[1:]);"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert "HEAVY []" in answer.stdout


def test_import_is_light() -> None:
    """`import tunesmith` brings neither torch nor the command line."""
    code = f"import sys, tunesmith; print([name for name in (*{HEAVY!r}, 'cyclopts') if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_public_names_are_sorted_and_there() -> None:
    """`__all__` is true."""
    assert tunesmith.__all__ == sorted(tunesmith.__all__)
    assert all(hasattr(tunesmith, name) for name in tunesmith.__all__)
    assert "torchvision" not in dir(tunesmith)
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = tunesmith.tarin


COMMON = {"json", "lang"}
COMPUTING = {"device", "precision", "seed"}
TEXT = {
    "sources",
    "split_on",
    "text_field",
    "prompt_field",
    "completion_field",
    "template",
    "encoding",
    "encoding_errors",
}
READING = TEXT | {"dedupe", "source_weights"}
TRAINING = COMMON | COMPUTING | READING | {"quiet"}
OF_RUNS_ONLY = {"resume", "verify_resume", "stop_at", "keep_gb", "sample_prompts", "dashboard", "report_to", "quiet"}
TRAINING |= {
    "model",
    "out",
    "resume",
    "from_scratch",
    "epochs",
    "max_steps",
    "learning_rate",
    "weight_decay",
    "adam_beta2",
}
TRAINING |= {"warmup_ratio", "max_grad_norm", "tokens_per_step", "context_length", "dropout", "eval_steps"}
TRAINING |= {"max_hours", "stop_at", "verify_resume", "keep_gb"}
TRAINING |= {
    "save_steps",
    "val_fraction",
    "sample_prompts",
    "report_to",
    "compile",
    "freeze",
    "memory_mode",
    "fused_backward",
    "activation_checkpointing",
}
TRAINING |= {"size", "n_layer", "n_embd", "n_head", "tokenizer", "vocab_size", "optimizer", "dashboard"}
TRAINING |= {"devices", "shard", "deterministic"}
TRAINING |= {"lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"}
FLAGS = {
    PrepareConfig: COMMON | READING | {"seed", "tokenizer", "out", "val_fraction", "preview"},
    TokenizerExtendConfig: COMMON | TEXT | {"model", "out", "words", "special_tokens", "new_tokens"},
    TokenizerTrainConfig: COMMON | TEXT | {"out", "vocab_size"},
    TrainConfig: TRAINING,
    PlanConfig: (TRAINING - OF_RUNS_ONLY) | {"vram", "gpu"},
    DoctorConfig: COMMON | {"model", "quick", "fix", "yes"},
    ExplainConfig: COMMON | {"source"},
    ExportConfig: COMMON | {"model", "out", "format", "dtype", "merge", "base"},
    PushConfig: COMMON | {"model", "repo", "private"},
    ImportConfig: COMMON | {"checkpoint", "out", "tokenizer", "activation"},
    ReportConfig: COMMON | {"seed", "run", "out", "memorization"},
    CacheConfig: COMMON | {"clear"},
    RunsConfig: COMMON | {"folder", "sort", "compare", "out"},
    EvaluateConfig: COMMON
    | COMPUTING
    | READING
    | {"model", "base", "context_length", "stride", "memorization", "training_data", "worst", "out", "devices"},
    GenerateConfig: COMMON
    | COMPUTING
    | {"quiet"}
    | {"model", "prompt", "prompts_file", "prompt_field", "num_samples", "max_new_tokens", "min_new_tokens"}
    | {"temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size", "stop", "truncate"}
    | {
        "include_prompt",
        "sample_delim",
        "reject_memorized",
        "training_data",
        "batch_size",
        "quantize",
        "out",
        "devices",
    },
    ServeConfig: COMMON
    | COMPUTING
    | {"quiet"}
    | {
        "models",
        "runs",
        "host",
        "port",
        "api_key",
        "batch_size",
        "max_queue",
        "max_new_tokens",
        "request_timeout",
        "quantize",
    }
    | {"training_data"},
}


@pytest.mark.parametrize("config", FLAGS, ids=lambda config: config.__name__)
def test_flags_are_pinned(config: type) -> None:
    """A new flag is a decision, not an accident."""
    assert set(flag_names(config)) == FLAGS[config]
