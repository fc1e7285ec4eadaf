"""Text to training tokens: ours with and without the fast path, and the example's `datasets.map`.

    python benchmarks/data.py ENGLISH.txt --tokenizer GPT2_FOLDER [--repeat 40]

End to end on one machine in one run: read, decode, find samples, tokenize, write, sync. Each side runs in a process of
its own. Ours starts from an empty cache; its seconds are those of the whole process, and those between the first byte
read and the last one on disk are told apart from start-up (imports, loading and checking two tokenizers). The text is
also measured many times over, with a counter in every line, which makes each of millions of samples a different one.
The example's side reads a file with `load_dataset` and pads every line to 512 tokens with `map`, as its script does; it
gets the first lines only and its imports are not counted, because all lines would take minutes.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import keep

EXAMPLE_LINES = 20_000
SIDES = ("document", "line", "reference", "again", "example")


def main() -> None:
    """Measure all sides and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=40)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measured(arguments.side, arguments.text, arguments.tokenizer)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text = arguments.text.read_text("utf-8")
        volumes, lines, first = (folder / f"{kind}.txt" for kind in ("volumes", "lines", "first"))
        first.write_text("\n".join(text.split("\n")[:EXAMPLE_LINES]), encoding="utf-8")
        with volumes.open("w", encoding="utf-8") as one, lines.open("w", encoding="utf-8") as other:
            for number in range(arguments.repeat):
                one.write(f"Volume {number}\n\n{text}\n\n")
                other.write(text.replace("\n", f" {number}\n"))
        times = f"{arguments.repeat} times the text"
        plan = {
            "tunesmith": ("document", arguments.text),
            "tunesmith, one sample a line": ("line", arguments.text),
            f"tunesmith, {times}": ("document", volumes),
            f"tunesmith, {times}, one sample a line": ("line", lines),
            "the same a second time": ("again", lines),
            "tunesmith without gigatoken": ("reference", arguments.text),
            "the example's datasets.map": ("example", first),
        }
        sides = {}
        for name, (side, path) in plan.items():
            sides[name] = in_own_process(path, arguments.tokenizer, side, folder)
            print(name, sides[name], flush=True)
    example = sides["the example's datasets.map"]["mb_per_s"]
    ratios = {name: side["mb_per_s"] / example for name, side in sides.items()}
    print(keep("data", {"sides": sides, "times_the_examples_rate": ratios}))


def in_own_process(text: Path, tokenizer: Path, side: str, folder: Path) -> dict[str, Any]:
    """Run one side; all but the second time from an empty cache."""
    cache = folder / ("line" if side == "again" else side)
    if side != "again" and cache.exists():
        subprocess.run(["rm", "-r", str(cache)], check=True)
    environment = {**os.environ, "TUNESMITH_CACHE": str(cache), "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, str(text), "--tokenizer", str(tokenizer), "--side", side]
    started_s = time.perf_counter()
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    seconds = time.perf_counter() - started_s
    result: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    seconds = result.pop("seconds", seconds)
    size = text.stat().st_size
    read_to_disk_s = result.get("read_to_disk_s")
    return {
        "bytes": size,
        "seconds": seconds,
        "mb_per_s": size / 1e6 / seconds,
        **({"read_to_disk_mb_per_s": size / 1e6 / read_to_disk_s} if read_to_disk_s else {}),
        **result,
    }


def measured(side: str, text: Path, tokenizer: Path) -> dict[str, Any]:
    """One side, in this process."""
    result = example(text, tokenizer) if side == "example" else ours(side, text, tokenizer)
    return {**result, "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def ours(side: str, text: Path, tokenizer: Path) -> dict[str, Any]:
    """`prepare`, with a stop watch around the writing of the corpus and around loading the fast tokenizer."""
    from tunesmith.api import prepare
    from tunesmith.data import corpus, fast_tokenizer, tokenize_corpus

    spent_s = {"write_corpus": 0.0, "FastTokenizer": 0.0}

    def watched(module: Any, name: str) -> None:
        original = getattr(module, name)

        def call(*arguments: Any, **options: Any) -> Any:
            started_s = time.perf_counter()
            result = original(*arguments, **options)
            spent_s[name] += time.perf_counter() - started_s
            return result

        setattr(module, name, call)

    watched(corpus, "write_corpus")
    watched(tokenize_corpus, "FastTokenizer")
    if side == "reference":
        fast_tokenizer.LARGE_TEXT_BYTES = 1 << 62
    split_on = "document" if side in {"document", "reference"} else "line"
    report = prepare(text, tokenizer=tokenizer, split_on=split_on, preview=0)
    return {
        "samples": report["samples"],
        "tokens": report["tokens"],
        "path": report["tokenizer_path"],
        "read_to_disk_s": spent_s["write_corpus"] - spent_s["FastTokenizer"],
    }


def example(text: Path, tokenizer: Path) -> dict[str, Any]:
    """The example's loading and tokenization of the first lines, without its imports."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    encode = AutoTokenizer.from_pretrained(tokenizer)
    encode.pad_token = encode.eos_token
    started_s = time.perf_counter()
    load_dataset("text", data_files=str(text), split="train").map(
        lambda rows: encode(rows["text"], truncation=True, padding="max_length", max_length=512), batched=True
    )
    return {"seconds": time.perf_counter() - started_s}


if __name__ == "__main__":
    main()
