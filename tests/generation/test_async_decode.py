"""Steps launched async_decode of their results write what steps on the host write; here on the CPU, without a graph."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from tunesmith.errors import UserError
from tunesmith.generation import async_decode
from tunesmith.generation.async_decode import WARMUP_CALLS, CUDAGraphRecorder
from tunesmith.generation.engine import STEPS_AHEAD, Engine
from tunesmith.generation.kv_cache import KVCache
from tunesmith.generation.sampling import SamplingParams
from tunesmith.generation.sequence import GenerationOutput, GenerationRequest, TokenLogprob
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hf_checkpoint import load_gpt2

GREEDY = SamplingParams(0.0, 0, 1.0)
SAMPLED = SamplingParams(1.0, 50, 0.95)
NEVER = 300
GPU = torch.device("cuda", 1)
PROMPTS = [[0], [0, 5, 9, 14], [0, *range(100, 130)], [0, 7], [0, 3, 3, 3, 3]]


@pytest.fixture
def model(make_model_folder: Callable[..., Path]) -> GPT2:
    """Random weights, 64 positions, 300 tokens."""
    return load_gpt2(make_model_folder())


@pytest.fixture(autouse=True)
def short_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that texts outgrow a step and go on in the next one."""
    monkeypatch.setattr(async_decode, "KV_BUCKET_MULTIPLE", 16)


def written(
    model: GPT2, requests: list[GenerationRequest], *, is_async: bool, at_once: int = 3, end: int = NEVER
) -> list[GenerationOutput]:
    """By an engine that decodes asynchronously or does not."""
    engine = Engine(model, end_of_text_id=end, batch_size=at_once, positions=10_000, async_decode=is_async)
    for request in requests:
        engine.submit(request)
    return [text for _, text in sorted(engine.run(), key=lambda finished: finished[0])]


def assert_same(some: list[GenerationOutput], others: list[GenerationOutput]) -> None:
    """Tokens and endings, and log-probabilities up to the rounding of sums."""
    assert [(text.tokens, text.finish_reason) for text in some] == [(it.tokens, it.finish_reason) for it in others]
    for one, other in zip(some, others, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_greedy_equals_transformers(
    seed: int,
    at_once: int,
    make_model_folder: Callable[..., Path],
    greedy_by_transformers: Callable[[GPT2LMHeadModel, list[int], int], list[int]],
) -> None:
    """Unequal prompts, more of them than places, beyond the positions."""
    heads = 1 + seed % 3
    shape = {"n_layer": 1 + seed % 2, "n_head": heads, "n_embd": 16 * heads, "n_positions": 16 + 8 * seed}
    folder = make_model_folder(seed=seed, **shape)
    oracle = GPT2LMHeadModel.from_pretrained(folder).eval()
    random = torch.Generator().manual_seed(seed)
    lengths = (1, 3, shape["n_positions"] // 2, shape["n_positions"] - 1, shape["n_positions"])
    prompts = [[0, *torch.randint(1, 300, (n - 1,), generator=random).tolist()] for n in lengths]
    n_new = 2 * shape["n_positions"]
    texts = written(
        load_gpt2(folder),
        [GenerationRequest(prompt, 0, GREEDY, n_new) for prompt in prompts],
        is_async=True,
        at_once=at_once,
    )
    assert [text.tokens for text in texts] == [greedy_by_transformers(oracle, prompt, n_new) for prompt in prompts]


RULES = {
    "greedy": GREEDY,
    "filtered": SAMPLED,
    "plain": SamplingParams(1.0, 0, 1.0),
    "penalised": SamplingParams(0.8, 0, 0.9, 0.01, 1.3),
    "no n-gram twice": SamplingParams(1.0, 0, 0.95, no_repeat_ngram_size=2),
}


@pytest.mark.parametrize("rules", [*RULES.values(), None], ids=[*RULES, "each its own"])
@pytest.mark.parametrize("at_once", [1, 3, 16])
def test_the_same_texts_as_on_the_host(rules: SamplingParams | None, at_once: int, model: GPT2) -> None:
    """Whatever the rules, alone or mixed, of texts of many lengths that end where they like, some not too early."""
    requests = [
        GenerationRequest(
            PROMPTS[seed % len(PROMPTS)],
            seed,
            rules or list(RULES.values())[seed % len(RULES)],
            5 + 9 * (seed % 8),
            min_new_tokens=4 * (seed % 2),
            should_stop=(lambda token: token < 12) if seed % 3 == 0 else None,
        )
        for seed in range(12)
    ]
    end = written(model, [GenerationRequest([0], 1, requests[0].params, 9)], is_async=False)[0].tokens[4]
    on_host, ahead_of_it = (
        written(model, requests, is_async=is_async, at_once=at_once, end=end) for is_async in (False, True)
    )
    assert_same(ahead_of_it, on_host)
    assert len({text.finish_reason for text in on_host}) == 2


def test_steps_are_under_way_while_results_are_looked_at(model: GPT2) -> None:
    """The host never waits for a step that it has just launched, until the last one that anybody wants."""
    engine = Engine(model, end_of_text_id=NEVER, batch_size=2, positions=100, async_decode=True)
    for seed in (1, 2):
        engine.submit(GenerationRequest([0, seed], seed, SAMPLED, 8))
    under_way = []
    while not engine.is_idle:
        engine.step()
        assert engine._async is not None
        under_way.append(engine._async.steps_in_flight)
    assert under_way == [0, *[STEPS_AHEAD - 1] * 6, 0]


def test_a_text_may_be_cancelled_while_steps_are_under_way(model: GPT2) -> None:
    """The others become what they would have been; what was computed ahead is forgotten, chances are not."""
    alone = written(model, [GenerationRequest([0, 7], 3, SAMPLED, 40)], is_async=False)
    engine = Engine(model, end_of_text_id=NEVER, batch_size=3, positions=100, async_decode=True)
    first, _, wanted = (
        engine.submit(GenerationRequest([0, prompt], seed, SAMPLED, 40)) for prompt, seed in ((1, 1), (2, 2), (7, 3))
    )
    for _ in range(5):
        engine.step()
    engine.cancel(first)
    assert_same([dict(engine.run())[wanted]], alone)


def test_somebody_who_looks_at_all_logits_is_served(model: GPT2) -> None:
    """Likeliest tokens are reported to one text, while the others go on, before and behind."""
    reports: dict[bool, list[TokenLogprob]] = {False: [], True: []}

    def requests(told: list[TokenLogprob]) -> list[GenerationRequest]:
        return [
            GenerationRequest([0, 1], 1, SAMPLED, 30),
            GenerationRequest([0, 2], 2, SAMPLED, 10, on_token=told.append, n_top_logprobs=3),
            GenerationRequest([0, 3], 3, SAMPLED, 10, on_token=told.append),
        ]

    on_host, ahead_of_it = (
        written(model, requests(reports[is_async]), is_async=is_async, at_once=2) for is_async in (False, True)
    )
    assert_same(ahead_of_it, on_host)
    assert [(it.token, [token for token, _ in it.top]) for it in reports[True]] == [
        (it.token, [token for token, _ in it.top]) for it in reports[False]
    ]
    assert [len(it.top) for it in reports[True]] == [3] * 10 + [0] * 10


def test_no_numbers_are_an_error(model: GPT2) -> None:
    """As on the host: nothing is written by a damaged model."""
    engine = Engine(model, end_of_text_id=NEVER, batch_size=1, positions=100, async_decode=True)
    engine.submit(GenerationRequest([0], 1, SAMPLED, 10))
    engine.step()
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(torch.nan)
    with pytest.raises(UserError, match="returns NaN or infinity"):
        list(engine.run())


@torch.no_grad()
def test_what_a_recorded_step_reads_and_writes_stays_where_it_is(model: GPT2) -> None:
    """A CUDA graph knows addresses: neither loading texts, nor a step, nor going on from another one moves a tensor."""
    cache = KVCache(model, slots=2, positions=64)
    short, long = (
        async_decode._DecodeStep(model, model.logits, cache, NEVER, 2, bucket, sorts=True, penalizes=True)
        for bucket in (16, 32)
    )

    def addresses() -> list[dict[str, int]]:
        """Of all tensors that the steps, their rules and the cache hold."""
        holders = (short, long, short.params, long.params, cache)
        return [{n: it.data_ptr() for n, it in vars(one).items() if isinstance(it, torch.Tensor)} for one in holders]

    before = addresses()
    assert [len(held) for held in before] == [6, 6, 6, 6, 2]
    texts = [
        async_decode.ActiveSequence([0, 5, 9], SamplingParams(0.9, 40, 0.9, 0.01, 1.2), 3),
        async_decode.ActiveSequence([0, 7], GREEDY, 0),
    ]
    short.load(texts, [2, 1])
    short.run([0.3, 0.8], None)
    long.continue_from(short)
    long.run([0.1, 0.2], None)
    short.load(texts[::-1], [1, 2])
    short.run([0.5, 0.6], None)
    assert addresses() == before


def test_work_is_recorded_without_having_been_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """What warming up changes is given back; played again, the work is done. With a stand-in for a GPU."""
    counter = torch.zeros(1)

    class Graph:
        replay = staticmethod(lambda: counter.add_(1))

    class Stream:
        def __init__(self, device: torch.device) -> None:
            assert device == GPU

        def wait_stream(self, other: object) -> None:
            """Nothing runs beside."""

    @contextlib.contextmanager
    def recording(_graph: Graph, *, pool: tuple[int, int], stream: Stream, capture_error_mode: str) -> Iterator[None]:
        assert pool == (0, 1)
        assert isinstance(stream, Stream)
        assert capture_error_mode == "thread_local"
        assert counter.item() == 0
        yield
        counter.sub_(1)  # recording does nothing

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    calls = []

    def work() -> None:
        calls.append(counter.item())
        counter.add_(1)

    play = CUDAGraphRecorder(GPU).capture_cuda_graph(work, [counter])
    assert calls == [0] * (WARMUP_CALLS + 1)
    assert counter.item() == 0
    play()
    assert counter.item() == 1
