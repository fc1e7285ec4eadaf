"""Generation: tokens per second against transformers, and two engines at once in two threads."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from gpu_stages.running import Case, Result, Setting, a_gpu
from gpu_stages.workloads import SIZES, config_of, memory, new_model, seconds_of, wait
from tunesmith.generation.engine import Engine
from tunesmith.generation.sampling import SamplingParams
from tunesmith.generation.sequence import GenerationRequest
from tunesmith.model.gpt2 import GPT2

FILTERED = SamplingParams(0.8, 40, 0.95)
PLAIN = SamplingParams(1.0, 0, 1.0)
RULES = {"no filters": PLAIN, "top-k 40 and top-p 0.95": FILTERED}
ENGINES_RUNS, THREAD_LIMIT_S = 3, 30.0


def generator(model: GPT2, n_texts: int, n_new: int, rules: SamplingParams) -> Callable[[], list[list[int]]]:
    """Generates texts from a one-token prompt and returns their tokens; recorded graphs are kept, as in a server."""
    engine = Engine(
        model, end_of_text_id=model.config.vocab_size, batch_size=n_texts, positions=n_new + 1, async_decode=True
    )

    def run() -> list[list[int]]:
        for seed in range(n_texts):
            engine.submit(GenerationRequest([0], seed, rules, n_new))
        return [text.tokens for _, text in sorted(engine.run(), key=lambda finished: finished[0])]

    return run


def decoding(setting: Setting, n_texts: int) -> Result:
    """New tokens per second in bf16, with and without filters: ours, and `generate` of transformers."""
    from transformers import GPT2Config as HFConfig
    from transformers import GPT2LMHeadModel

    device = setting.torch_device
    size, n_new = ("gpt2", 128) if setting.is_gpu else ("tiny", 8)
    model = new_model(size, device).to(torch.bfloat16).eval()
    model.compute_dtype = torch.bfloat16
    layers, channels, heads = SIZES[size]
    vocabulary = config_of(size).vocab_size
    config = HFConfig(vocab_size=vocabulary, n_layer=layers, n_embd=channels, n_head=heads, eos_token_id=None)
    peer = GPT2LMHeadModel(config).to(device, torch.bfloat16).eval()
    prompts = torch.zeros(n_texts, 1, dtype=torch.int64, device=device)
    times = 2 if setting.is_gpu else 1
    rates: dict[str, dict[str, float]] = {}
    for name, rules in RULES.items():
        run = generator(model, n_texts, n_new, rules)
        ours_s = seconds_of(run, device, times=times, warm_ups=1)

        def peers(rules: SamplingParams = rules) -> None:
            peer.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=n_new,
                min_new_tokens=n_new,
                do_sample=True,
                temperature=rules.temperature,
                top_k=rules.top_k,
                top_p=rules.top_p,
                pad_token_id=0,
            )

        theirs_s = seconds_of(peers, device, times=1, warm_ups=1)
        n_tokens = n_texts * n_new
        rates[name] = {"ours": n_tokens / ours_s, "transformers": n_tokens / theirs_s, "ratio": theirs_s / ours_s}
    return {"tokens_per_s": rates, **memory(device)}


def two_engines(setting: Setting) -> Result:
    """Two models that begin at the same moment in two threads, as in a server of both: each as it is alone."""
    device = setting.torch_device
    n_new = 64 if setting.is_gpu else 8
    models = [new_model("tiny", device, dtype=torch.float32).eval() for _ in range(2)]
    rules = replace(FILTERED, top_k=20)
    alone = [generator(model, 4, n_new, rules)() for model in models]
    errors: list[str] = []
    differing: list[int] = []
    barrier = threading.Barrier(2)

    def run(place: int) -> None:
        try:
            barrier.wait(THREAD_LIMIT_S)
            runs = [generator(models[place], 4, n_new, rules)() for _ in range(ENGINES_RUNS)]
            differing.extend(place for texts in runs if texts != alone[place])
        except Exception as error:  # noqa: BLE001  a result
            errors.append(f"{type(error).__name__}: {error}"[:300])

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(2)]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(THREAD_LIMIT_S)
    hangs = sum(thread.is_alive() for thread in threads)
    if not hangs:
        wait(device)
    is_right = not (errors or hangs or differing)
    return {
        "status": "pass" if is_right else "fail",
        "errors": errors,
        "hanging_threads": hangs,
        "texts_that_differ": len(differing),
        "together_s": time.perf_counter() - began_s,
    }


def dropped_engine(setting: Setting) -> Result:
    """An engine that is dropped with steps under way, its memory given back at once."""
    device = setting.torch_device
    model = new_model("tiny", device).eval()
    for _ in range(3):
        engine = Engine(model, end_of_text_id=model.config.vocab_size, batch_size=4, positions=300, async_decode=True)
        for seed in range(4):
            engine.submit(GenerationRequest([0], seed, FILTERED, 200))
        for _ in range(10):
            engine.step()
        getattr(engine, "close", lambda: None)()
        del engine
        torch.cuda.empty_cache()
    torch.cuda.synchronize()
    return {"engines": 3}


DECODING = tuple(
    Case(f"{n_texts} text{'s' if n_texts > 1 else ''}", partial(decoding, n_texts=n_texts)) for n_texts in (1, 64)
)
ENGINES = (
    Case("two engines in two threads", two_engines),
    Case("an engine dropped under way", dropped_engine, a_gpu),
)
