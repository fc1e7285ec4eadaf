"""`python benchmarks/render.py`: the kept results as docs/benchmarks.md."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
HEAD = """\
# Benchmarks

Rendered by `python benchmarks/render.py` from `benchmarks/results/*.json`; each table is one run of one script that
measured all sides on the same machine and text. Figures that need a GPU are not yet measured.
"""


def main() -> None:
    """Write the page."""
    guide = json.loads((RESULTS / "guide_semantics.json").read_text("utf-8"))
    data = json.loads((RESULTS / "data.json").read_text("utf-8"))
    PAGE.write_text("\n".join([HEAD, *guide_section(guide), *data_section(data)]), encoding="utf-8")


def guide_section(result: dict[str, Any]) -> list[str]:
    """The guide's semantics against ours."""
    rows = [
        f"| {name} | {_seconds(side)} | {side['score']['nats_per_token']:.3f} | "
        f"{side['score']['text_nats_per_token']:.3f} | {side['score']['end_of_text_nats']:.2f} | {_ends(side)} |"
        for name, side in result["sides"].items()
    ]
    return [
        "## The guide's script and tunesmith on the same text",
        "",
        (
            f"`{result['command']}` on {result['date']}: `{result['model']}`, {result['epochs']} epochs, "
            f"{result['train_lines']:,} titles to learn, {result['val_lines']:,} untouched ones to score "
            f"(`benchmarks/scoring.py`: transformers, one title at a time, nats, lower is better). "
            f"tunesmith took **{result['times_faster']:.0f} times less time**."
        ),
        "",
        "| | training, s | nats per token | text behind its first token | end-of-text | samples that end |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        "The guide pads with end-of-text, which its collator masks out of the loss: the model never learns to stop.",
        "",
        _environment(result["environment"]),
        "",
    ]


def data_section(result: dict[str, Any]) -> list[str]:
    """Text to tokens on disk."""
    rows = [
        f"| {name} | {side['bytes'] / 1e6:,.0f} | {side['seconds']:.2f} | {side['mb_per_s']:,.1f} | "
        f"{_read_to_disk(side)} | {side['peak_memory_bytes'] / 2**20:,.0f} |"
        for name, side in result["sides"].items()
    ]
    ratios = result["times_the_guides_rate"]
    large = next(name for name in ratios if name.endswith("times the text"))
    return [
        "## Text to training tokens",
        "",
        (
            f"`{result['command']}` on {result['date']}: 25 MB of novels, as one document unless said otherwise, "
            "GPT-2's tokenizer. Ours from an empty cache in a process of its own, whose whole time is counted; the "
            "column behind it leaves out start-up (imports, loading and checking two tokenizers). The guide's side on "
            f"its first 20,000 lines, without its imports. On a gigabyte tunesmith had **{ratios[large]:.0f} times the "
            "guide's rate**."
        ),
        "",
        "| | MB | s | MB/s, whole process | MB/s, first byte read to last on disk | peak memory, MiB |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        "A text that was prepared before is found by its content.",
        "",
        _environment(result["environment"]),
        "",
    ]


def _read_to_disk(side: dict[str, Any]) -> str:
    return f"{side['read_to_disk_mb_per_s']:.0f}" if "read_to_disk_mb_per_s" in side else ""


def _seconds(side: dict[str, Any]) -> str:
    return f"{side['seconds']:,.0f}" if "seconds" in side else ""


def _ends(side: dict[str, Any]) -> str:
    return f"{side['share_of_samples_that_end']:.0%}" if "share_of_samples_that_end" in side else ""


def _environment(environment: dict[str, Any]) -> str:
    return (
        f"Machine: {environment['processor']}, {environment['cores']} cores; Python {environment['python']}, "
        f"torch {environment['torch']}."
    )


if __name__ == "__main__":
    main()
