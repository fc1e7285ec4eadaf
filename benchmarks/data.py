"""Text to training tokens: ours with and without the fast path, and the guide's `datasets.map`.

    python benchmarks/data.py ENGLISH.txt --tokenizer GPT2_FOLDER [--repeat 8]

End to end on one machine in one run: read, decode, split into lines, tokenise, write. Each of ours starts from an empty
cache in a process of its own, so start-up and imports are in its seconds; the text is also measured several times over,
which shows the rate behind the start-up. The guide's side pads every line to 512 tokens, as its script does; it gets
the first lines only and its imports are not counted, because all lines would take minutes.
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

GUIDE_LINES = 20_000


def main() -> None:
    """Measure all sides and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=8)
    parser.add_argument("--side", choices=["fast", "reference", "guide"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side == "guide":
        print(json.dumps(guide(arguments.text, arguments.tokenizer)))
        return
    if arguments.side:
        print(json.dumps(ours(arguments.text, arguments.tokenizer, fast=arguments.side == "fast")))
        return
    with tempfile.TemporaryDirectory() as folder:
        larger = Path(folder) / "larger.txt"
        text = arguments.text.read_text("utf-8")
        with larger.open("w", encoding="utf-8") as file:
            for number in range(arguments.repeat):
                file.write(text.replace("\n", f" {number}\n"))
        sides = {
            "tunesmith": in_own_process(arguments.text, arguments.tokenizer, "fast"),
            f"tunesmith, {arguments.repeat} times the text": in_own_process(larger, arguments.tokenizer, "fast"),
            "tunesmith without gigatoken": in_own_process(arguments.text, arguments.tokenizer, "reference"),
            "the guide's datasets.map": in_own_process(arguments.text, arguments.tokenizer, "guide"),
        }
    for name, side in sides.items():
        print(name, side)
    ratio = sides["tunesmith"]["mb_per_s"] / sides["the guide's datasets.map"]["mb_per_s"]
    print(f"{ratio:.0f} times the guide's rate")
    print(keep("data", {"sides": sides, "times_faster": ratio}))


def in_own_process(text: Path, tokenizer: Path, side: str) -> dict[str, Any]:
    """Run one side from an empty cache; its seconds are those of the whole process."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TUNESMITH_CACHE": cache, "HF_HOME": cache, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, __file__, str(text), "--tokenizer", str(tokenizer), "--side", side]
        started_s = time.perf_counter()
        answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        seconds = time.perf_counter() - started_s
    result: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    seconds = result.pop("seconds", seconds)
    return {"seconds": seconds, "mb_per_s": result.pop("bytes") / 1e6 / seconds, **result}


def ours(text: Path, tokenizer: Path, *, fast: bool) -> dict[str, Any]:
    """`prepare`, one sample a line."""
    from tunesmith import prepare  # noqa: PLC0415
    from tunesmith.data import fast_tokenizer  # noqa: PLC0415

    if not fast:
        fast_tokenizer.LARGE_TEXT_BYTES = 1 << 62
    report = prepare(text, tokenizer=tokenizer, split_on="line", preview=0)
    return {"bytes": text.stat().st_size, "path": report["tokenizer_path"], "peak_memory_bytes": peak_memory_bytes()}


def guide(text: Path, tokenizer: Path) -> dict[str, Any]:
    """The guide's tokenisation of the first lines, without its imports."""
    from datasets import Dataset  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415

    lines = text.read_text("utf-8").split("\n")[:GUIDE_LINES]
    encode = AutoTokenizer.from_pretrained(tokenizer)
    encode.pad_token = encode.eos_token
    started_s = time.perf_counter()
    Dataset.from_dict({"text": lines}).map(
        lambda rows: encode(rows["text"], truncation=True, padding="max_length", max_length=512), batched=True
    )
    seconds = time.perf_counter() - started_s
    size = sum(len(line.encode()) + 1 for line in lines)
    return {"bytes": size, "seconds": seconds, "peak_memory_bytes": peak_memory_bytes()}


def peak_memory_bytes() -> int:
    """Of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
