"""The lines of `benchmarks/gpu.py` as sections of docs/benchmarks.md."""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

Line = dict[str, Any]
GIB = 1 << 30
QUESTIONS = ("tests", "traps", "out of memory", "engines", "command line")
ANSWERED = ("done", "pass", "fail")
LIMITATIONS = """\
## Limitations

No number on this page was measured on a GPU. [Limitations](limitations.md) lists what was tested instead.
"""
HOW_TO = """\
## Measure on a GPU

`python benchmarks/gpu.py FOLDER` in a checkout, with PyTorch for CUDA, runs for at most six minutes and appends each \
result to `FOLDER/gpu.jsonl` as soon as it is there. Cases that crash, hang or do not fit into the time are recorded \
as such, and the others still run. Put the file into `benchmarks/results/` and run `python benchmarks/render.py` for \
the tables. `--device cpu` is a dry run.

tunesmith need not be installed. On a machine without a network, `python benchmarks/gpu.py FOLDER --missing` prints \
which packages are missing; where PyTorch and transformers are installed these are usually two, 330 kB in pure Python:

```shell
pip download --no-deps --dest wheels cyclopts docstring-parser
python3 -m pip install --no-index --no-deps --target site wheels/*.whl
PYTHONPATH=src:site python3 benchmarks/gpu.py FOLDER
```
"""


def read_lines(path: Path) -> list[Line]:
    """Of a file that `benchmarks/gpu.py` wrote; a last line that was broken off is left out."""
    lines = []
    for text in path.read_text("utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


def gpu_sections(lines: list[Line] | None) -> list[str]:
    """The sections; where nothing was measured on a GPU they say so, and how to.

    Args:
        lines: in the order in which they were written; None where there is no file.
    """
    if not lines:
        return [LIMITATIONS, HOW_TO]
    made = [
        _head(lines),
        _training(_done(lines, "training")),
        _trainer(_done(lines, "trainer")),
        _plans([*_done(lines, "in 12 GB"), *_done(lines, "in 12 GB, compiled")]),
        _outside(_done(lines, "facts")),
        _generation(_done(lines, "decoding")),
        _kernels(_done(lines, "kernels")),
        _attention(_done(lines, "attention")),
        _switches(_done(lines, "switches")),
        _questions(lines),
        _unanswered(lines),
        [HOW_TO],
    ]
    return [text for section in made for text in section]


def is_measured_on_gpu(lines: list[Line]) -> bool:
    """Whether a file is of a GPU, and not of a dry run."""
    return any(line["stage"] == "run" and str(line.get("device", "")).startswith("cuda") for line in lines)


def table(columns: str, rows: Iterable[Iterable[object]]) -> list[str]:
    """A Markdown table; nothing where there are no rows.

    Args:
        columns: their names, divided by vertical bars.
        rows: their cells.
    """
    body = [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in rows]
    if not body:
        return []
    return [f"| {columns} |", f"|{'---|' * len(columns.split('|'))}", *body, ""]


def _done(lines: list[Line], stage: str) -> list[Line]:
    return [line for line in lines if line["stage"] == stage and line["status"] in ANSWERED]


def _head(lines: list[Line]) -> list[str]:
    run = next((line for line in lines if line["stage"] == "run"), {})
    facts = {line["case"]: line for line in _done(lines, "facts")}
    device, versions, peaks = (facts.get(name, {}) for name in ("device", "versions", "peaks"))
    packages = versions.get("packages", {})
    shown = ", ".join(f"{name} {packages[name]}" for name in ("torch", "triton", "transformers") if name in packages)
    capability = ".".join(map(str, device.get("capability", [])))
    machine = [
        f"Machine: {device.get('name', run.get('device', 'unknown'))}",
        f"compute capability {capability}" if capability else "",
        f"{device['total_bytes'] / GIB:.0f} GiB" if device else "",
        f"{versions.get('cores')} CPU cores" if versions else "",
    ]
    software = f"Python {versions.get('python')}, {shown}." if versions else ""
    rates = ""
    if peaks:
        rates = (
            f" Measured there: a bf16 matrix product at {peaks['bf16_flops_per_s'] / 1e12:,.2f} TFLOP/s, "
            f"a copy at {peaks['copied_bytes_per_s'] / 1e9:,.0f} GB/s."
        )
    return [
        f"## On a GPU: {device.get('name', run.get('device', 'unknown'))}",
        "",
        (
            f"`python benchmarks/gpu.py`, one run on {run.get('date', 'an unknown date')} with random weights and "
            f"tokens. {', '.join(part for part in machine if part)}; {software}{rates} Ratios and bytes say more "
            "about another GPU than tokens per second do."
        ),
        "",
    ]


def _training(lines: list[Line]) -> list[str]:
    rows = [
        (
            line["case"],
            line["micro_batches"],
            _number(line["tokens_per_s"]),
            _share(line.get("mfu")),
            line.get("launches", ""),
            line.get("host_syncs", ""),
            _gib(line.get("allocated_peak_bytes")),
            f"{line['warm_up_s']:.0f}",
            f"{line['graphs_warming_up']} + {line['graphs_measuring']}",
        )
        for line in lines
    ]
    columns = "GPT-2 124M, bf16 | micro-batches | tokens/s | MFU | launches | host syncs | GiB | warm-up, s | graphs"
    return [*_titled("### Training", table(columns, rows)), *_break_even(lines)]


def _break_even(lines: list[Line]) -> list[str]:
    """After how many seconds of training the compiler has paid for itself."""
    written = next((line for line in lines if line["case"].endswith("as written")), None)
    compiled = next((line for line in lines if line["case"].endswith("compiled")), None)
    if not written or not compiled:
        return []
    ratio = compiled["tokens_per_s"] / written["tokens_per_s"]
    extra_s = compiled["warm_up_s"] - written["warm_up_s"]
    if ratio <= 1:
        return [f"Compiled, a step is {ratio:.2f} times as fast as written: compiling does not pay there.", ""]
    after_s = extra_s / (1 - 1 / ratio)
    return [
        (
            f"Compiled, a step is {ratio:.2f} times as fast as written, and compiling takes {extra_s:.0f} s: it pays "
            f"for runs that take more than {after_s / 60:.1f} minutes."
        ),
        "",
    ]


def _trainer(lines: list[Line]) -> list[str]:
    rows = []
    for line in lines:
        kind = line["case"].split(",")[0]
        ours = next((one for one in lines if one["case"] == f"{kind}, tunesmith"), None)
        ratio = line["useful_tokens_per_s"] / ours["useful_tokens_per_s"] if ours else None
        rows.append(
            (
                line["case"],
                _number(line["useful_tokens_per_s"]),
                f"{ratio:.2f}" if ratio else "",
                _gib(line.get("allocated_peak_bytes")),
                _gib(line.get("reserved_peak_bytes")),
            )
        )
    text = (
        "GPT-2 124M on samples that fill half of 512 tokens, where the `Trainer` example pads, and on full windows of "
        "512; `Trainer` tuned is bf16, fused AdamW, packed, compiled. Tokens of text trained on per second, "
        "and the rate divided by tunesmith's, uncompiled."
    )
    columns = "samples, program | useful tokens/s | of tunesmith's | allocated, GiB | reserved, GiB"
    return _titled("### Against Trainer", table(columns, rows), text)


def _plans(lines: list[Line]) -> list[str]:
    rows = [
        (
            line["case"],
            line["checkpointing"],
            line["micro_batches"],
            _gib(line["planned_bytes"]),
            _gib(line.get("allocated_peak_bytes")),
            _error(line.get("allocated_peak_bytes"), line["planned_bytes"]),
            _gib(line.get("reserved_peak_bytes")),
            _gib(line.get("evaluation_reserved_peak_bytes")),
            _gib(line.get("outside_torch_bytes")),
            _number(line["tokens_per_s"]),
            _share(line.get("mfu")),
            f"{line['loss_first']:.2f} to {line['loss_last']:.2f}",
        )
        for line in lines
    ]
    budget = f", {_gib(lines[0]['budget_bytes'])} GiB" if lines else ""
    text = (
        f"Each plan is the one for an RTX 4070 Ti, and torch gets no more than its budget{budget}. Planned "
        "is the estimate before anything ran; allocated and reserved are torch's peaks in training, and reserved in an "
        "evaluation; outside is what the driver and libraries take beside torch."
    )
    columns = (
        "model, states, tokens a step | checkpointing | micro-batches | planned, GiB | allocated | planned is off by | "
        "reserved | reserved, evaluation | outside torch | tokens/s | MFU | loss"
    )
    return _titled("### Fine-tuning in 12 GB", table(columns, rows), text)


def _outside(lines: list[Line]) -> list[str]:
    found = next((line["bytes"] for line in lines if line["case"] == "bytes outside torch"), {})
    rows = [(name, f"{count / 2**20:,.0f}") for name, count in found.items() if name != "others"]
    return _titled("### Memory outside torch", table("after | MiB", rows))


def _generation(lines: list[Line]) -> list[str]:
    rows = [
        (line["case"], name, _number(rates["ours"]), _number(rates["transformers"]), f"{rates['ratio']:.2f}")
        for line in lines
        for name, rates in line["tokens_per_s"].items()
    ]
    columns = "at once | rules | tunesmith, tokens/s | `transformers.generate`, tokens/s | ratio"
    return _titled("### Generation", table(columns, rows), "GPT-2 124M in bf16, 128 new tokens a text.")


def _kernels(lines: list[Line]) -> list[str]:
    rows = []
    for line in lines:
        if "passed_bytes" not in line:
            continue
        sides = {side: line.get(f"{side}_s") for side in ("kernel", "plain")}
        errors = line.get("errors", {})
        worst = {
            side: max((error["nats"] for name, error in errors.items() if name.endswith(side)), default=None)
            for side in sides
        }
        rows.append(
            (
                line["case"],
                *(_milliseconds(seconds) for seconds in sides.values()),
                f"{sides['plain'] / sides['kernel']:.1f}" if sides["kernel"] else "",
                *(_number(line.get(f"{side}_gigabytes_per_s")) for side in sides),
                *("" if error is None else f"{error:.1e}" for error in worst.values()),
            )
        )
    columns = (
        "kernel | Triton, ms | torch, ms | ratio | Triton, GB/s | torch, GB/s | largest error in nats, Triton | torch"
    )
    text = "Errors against double precision, from the same rounded logits."
    return _titled("### Triton kernels", table(columns, rows), text)


def _attention(lines: list[Line]) -> list[str]:
    rows = []
    for line in lines:
        for name, kind in line.get("kinds", {}).items():
            errors = kind.get("errors")
            shown = (
                [f"{errors[key]:.1e}" for key in ("y", "dq", "dk", "dv")]
                if errors
                else [kind.get("error", ""), "", "", ""]
            )
            repeats = [_yes(kind.get(key)) for key in ("repeats", "repeats_deterministic")]
            rows.append((line["case"], name, *shown, *repeats))
    times = [(name, f"{took:.2f}") for line in lines for name, took in line.get("milliseconds", {}).items()]
    text = "Relative errors against double precision, and whether eight repetitions have the same bits."
    columns = "channels | kind | output | dq | dk | dv | repeats | repeats, deterministic"
    return [
        *_titled("### Attention", table(columns, rows), text),
        *table("documents x tokens, kind | forward and backward, ms", times),
    ]


def _switches(lines: list[Line]) -> list[str]:
    rows = [
        (
            line["case"],
            line["off"],
            _milliseconds(line["off_s"]),
            line["on"],
            _milliseconds(line["on_s"]),
            f"{line['ratio']:.2f}",
        )
        for line in lines
    ]
    text = "Decisions about speed that only a GPU can make; the ratio says how many times faster the second setting is."
    return _titled("### Switches", table("switch | setting | ms | setting | ms | ratio", rows), text)


def _questions(lines: list[Line]) -> list[str]:
    """Traps and other questions, each with its answer and the evidence."""
    left_out = {"stage", "case", "seconds", "at_s", "status", "traceback", "output", "files"}
    rows = [
        (
            line["stage"],
            line["case"],
            line["status"],
            _cut("; ".join(f"{key}: {value}" for key, value in line.items() if key not in left_out and value != [])),
        )
        for stage in QUESTIONS
        for line in _done(lines, stage)
    ]
    passed = sum(row[2] == "pass" for row in rows)
    return _titled(
        "### Known traps and recovery",
        table("stage | question | answer | evidence", rows),
        f"{passed} of {len(rows)} pass.",
    )


def _unanswered(lines: list[Line]) -> list[str]:
    rows = [
        (line["stage"], line["case"], line["status"], _cut(str(line.get("reason") or line.get("error") or "")))
        for line in lines
        if line["status"] not in ANSWERED
    ]
    return _titled("### Without a result", table("stage | case | status | why", rows))


def _titled(title: str, body: list[str], text: str = "") -> list[str]:
    if not body:
        return []
    return [title, "", *([text, ""] if text else []), *body]


def _or_empty(show: Callable[[float], str]) -> Callable[[float | None], str]:
    return lambda value: "" if value is None else show(value)


_number = _or_empty(lambda value: f"{value:,.0f}")
_share = _or_empty(lambda value: f"{value:.0%}")
_gib = _or_empty(lambda value: f"{value / GIB:.2f}")
_milliseconds = _or_empty(lambda value: f"{value * 1e3:.3f}")


def _error(measured: float | None, planned: float) -> str:
    return "" if measured is None else f"{planned / measured - 1:+.1%}"


def _yes(answer: bool | None) -> str:  # noqa: FBT001
    return "" if answer is None else "yes" if answer else "no"


def _cut(text: str, most: int = 200) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[: most - 3]}..."
