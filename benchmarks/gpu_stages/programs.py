"""Whole programs: the tests that need a GPU, the command line, and `Trainer` of transformers beside tunesmith."""

import os
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpu_stages.running import Case, Result, Setting, a_gpu
from gpu_stages.training import training
from gpu_stages.workloads import SIZES, memory, wait

ROOT = Path(__file__).parents[2]
COMMAND_LIMIT_S, TESTS_LIMIT_S = 90.0, 100.0
SKIPPED_STEPS = 10
EXAMPLE_TOKENS, TEXT = 512, "night after night, the lamp. " * 9
TEXT_TOKENS = len(TEXT)
"""A byte each: the texts fill half of a padded sample."""


def gpu_tests(_setting: Setting) -> Result:
    """The project's tests that are marked `gpu`, with whatever pytest is here."""
    marked = sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if "mark.gpu" in path.read_text("utf-8")
    )
    arguments = ["-q", "-p", "no:cacheprovider", "-m", "gpu", *marked]
    if int(version("pytest").split(".")[0]) < 9:  # the project's settings ask for pytest 9
        arguments += ["-c", os.devnull, "--rootdir=.", "--import-mode=importlib"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=TESTS_LIMIT_S,
        check=False,
    )
    status = "pass" if done.returncode == 0 else "fail"
    if status == "pass" and " passed" not in done.stdout:
        return {"status": "skipped", "reason": "every test was skipped", "output": done.stdout[-300:]}
    return {
        "status": status,
        "exit_code": done.returncode,
        "files": marked,
        "output": (done.stdout + done.stderr)[-900:],
    }


def command_line(setting: Setting, name: str) -> Result:
    """One command, as a person types it, on the packaged model."""
    folder = setting.folder / ("verified" if "verified" in name else "run")
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text.txt"
    lines = 3000 if setting.is_gpu else 400
    text.write_text("".join(f"night {i}: the lamp burns, ship {i % 7} went by\n" for i in range(lines)), "utf-8")
    device = ["--device", setting.torch_device.type]
    train = ["train", str(text), "--model", "tiny", "--out", str(folder / "run"), "--compile", "no", *device]
    steps = ["--max-steps", "30" if setting.is_gpu else "3"]
    ended: list[subprocess.CompletedProcess[str]] = []
    if name == "generate":  # from what the case before this one trained
        ended.append(_tunesmith(["generate", str(folder / "run"), "--max-new-tokens", "20", "--quiet", *device]))
    elif name == "resume verified":
        deterministic = ["--deterministic"] if setting.is_gpu and _has_flag("--deterministic") else []
        ended.append(_tunesmith([*train, "--max-steps", "4", "--verify-resume", "--quiet", *deterministic]))
    else:
        ended.append(_tunesmith([*train, *steps, "--quiet"]))
    last = ended[-1]
    is_right = all(done.returncode == 0 for done in ended)
    if name == "generate":
        is_right &= bool(last.stdout.strip())
    found: Result = {"exit_codes": [done.returncode for done in ended], "output": last.stdout[-400:]}
    return {"status": "pass" if is_right else "fail", **found, "errors": last.stderr[-600:]}


def _tunesmith(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tunesmith", *arguments],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=COMMAND_LIMIT_S,
        check=False,
    )


def _has_flag(flag: str) -> bool:
    return flag in _tunesmith(["train", "--help"]).stdout


def _environment() -> dict[str, str]:
    """The same packages, without a network."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def peer(setting: Setting, *, tuned: bool) -> Result:
    """`Trainer`: as the example runs it, or by somebody who knows it well; the first steps are left out."""
    import trainer_example
    import tuned_trainer
    from transformers import GPT2Config as HFConfig
    from transformers import GPT2LMHeadModel, TrainerCallback

    device, folder = setting.torch_device, setting.folder / ("tuned" if tuned else "example")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_tokenizer()
    shape = dict(zip(("n_layer", "n_embd", "n_head"), SIZES["gpt2" if setting.is_gpu else "tiny"], strict=True))
    vocabulary = 50_257 if setting.is_gpu else len(tokenizer)
    GPT2LMHeadModel(HFConfig(vocab_size=vocabulary, **shape)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    skipped = SKIPPED_STEPS if setting.is_gpu else 1
    steps = skipped + (30 if setting.is_gpu else 1)
    ends_s: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
        def on_step_end(self, *_arguments: Any, **_others: Any) -> None:
            wait(device)
            ends_s.append(time.perf_counter())

    if tuned:
        windows = 32 if setting.is_gpu else 4
        made = tuned_trainer.trainer(
            folder / "model",
            [TEXT] * (windows * 4 * (steps + 1) * EXAMPLE_TOKENS // TEXT_TOKENS),
            folder,
            max_steps=steps,
            per_device_train_batch_size=windows,
            torch_compile=setting.is_gpu,
        )
        filled = 1.0
    else:
        texts = [TEXT] * 16 * (steps + 1)
        made, _ = trainer_example.trainer(
            folder / "model", texts, texts[:1], folder, eval_strategy="no", max_steps=steps, fp16=setting.is_gpu
        )
        filled = TEXT_TOKENS / EXAMPLE_TOKENS
    made.add_callback(Clock())
    made.train()
    arguments = made.args
    a_step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * EXAMPLE_TOKENS
    rate = a_step * (len(ends_s) - skipped) / (ends_s[-1] - ends_s[skipped - 1])
    return {
        "computed_tokens_per_s": rate,
        "useful_tokens_per_s": rate * filled,
        "tokens_per_step": a_step,
        **memory(device),
    }


def ours(setting: Setting, *, lengths: tuple[int, int], compiled: bool) -> Result:
    """Tunesmith on the same samples; as many tokens a step as the tuned `Trainer`."""
    found = training(setting, lengths=lengths, compiled=compiled, tokens=32_768, micro_batches=2)
    return {**found, "useful_tokens_per_s": found["tokens_per_s"]}


def byte_tokenizer() -> Any:
    """A tokenizer whose tokens are bytes: no file of GPT-2's own is needed."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate([*alphabet, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")  # noqa: S106


GPU_TESTS = (Case("tests marked gpu", gpu_tests),)
COMMANDS = tuple(Case(name, partial(command_line, name=name)) for name in ("train", "resume verified", "generate"))
TRAINER = (
    Case("half of 512, tunesmith", partial(ours, lengths=(TEXT_TOKENS, TEXT_TOKENS), compiled=False)),
    Case("half of 512, the `Trainer` example", partial(peer, tuned=False)),
    Case("windows of 512, tunesmith", partial(ours, lengths=(EXAMPLE_TOKENS, EXAMPLE_TOKENS), compiled=False)),
    Case("windows of 512, Trainer tuned", partial(peer, tuned=True)),
    Case(
        "windows of 512, tunesmith compiled",
        partial(ours, lengths=(EXAMPLE_TOKENS, EXAMPLE_TOKENS), compiled=True),
        a_gpu,
    ),
)
