"""Writing on this machine's CPU: `transformers.generate` and ours, and the limit that memory sets.

    python benchmarks/generate.py --model GPT2_124M_FOLDER [--quick]

Every side runs in a process of its own, one after the other, greedily, a fixed number of new tokens for each text.
Three questions:

- New tokens per second with 1, 8 and 64 texts side by side, with bf16 weights and with int8 ones. Where a processor
  does not multiply bf16 by itself, transformers is faster in fp32: both are measured, and ratios are to the faster.
- At 1 text: which share is that of the bound, the measured reading speed of memory over the bytes of all matrices?
- 1,000 different prompts from a file: `tunesmith generate --prompts-file` from start to end, model loading included,
  against a loop over `pipeline`, which is timed on the first prompts only and without loading its model.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from record import keep

SIDE_BY_SIDE = {1: 5, 8: 3, 64: 1}
"""How many texts, and how often that is measured: a machine that others use, too, is not always as fast."""
PROMPT = "The keeper climbed the stairs and"
NEW_TOKENS = 128
PROMPTS = 1000
PIPELINE_PROMPTS = 20
PROMPT_NEW_TOKENS = 40
READ_BYTES = 1 << 30


def main() -> None:
    """Measure all sides and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it works; nothing is kept")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(SIDES[arguments.side](arguments.model, arguments.quick)))
        return
    sides = {}
    for side in SIDES:
        sides[side] = in_own_process(side, arguments.model, quick=arguments.quick)
        print(side, sides[side], flush=True)
    result = {"sides": sides, "ratios": ratios(sides)}
    print(json.dumps(result["ratios"], indent=2))
    if not arguments.quick:
        print(keep("generate", result))


def ratios(sides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What is compared."""
    ours, int8 = (sides[name]["tokens_per_s"] for name in ("ours", "ours int8"))
    peers = [sides[name]["tokens_per_s"] for name in ("transformers", "transformers fp32")]
    return {
        "against_transformers": {n: ours[n] / max(peer[n] for peer in peers) for n in ours},
        "against_transformers_in_bf16": {n: ours[n] / peers[0][n] for n in ours},
        "int8_against_bf16": {n: int8[n] / ours[n] for n in ours},
        "share_of_memory_bound": ours["1"] / sides["memory"]["bound_tokens_per_s"],
        "prompts_file_against_pipeline_loop": (
            sides["prompts file"]["texts_per_s"] / sides["pipeline loop"]["texts_per_s"]
        ),
    }


def in_own_process(side: str, model: Path, *, quick: bool) -> dict[str, Any]:
    """So that neither side's memory and threads trouble the other."""
    command = [sys.executable, __file__, "--model", str(model), "--side", side, *(["--quick"] if quick else [])]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return result


def rates(write: Callable[[int, int], int], *, quick: bool) -> dict[str, Any]:
    """Tokens per second at best; `write` is told how many texts of how many tokens, and says how many it wrote."""
    measured = {}
    for n_texts, times in SIDE_BY_SIDE.items():
        n_new = NEW_TOKENS // (8 if quick else 1)
        write(n_texts, 4)  # kernels are prepared and pages are touched
        fastest = 0.0
        for _ in range(times):
            started_s = time.perf_counter()
            n_tokens = write(n_texts, n_new)
            fastest = max(fastest, n_tokens / (time.perf_counter() - started_s))
        measured[str(n_texts)] = fastest
    return {"tokens_per_s": measured}


def transformers_side(model: Path, quick: bool, dtype: str = "bfloat16") -> dict[str, Any]:  # noqa: FBT001
    """`generate` with its default cache."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()

    def write(n_texts: int, n_new: int) -> int:
        ids = tokenizer([PROMPT] * n_texts, return_tensors="pt")
        out = network.generate(
            **ids, do_sample=False, min_new_tokens=n_new, max_new_tokens=n_new, pad_token_id=tokenizer.eos_token_id
        )
        return int(out[:, ids["input_ids"].shape[1] :].numel())

    return rates(write, quick=quick)


def our_side(model: Path, quick: bool, quantize: str = "none") -> dict[str, Any]:  # noqa: FBT001
    """The engine of `tunesmith generate`."""
    from tunesmith.config import GenerateConfig
    from tunesmith.generation.generate import run_requests, text_requests
    from tunesmith.generation.loading import load_for_generation

    config = {"precision": "bf16", "device": "cpu", "quantize": quantize, "temperature": 0.0, "prompt": PROMPT}
    writer = load_for_generation(GenerateConfig(str(model), **config))

    def write(n_texts: int, n_new: int) -> int:
        asked = GenerateConfig(str(model), **config, num_samples=n_texts, max_new_tokens=n_new, min_new_tokens=n_new)
        return sum(len(text.tokens) for text in run_requests(writer, text_requests(asked)))

    return rates(write, quick=quick)


def memory_bound(model: Path, quick: bool) -> dict[str, Any]:  # noqa: FBT001
    """How fast memory is read, and how many tokens a second that allows when each reads all matrices in bf16."""
    import torch

    from tunesmith.model.hf_config import parse_hf_config, read_hf_config

    numbers = torch.ones(READ_BYTES // 4 // (4 if quick else 1), dtype=torch.float32)
    fastest_s = float("inf")
    for _ in range(20):
        started_s = time.perf_counter()
        numbers.sum()
        fastest_s = min(fastest_s, time.perf_counter() - started_s)
    bytes_per_s = numbers.nbytes / fastest_s
    weight_bytes = 2 * parse_hf_config(read_hf_config(model), origin=str(model)).matrix_parameters
    return {
        "bytes_per_s": bytes_per_s,
        "weight_bytes": weight_bytes,
        "bound_tokens_per_s": bytes_per_s / weight_bytes,
        "threads": torch.get_num_threads(),
    }


def prompts() -> list[str]:
    """Different beginnings."""
    return [f"Night {number}. The lamp was lit at dusk, and" for number in range(PROMPTS)]


def pipeline_loop(model: Path, quick: bool) -> dict[str, Any]:  # noqa: FBT001
    """One prompt after the other, as most scripts do it."""
    from transformers import pipeline

    write = pipeline("text-generation", model=str(model), device="cpu")
    write(PROMPT, max_new_tokens=4)
    some = prompts()[: 2 if quick else PIPELINE_PROMPTS]
    started_s = time.perf_counter()
    for prompt in some:
        write(prompt, max_new_tokens=PROMPT_NEW_TOKENS, min_new_tokens=PROMPT_NEW_TOKENS, max_length=None)
    return {"texts_per_s": len(some) / (time.perf_counter() - started_s)}


def prompts_file(model: Path, quick: bool) -> dict[str, Any]:  # noqa: FBT001
    """The command, from start to end."""
    with tempfile.TemporaryDirectory() as name:
        file, out = Path(name) / "prompts.txt", Path(name) / "texts.jsonl"
        some = prompts()[: 16 if quick else PROMPTS]
        file.write_text("\n".join(some) + "\n", encoding="utf-8")
        n_new = ["--max-new-tokens", str(PROMPT_NEW_TOKENS), "--min-new-tokens", str(PROMPT_NEW_TOKENS)]
        command = [sys.executable, "-m", "tunesmith", "generate", str(model), "--device", "cpu", *n_new]
        started_s = time.perf_counter()
        subprocess.run(
            [*command, "--prompts-file", str(file), "--out", str(out)], check=True, stdout=subprocess.DEVNULL
        )
        duration_s = time.perf_counter() - started_s
        if len(out.read_text("utf-8").splitlines()) != len(some):
            raise RuntimeError("texts are missing")
    return {"texts_per_s": len(some) / duration_s}


SIDES: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
    "memory": memory_bound,
    "transformers": transformers_side,
    "transformers fp32": lambda model, quick: transformers_side(model, quick, "float32"),
    "ours": our_side,
    "ours int8": lambda model, quick: our_side(model, quick, "int8"),
    "pipeline loop": pipeline_loop,
    "prompts file": prompts_file,
}


if __name__ == "__main__":
    main()
