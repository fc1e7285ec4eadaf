"""`python benchmarks/render.py`: the kept results as docs/benchmarks.md."""

import json
import math
from pathlib import Path
from typing import Any

from gpu_tables import gpu_sections, is_measured_on_gpu, read_lines

RESULTS = Path(__file__).parent / "results"
PLOT = Path(__file__).parents[1] / "docs" / "images" / "useful-tokens.svg"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
HEAD = """\
# Benchmarks

Rendered by `python benchmarks/render.py` from `benchmarks/results/*.json`; each table is one run of one script that
measured all sides on the same machine and text. The `Trainer` example is `benchmarks/trainer_example.py`: the script
that tutorials show for fine-tuning GPT-2 with Hugging Face's `Trainer`.
"""


def main() -> None:
    """Write the page."""
    quality = json.loads((RESULTS / "trainer_quality.json").read_text("utf-8"))
    data = json.loads((RESULTS / "data.json").read_text("utf-8"))
    train = json.loads((RESULTS / "train.json").read_text("utf-8"))
    PLOT.write_text(bars(train), encoding="utf-8")
    wider = RESULTS / "trainer_quality_4x256.json"
    second = quality_section(json.loads(wider.read_text("utf-8"))) if wider.exists() else []
    sections = [
        *quality_section(quality),
        *second,
        *train_section(train),
        *memory_section(),
        *writing_section(),
        *besides_section(),
        *processes_section(),
        *data_section(data),
        *gpu_section(),
    ]
    PAGE.write_text("\n".join([HEAD, *sections]), encoding="utf-8")


def quality_section(result: dict[str, Any]) -> list[str]:
    """The semantics of the `Trainer` example against ours."""
    rows = [
        f"| {name} | {_seconds(side)} | {side['score']['nats_per_token']:.3f} | "
        f"{side['score']['text_nats_per_token']:.3f} | {side['score']['end_of_text_nats']:.2f} | {_ends(side)} |"
        for name, side in result["sides"].items()
    ]
    return [
        f"## The `Trainer` example and tunesmith on the same text: {result['model']}",
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
        "The example pads with end-of-text, which its collator masks out of the loss: the model never learns to stop.",
        "",
        _environment(result["environment"]),
        "",
    ]


SIDE_NAMES = {
    "example": "the `Trainer` example",
    "tuned": "a well-tuned `Trainer` (bf16, compiled)",
    "ours": "tunesmith",
    "ours compiled": "tunesmith, compiled",
}


def train_section(result: dict[str, Any]) -> list[str]:
    """The engine on a CPU."""
    full = result["sets"]["full windows"]
    ratios = result["ratios"]
    rows = [
        f"| {SIDE_NAMES[side]} | {some['tokens_per_s']:.0f} | "
        f"{some['tokens_per_s'] / full['example']['tokens_per_s']:.2f} | "
        f"{ratios['share_of_peak'][side]:.0%} | {some['peak_memory_bytes'] / 2**30:.1f} |"
        for side, some in full.items()
    ]
    useful = [
        f"| {name} | {sides['example']['useful_tokens_per_s']:.1f} | {sides['ours']['useful_tokens_per_s']:.0f} | "
        f"{ratios['useful_tokens_against_example'][name]:.0f} | {sides['example']['learned_share']:.1%} | 100% | "
        f"{sides['ours']['full']:.1%} |"
        for name, sides in result["sets"].items()
        if name != "full windows"
    ]
    return [
        "## Training on a CPU",
        "",
        (
            f"`{result['command']}` on {result['date']}: GPT-2's 124M shape with GPT-2's tokenizer. First windows of "
            "512 tokens that need no padding, so that every side computes the same: tokens per second, times the "
            "example's, share of the machine's best bf16 matrix product "
            f"({result['peak_bf16_flops_per_s'] / 1e9:.0f} GFLOP/s), and the peak memory of the process."
        ),
        "",
        "| | tokens/s | times the example's | share of peak | memory, GiB |",
        "|---|---|---|---|---|",
        *rows,
        "",
        (
            "Then real texts, where the `Trainer` example pads or cuts every sample to 512 tokens: tokens of text "
            "learned from per second, and how much of the text is learned from at all."
        ),
        "",
        "| | the `Trainer` example | tunesmith | times | the example learns from | tunesmith | our batches are full |",
        "|---|---|---|---|---|---|---|",
        *useful,
        "",
        f"![Useful tokens per second, on a logarithmic scale](images/{PLOT.name})",
        "",
        result.get("note", ""),
        "",
        _environment(result["environment"]),
        "",
    ]


def bars(result: dict[str, Any]) -> str:
    """Useful tokens per second, a pair of bars for each text, on a logarithmic scale."""
    sets = {name: sides for name, sides in result["sets"].items() if name != "full windows"}
    height, left, scale = 54, 130, 120
    colors = {"example": "#b35806", "ours": "#2166ac"}
    lines = []
    for number, (name, sides) in enumerate(sets.items()):
        top = 40 + number * height
        lines.append(f'<text x="{left - 10}" y="{top + 23}" text-anchor="end">{name}</text>')
        for place, side in enumerate(("example", "ours")):
            rate = sides[side]["useful_tokens_per_s"]
            width = max(math.log10(rate), 0) * scale
            y = top + place * 20
            lines.append(f'<rect x="{left}" y="{y}" width="{width:.1f}" height="17" fill="{colors[side]}"/>')
            lines.append(f'<text x="{left + width + 6:.1f}" y="{y + 13}">{rate:,.1f}</text>')
    title = "Useful tokens per second (logarithmic): the `Trainer` example (brown) and tunesmith (blue)"
    size = f'viewBox="0 0 560 {50 + len(sets) * height}"'
    style = "font: 13px system-ui, sans-serif; fill: #444"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{title}">'
        f'<rect width="100%" height="100%" fill="#fff"/><g style="{style}"><text x="10" y="22">{title}</text>'
        f"{''.join(lines)}</g></svg>\n"
    )


def gpu_section() -> list[str]:
    """What a GPU measured, or that none has yet."""
    path = RESULTS / "gpu.jsonl"
    lines = read_lines(path) if path.exists() else None
    return gpu_sections(lines if lines and is_measured_on_gpu(lines) else None)


def memory_section() -> list[str]:
    """Predicted against measured memory."""
    path = RESULTS / "memory.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text("utf-8"))
    rows = [
        f"| {row['size']} | {row['memory_mode']} | {row['activation_checkpointing']} | "
        f"{row['tokens']:,} x {row['micro_batches']} | {row['document_tokens']} | "
        f"{row['predicted_bytes'] / 2**20:,.0f} | {row['measured_bytes'] / 2**20:,.0f} | "
        f"{row['error']:+.1%} |"
        for row in result["rows"]
    ]
    return [
        "## Memory, predicted and measured",
        "",
        (
            f"`{result['command']}` on {result['date']}: largest resident memory of a process that trains two steps, "
            "against what was predicted before them by the closed form, corrected by a few short micro-batches. "
            f"{len(rows)} combinations, largest error {result['largest_error']:.1%}, "
            f"median {result['median_error']:.1%}."
        ),
        "",
        (
            "| model | memory mode | activation checkpointing | tokens x micro-batches | document | predicted, MiB "
            "| measured, MiB | error |"
        ),
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        *([result["note"], ""] if "note" in result else []),
        (
            "A CPU's heap keeps holes between blocks of different sizes, which no form knows; torch's own "
            "allocations are met within 2 % below and 9 % above in the tests."
        ),
        "",
        _environment(result["environment"]),
        "",
    ]


def writing_section() -> list[str]:
    """Generation on a CPU."""
    path = RESULTS / "generate.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text("utf-8"))
    sides, ratios = result["sides"], result["ratios"]
    names = {
        "transformers": "`transformers.generate`, bf16",
        "transformers fp32": "`transformers.generate`, fp32",
        "ours": "tunesmith, bf16",
        "ours int8": "tunesmith, int8",
    }
    rates = {name: sides[name]["tokens_per_s"] for name in names}
    rows = [
        f"| {shown} | {' | '.join(f'{rate:.0f}' for rate in rates[name].values())} |" for name, shown in names.items()
    ]
    times = ", ".join(f"{ratio:.1f} at {count}" for count, ratio in ratios["against_transformers"].items())
    return [
        "## Generation on a CPU",
        "",
        (
            f"`{result['command']}` on {result['date']}: GPT-2's 124M shape, greedy, "
            "new tokens per second by number of texts at once."
        ),
        "",
        f"| texts at once | {' | '.join(rates['ours'])} |",
        f"|---|{'---|' * len(rates['ours'])}",
        *rows,
        "",
        (
            f"That is {times} times the faster of transformers' rates, and at one text "
            f"{ratios['share_of_memory_bound']:.0%} of what reading all matrices once for each token allows "
            f"({sides['memory']['bytes_per_s'] / 1e9:.1f} GB/s measured). 1,000 prompts from a file, "
            f"model loading included, go {ratios['prompts_file_against_pipeline_loop']:.0f} times as fast as in a loop "
            "over `pipeline`."
        ),
        "",
        *([result["note"], ""] if "note" in result else []),
        _environment(result["environment"]),
        "",
    ]


def besides_section() -> list[str]:
    """What saving and watching cost."""
    lines = []
    for name, what in (("saving", "saves every 100 steps"), ("watching", "live screen, system monitor and a tracker")):
        path = RESULTS / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text("utf-8"))
            lines += [
                (
                    f"| {what} | {result['model']} | {result['steps']} x {result['tokens_per_step']:,} | "
                    f"{result['duration_with_s']:.1f} | {result['duration_without_s']:.1f} | "
                    f"{result['ratio'] - 1:+.1%} | `{result['command']}`, {result['date']} |"
                )
            ]
    if not lines:
        return []
    return [
        "## What a run does beside training",
        "",
        "The same run with and without, in turn, in processes of their own.",
        "",
        "| | model | steps x tokens | with, s | without, s | cost | measured by |",
        "|---|---|---|---|---|---|---|",
        *lines,
        "",
    ]


def processes_section() -> list[str]:
    """Several processes against one."""
    path = RESULTS / "distributed.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text("utf-8"))
    alone_s, n = result["seconds_per_step_alone"], result["processes"]
    rows = [
        f"| {name} | {way['seconds_per_step']:.2f} | {way['of_one_process']:.2f} | "
        f"{way['bytes_per_step'] / 1e6:,.0f} | "
        f"{way['computed_bytes_per_step'] / 1e6:,.0f} | {way['measured_over_computed']:.2f} |"
        for name, way in ((name, result[name]) for name in ("replicated", "parts"))
    ]
    return [
        "## Several processes",
        "",
        (
            f"`{result['command']}` on {result['date']}: {n} processes of one thread on as many cores, each with "
            f"{result['tokens_per_process']:,} tokens a step of `{result['model']}` in fp32, joined by Gloo over the "
            f"loopback interface; one process alone takes {alone_s:.2f} s for a step. The ratio of times says "
            "how much of it is lost to joining (1 is nothing); on CPUs that share memory and two cores it is an "
            "upper bound, and says nothing about GPUs. Bytes are those of all processes together, beside what "
            "[the model on paper](scaling.md) says."
        ),
        "",
        "| each process has | s a step | times one process | MB a step, measured | computed | ratio |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        *([result["note"], ""] if "note" in result else []),
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
    ratios = result["times_the_examples_rate"]
    large = next(name for name in ratios if name.endswith("times the text"))
    return [
        "## Text to training tokens",
        "",
        (
            f"`{result['command']}` on {result['date']}: 25 MB of novels, as one document unless said otherwise, "
            "GPT-2's tokenizer. Ours from an empty cache in a process of its own, whose whole time is counted; the "
            "column behind it leaves out start-up (imports, loading and checking two tokenizers). The example's side "
            f"on its first 20,000 lines, without its imports. On a gigabyte tunesmith had **{ratios[large]:.0f} times "
            "the example's rate**."
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
