"""Everything that needs a card, in one call.

    python benchmarks/gpu.py [--quick]

Random weights in GPT-2's shapes, random tokens: speed and memory do not depend on what is learned. Measured are

- correctness: loss and gradients in bf16 on the card against fp32 on the CPU, packed documents of many lengths;
- training: tokens per second, share of the card's dense bf16 peak, peak memory, as written and compiled, windows of
  1,024 tokens and samples that fill half of 512, against `Trainer` as the guide runs it (fp16, padded) and tuned;
- every size inside 11.2 GiB, the memory a 12 GB card leaves (`torch.cuda.set_per_process_memory_fraction`), as planned:
  predicted and measured bytes, 50 steps of falling loss;
- what the compiler did: graphs made while warming up and while measuring (there must be none);
- generation: tokens per second for 1, 64 and 256 texts at once, tokens chosen on the card and on the host, and of
  `pipeline`.

Without a card `--device cpu --quick` runs the same code on a tiny shape, to show that it runs.
"""

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import keep

from tunesmith.data.batches import TrainingOrder, packed
from tunesmith.data.corpus import Split
from tunesmith.data.dealing import shape_of_micro_batches
from tunesmith.data.read_ahead import read_ahead
from tunesmith.data.stretches import Stretches
from tunesmith.data.windows import windows_of
from tunesmith.generation.engine import Engine
from tunesmith.generation.request import Request
from tunesmith.generation.sampling import SamplingRules
from tunesmith.machine import Choice
from tunesmith.model.attention import DocumentLayout
from tunesmith.model.compiled import can_compile, compile_in_place
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.loss import sum_of_nats
from tunesmith.model.packed import hidden_states, on_device_of
from tunesmith.model.recomputation import recompute
from tunesmith.model.shape import GPT2Config
from tunesmith.optimizers.state_plan import STATE_PLANS
from tunesmith.planning.cards import known_card
from tunesmith.planning.experience import Experience
from tunesmith.planning.hardware import hardware_named
from tunesmith.planning.memory import Demand, memory_of
from tunesmith.planning.search import Request as PlanRequest
from tunesmith.planning.search import best_way
from tunesmith.training.calibration import calibrate
from tunesmith.training.optimizer import make_optimizer
from tunesmith.training.step import train_step

SHAPES = {
    "tiny": (4, 128, 4),
    "gpt2": (12, 768, 12),
    "gpt2-medium": (24, 1024, 16),
    "gpt2-large": (36, 1280, 20),
    "gpt2-xl": (48, 1600, 25),
}
CARD_GIB, CARD_STEPS = 11.2, 50
IN_12_GB = (
    ("gpt2", "fp32"),
    ("gpt2-medium", "fp32"),
    ("gpt2-large", "fp32-8bit"),
    ("gpt2-xl", "split-8bit-in-backward"),
    ("gpt2-xl", "bf16-8bit"),
    ("gpt2-xl", "bf16-4bit"),
    ("gpt2-xl", "host"),
)
WARM_UP_STEPS, TIMED_STEPS = 5, 20


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="a tiny shape and few steps")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    base = "tiny" if arguments.quick else "gpt2"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    result: dict[str, Any] = {"card": name, "correctness": correctness(device)}
    print(json.dumps(result), flush=True)
    result["training"] = {}
    for label, lengths, compiled in (
        ("1,024 tokens, as written", (1024, 1024), False),
        ("1,024 tokens, compiled", (1024, 1024), True),
        ("half of 512, compiled", (1, 511), True),
    ):
        if compiled and not can_compile(device).value:
            continue
        result["training"][label] = training(base, lengths, device, compiled=compiled, quick=arguments.quick)
        print(label, result["training"][label], flush=True)
    if device.type == "cuda":
        result["trainer"] = peers()
        print(result["trainer"], flush=True)
    result["in_12_gb"] = {}
    for shape, states in (("tiny", "bf16-8bit"), ("tiny", "host")) if arguments.quick else IN_12_GB:
        result["in_12_gb"][f"{shape}, {states}"] = in_12_gb(shape, states, device, quick=arguments.quick)
        print(shape, result["in_12_gb"][f"{shape}, {states}"], flush=True)
    result["generation"] = generation(base, device, quick=arguments.quick)
    print(result["generation"], flush=True)
    if not arguments.quick:
        print(keep("gpu", result))


def new_model(shape: str, device: torch.device, *, vocab_size: int = 50257) -> GPT2:
    """Random weights in fp32."""
    layers, width, heads = SHAPES[shape]
    model = GPT2(GPT2Config(vocab_size, 1024, width, layers, heads, 4 * width))
    model.initialise(torch.Generator().manual_seed(0))
    return model.to(device)


def new_split(lengths: tuple[int, int], n_tokens: int) -> Split:
    """Random samples of lengths between two bounds."""
    random = np.random.default_rng(0)
    n_samples = max(n_tokens * 2 // sum(lengths), 8)
    counts = random.integers(lengths[0], lengths[1] + 1, n_samples)
    tokens = random.integers(0, 50257, counts.sum() + 1).astype(np.uint16)
    none = np.zeros_like(counts)
    return Split(tokens, Stretches(1 + np.cumsum(counts) - counts, counts, none, none), text_bytes=1)


def correctness(device: torch.device) -> dict[str, float]:
    """Relative errors of loss and gradients in bf16 on the device against fp32 on the CPU."""
    lengths = [1, 9, 9, 60, 33, 400, 16]
    layout = DocumentLayout.of((0, *np.cumsum(lengths).tolist()))
    random = np.random.default_rng(1)
    tokens_N, targets_N = (random.integers(0, 50257, sum(lengths)) for _ in range(2))
    positions_N = np.concatenate([np.arange(length) for length in lengths])
    losses, gradients = [], []
    for where, dtype in ((torch.device("cpu"), torch.float32), (device, torch.bfloat16)):
        model = new_model("tiny", where)
        model.compute_dtype = dtype
        hidden_NC = hidden_states(model, tokens_N, positions_N, layout)
        nats = sum_of_nats(hidden_NC, model.head_VC, on_device_of(model, targets_N), 50257)
        nats.backward()
        losses.append(nats.item())
        gradients.append(torch.cat([parameter.grad.flatten().cpu() for parameter in model.parameters()]))
    return {
        "loss": abs(losses[1] - losses[0]) / losses[0],
        "gradients": float((gradients[1] - gradients[0]).norm() / gradients[0].norm()),
    }


def training(
    shape: str,
    lengths: tuple[int, int],
    device: torch.device,
    *,
    compiled: bool,
    quick: bool = False,
    most: int = 16_384,
) -> dict[str, Any]:
    """Tokens per second of the loop's own step, batches made ahead as in the loop."""
    from torch._dynamo.utils import counters  # noqa: PLC0415

    clear(device)
    n_steps = 3 if quick else WARM_UP_STEPS + TIMED_STEPS
    warm_up = 1 if quick else WARM_UP_STEPS
    most = 1024 if quick else most
    split = new_split(lengths, (n_steps + 1) * most)
    windows = windows_of(split.stretches, 1024)
    divided = shape_of_micro_batches(
        windows.lengths, epoch_tokens=split.n_tokens, tokens_per_step=most, most_tokens=most
    )
    order = TrainingOrder(split, context_tokens=1024, shape=divided, constant_size=True, seed=0)
    model = new_model(shape, device).train()
    model.compute_dtype = torch.bfloat16
    torch.compiler.reset()
    counters.clear()
    if compiled:
        compile_in_place(model)
    optimizer = make_optimizer(model, weight_decay=0.01)
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    tokens, graphs, started_s = 0, 0, time.perf_counter()
    warm_up_s = 0.0
    for number, batches in enumerate(read_ahead(map(order.batches, range(n_steps)))):
        if number == warm_up:
            wait(device)
            warm_up_s = time.perf_counter() - started_s
            graphs, tokens, started_s = counters["stats"]["unique_graphs"], 0, time.perf_counter()
        train_step(model, optimizer, batches, learning_rate=1e-4, max_grad_norm=1.0, scaler=scaler)
        tokens += sum(len(batch.targets) for batch in batches)
    wait(device)
    seconds = time.perf_counter() - started_s
    mean_context = float((windows.lengths**2).sum() / windows.lengths.sum())
    return {
        "tokens_per_s": tokens / seconds,
        "mfu": share_of_peak(tokens / seconds, model.config, mean_context, device),
        "warm_up_s": warm_up_s,
        "full": split.n_tokens / (divided.steps_per_epoch * divided.per_step * divided.tokens),
        "graphs_warming_up": graphs,
        "graphs_measuring": counters["stats"]["unique_graphs"] - graphs,
        "peak_memory_bytes": peak_bytes(device),
    }


def peers() -> dict[str, Any]:
    """`Trainer` as the guide runs it, on samples that fill half of 512, and tuned, on full windows."""
    import guide_script  # noqa: PLC0415
    import tuned_trainer  # noqa: PLC0415
    from transformers import GPT2Config as HFConfig  # noqa: PLC0415
    from transformers import GPT2LMHeadModel  # noqa: PLC0415

    sides: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        GPT2LMHeadModel(HFConfig()).save_pretrained(folder / "model")
        byte_tokenizer().save_pretrained(folder / "model")
        texts = ["night after night, the lamp. " * 9] * 800  # 261 tokens of one byte each
        made, _ = guide_script.trainer(
            folder / "model", texts, texts[:1], folder, eval_strategy="no", max_steps=50, fp16=True
        )
        sides["the guide's script, half of 512"] = peer(made, 0.51)
        del made
        made = tuned_trainer.trainer(folder / "model", texts * 10, folder, max_steps=60, per_device_train_batch_size=32)
        sides["tuned, full windows"] = peer(made, 1.0)
    return sides


def byte_tokenizer() -> Any:
    """A tokenizer whose tokens are bytes: no file of GPT-2's own is needed."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate([*alphabet, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")  # noqa: S106


def peer(trainer: Any, filled: float) -> dict[str, Any]:
    """Steps of a `Trainer`, the first ten left out."""
    from transformers import TrainerCallback  # noqa: PLC0415

    ends_s: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_arguments: Any, **_others: Any) -> None:
            torch.cuda.synchronize()
            ends_s.append(time.perf_counter())

    clear(torch.device("cuda"))
    trainer.add_callback(Clock())
    trainer.train()
    arguments = trainer.args
    a_step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * 512
    computed = a_step * (len(ends_s) - 10)
    seconds = ends_s[-1] - ends_s[9]
    return {
        "computed_tokens_per_s": computed / seconds,
        "useful_tokens_per_s": computed * filled / seconds,
        "peak_memory_bytes": peak_bytes(torch.device("cuda")),
    }


def in_12_gb(shape: str, states: str, device: torch.device, *, quick: bool) -> dict[str, Any]:
    """Full fine-tuning in the memory of a 12 GB card, as planned: predicted and measured bytes, and a falling loss."""
    clear(device)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(CARD_GIB * 2**30 / total)
    layers, wide, heads = SHAPES[shape]
    config = GPT2Config(50257, 1024, wide, layers, heads, 4 * wide)
    named = hardware_named("RTX 4070 Ti", None)
    hardware = replace(named, kind=device.type, budget=Choice(int(CARD_GIB * 2**30), "of a 12 GB card"))
    experience = Experience({})
    request = PlanRequest(
        demand=Demand(config, STATE_PLANS[states], "nothing", 0, 0, 2, hardware.kind),
        states="auto",
        recompute="auto",
        step_tokens=1024 if quick else 4096,
        longest_tokens=1024,
        mean_context_tokens=1024.0,
        correction_of=lambda demand: experience.correction(demand, hardware),
    )
    try:
        way = best_way(request, hardware, STATE_PLANS[states])
        model = new_model(shape, device).train()
        model.compute_dtype = torch.bfloat16
        recompute(model, way.demand.recompute)
        optimizer = make_optimizer(model, weight_decay=0.01, plan=STATE_PLANS[states])
        correction = calibrate(model, optimizer, way.demand)
        corrected = memory_of(way.demand, correction)
        split = new_split((1024, 1024), way.demand.tokens * way.demand.micro_batches)
        micro_batches = list(packed(split, windows_of(split.stretches, 1024), way.demand.tokens))
        scaler = torch.amp.GradScaler(device.type, enabled=False)
        clear(device)
        losses: list[torch.Tensor] = []
        started_s = 0.0
        for number in range(3 if quick else CARD_STEPS):
            if number == 2:
                wait(device)
                started_s = time.perf_counter()
            result = train_step(model, optimizer, micro_batches, learning_rate=1e-4, max_grad_norm=1.0, scaler=scaler)
            losses.append(result.nats / result.tokens)
        wait(device)
        rate = result.tokens * (len(losses) - 2) / (time.perf_counter() - started_s)
        return {
            "states": states,
            "recompute": way.demand.recompute,
            "tokens_per_micro_batch": way.demand.tokens,
            "micro_batches": way.demand.micro_batches,
            "loss_first": float(losses[0]),
            "loss_last": float(losses[-1]),
            "tokens_per_s": rate,
            "mfu": share_of_peak(rate, config, 1024, device),
            "planned_bytes": way.memory.peak_bytes,
            "corrected_bytes": corrected.peak_bytes,
            "measured_bytes": peak_bytes(device),
        }
    except torch.OutOfMemoryError as error:
        return {"states": states, "fits": False, "error": str(error).splitlines()[0]}
    finally:
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)


def generation(shape: str, device: torch.device, *, quick: bool) -> dict[str, Any]:
    """New tokens per second: ours with so many texts side by side, ahead of the host and not, and `pipeline`'s."""
    clear(device)
    model = new_model(shape, device).eval()
    model.compute_dtype = torch.bfloat16
    n_new = 8 if quick else 256
    rates: dict[str, float] = {}
    for n_texts in (1, 4) if quick else (1, 64, 256):
        for way, ahead in (("", True), (", without going ahead", False)):
            write = writer(model, n_texts, n_new, ahead=ahead)
            write()
            wait(device)
            started_s = time.perf_counter()
            n_tokens = write()
            wait(device)
            rates[f"{n_texts} at once{way}"] = n_tokens / (time.perf_counter() - started_s)
    del model
    rates["pipeline, 1 at once"] = pipeline_rate(SHAPES[shape], n_new, device)
    return {"tokens_per_s": rates, "against_pipeline": rates["1 at once"] / rates["pipeline, 1 at once"]}


def writer(model: GPT2, n_texts: int, n_new: int, *, ahead: bool) -> Callable[[], int]:
    """Writes texts and returns how many tokens they have; steps that were recorded once are kept, as in a server."""
    vocab_size = model.config.vocab_size
    engine = Engine(model, end_of_text_id=vocab_size, texts_at_once=n_texts, positions=n_new + 1, ahead=ahead)

    def write() -> int:
        for seed in range(n_texts):
            engine.submit(Request([0], seed, SamplingRules(0.8, 0, 0.95), n_new))
        return sum(len(text.tokens) for _, text in engine.run())

    return write


def pipeline_rate(layers_width_heads: tuple[int, int, int], n_new: int, device: torch.device) -> float:
    """As most scripts write: one prompt after the other through `pipeline`, in bf16."""
    from transformers import GPT2Config as HFConfig  # noqa: PLC0415
    from transformers import GPT2LMHeadModel, pipeline  # noqa: PLC0415

    layers, width, heads = layers_width_heads
    network = GPT2LMHeadModel(HFConfig(n_layer=layers, n_embd=width, n_head=heads)).to(device, torch.bfloat16).eval()
    write = pipeline("text-generation", model=network, tokenizer=byte_tokenizer(), device=device)
    exactly = {"max_new_tokens": n_new, "min_new_tokens": n_new, "do_sample": True, "top_p": 0.95, "top_k": 0}
    write("night", **exactly)
    wait(device)
    started_s = time.perf_counter()
    write("night", **exactly)
    wait(device)
    return n_new / (time.perf_counter() - started_s)


def share_of_peak(tokens_per_s: float, shape: GPT2Config, mean_context: float, device: torch.device) -> float | None:
    """MFU as PaLM and nanoGPT count it, all pairs of tokens included; None for a card whose data sheet is not known."""
    card = known_card(card_name(device))
    flops = 6 * shape.matrix_parameters + 12 * shape.n_layer * shape.n_embd * mean_context
    return tokens_per_s * flops / (card.speed.tflops * 1e12) if card and card.speed else None


def card_name(device: torch.device) -> str:
    """Of the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def wait(device: torch.device) -> None:
    """Until everything asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clear(device: torch.device) -> None:
    """Give back what earlier measurements held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """Most memory that was allocated."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


if __name__ == "__main__":
    main()
