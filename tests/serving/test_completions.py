"""`/v1/completions` through OpenAI's own client: every form of asking, against transformers and against texts alone."""

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openai
import pytest
import torch
from tokenizers import Tokenizer

import tunesmith

PROMPT = "the lamp"


@pytest.fixture
def client(server: SimpleNamespace) -> Iterator[openai.OpenAI]:
    """Unchanged but for its address."""
    with openai.OpenAI(base_url=server.api, api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, **options: Any) -> Any:
    """Shorter to call."""
    return client.completions.create(**{"model": "small", "prompt": PROMPT, "max_tokens": 20, **options})


def streamed(client: openai.OpenAI, **options: Any) -> list[list[Any]]:
    """The chunks of each choice."""
    chunks: dict[int, list[Any]] = {}
    for chunk in ask(client, stream=True, **options):
        for choice in chunk.choices:
            chunks.setdefault(choice.index, []).append(choice)
    return [chunks[index] for index in sorted(chunks)]


def test_models_are_listed(client: openai.OpenAI) -> None:
    """By their names; one of them alone, too."""
    assert [model.id for model in client.models.list()] == ["tiny", "small", "reciter"]
    assert client.models.retrieve("small").owned_by == "tunesmith"
    with pytest.raises(openai.NotFoundError, match="these are: tiny, small, reciter"):
        client.models.retrieve("large")


def test_greedy_text_and_logprobs_equal_transformers(
    client: openai.OpenAI, small_folder: Path, small_tokenizer: Tokenizer
) -> None:
    """Text, log-probabilities of its tokens and of those of the prompt, and the likeliest tokens."""
    from transformers import GPT2LMHeadModel

    oracle = GPT2LMHeadModel.from_pretrained(small_folder).eval()
    ids = [0, *small_tokenizer.encode(PROMPT, add_special_tokens=False).ids]
    with torch.no_grad():
        written = oracle.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
        )[0].tolist()
        logprobs_TV = oracle(torch.tensor([written])).logits[0].log_softmax(-1)
    answer = ask(client, temperature=0, max_tokens=12, logprobs=3, echo=True)
    choice = answer.choices[0]
    assert choice.text == small_tokenizer.decode(written[1:], skip_special_tokens=False)
    assert choice.finish_reason == "length"
    expected = [logprobs_TV[place, token].item() for place, token in enumerate(written[1:])]
    assert choice.logprobs.token_logprobs == pytest.approx(expected, abs=1e-4)
    likeliest = [sorted(top.values(), reverse=True) for top in choice.logprobs.top_logprobs]
    expected_top = logprobs_TV[:-1].topk(3).values
    assert [len(top) for top in likeliest] == [3] * (len(written) - 1)
    assert np.array(likeliest) == pytest.approx(expected_top.numpy(), abs=1e-4)
    assert answer.usage.prompt_tokens == len(ids) - 1
    assert answer.usage.completion_tokens == 12


def test_a_prompt_can_be_scored_without_writing(client: openai.OpenAI) -> None:
    """echo, logprobs and max_tokens 0, whole and streamed, as evaluation harnesses ask."""
    answer = ask(client, echo=True, logprobs=1, max_tokens=0, prompt=[PROMPT, "rain at dusk"])
    assert [choice.text for choice in answer.choices] == [PROMPT, "rain at dusk"]
    assert [choice.finish_reason for choice in answer.choices] == ["length", "length"]
    offsets = answer.choices[1].logprobs.text_offset
    tokens = answer.choices[1].logprobs.tokens
    assert "".join(tokens) == "rain at dusk"
    assert offsets == [len("".join(tokens[:place])) for place in range(len(tokens))]
    [chunks, _] = streamed(client, echo=True, logprobs=1, max_tokens=0, prompt=[PROMPT, "rain at dusk"])
    assert chunks[0].text == PROMPT
    assert chunks[0].logprobs.token_logprobs == pytest.approx(answer.choices[0].logprobs.token_logprobs, abs=1e-5)


def test_several_texts_stream_as_they_are_alone(client: openai.OpenAI) -> None:
    """n=4: no stream is mixed up with another; seeds count on; whole and streamed answers are the same."""
    whole = ask(client, n=4, seed=7, logprobs=2)
    chunks = streamed(client, n=4, seed=7, logprobs=2)
    alone = [ask(client, seed=7 + number).choices[0] for number in range(4)]
    assert [choice.text for choice in whole.choices] == [choice.text for choice in alone]
    assert ["".join(chunk.text for chunk in of_choice) for of_choice in chunks] == [choice.text for choice in alone]
    assert [of_choice[-1].finish_reason for of_choice in chunks] == [choice.finish_reason for choice in alone]
    assert len({choice.text for choice in alone}) == 4
    for of_choice, choice in zip(chunks, whole.choices, strict=True):
        parts = [chunk.logprobs for chunk in of_choice if chunk.logprobs]
        assert [token for part in parts for token in part.tokens] == choice.logprobs.tokens
        assert [offset for part in parts for offset in part.text_offset] == choice.logprobs.text_offset


def test_a_text_is_that_of_generate(client: openai.OpenAI, small_folder: Path) -> None:
    """The same seed and settings write the same text in the terminal and through the server."""
    options = {"temperature": 1.2, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "repetition_penalty": 1.1}
    [expected] = tunesmith.generate(
        small_folder, prompt=PROMPT, seed=5, max_new_tokens=80, precision="fp32", include_prompt=False, **options
    )
    ours = {name: options.pop(name) for name in ("top_k", "min_p", "repetition_penalty")}
    answer = ask(client, seed=5, max_tokens=80, extra_body=ours, **options)
    assert answer.choices[0].text == expected.text


def test_no_character_is_broken(client: openai.OpenAI, recited: str) -> None:
    """Japanese, emoji and control characters arrive whole; the text ends by itself."""
    [chunks] = streamed(client, model="reciter", prompt="", max_tokens=4000, logprobs=1)
    assert "".join(chunk.text for chunk in chunks) == recited
    assert not any("\ufffd" in chunk.text for chunk in chunks)
    assert chunks[-1].finish_reason == "stop"
    assert len([chunk for chunk in chunks if chunk.text]) > 40
    names = [name for chunk in chunks if chunk.logprobs for name in chunk.logprobs.tokens]
    parts = [
        bytes.fromhex(name[6:].replace("\\x", "")) if name.startswith("bytes:") else name.encode() for name in names
    ]
    assert b"".join(parts).decode() == recited


@pytest.mark.parametrize(
    "stop", ["north", ["never", "灯台の", " wind is"], "burns and the wind is in the north; no ship"]
)
def test_stop_strings_end_a_text_and_are_not_shown(stop: str | list[str], client: openai.OpenAI, recited: str) -> None:
    """Whole and streamed, in one token or many; tokens of the stop string are not reported."""
    first = min(recited.find(one) for one in ([stop] if isinstance(stop, str) else stop) if one in recited)
    options = {"model": "reciter", "prompt": "", "max_tokens": 4000, "stop": stop, "logprobs": 0}
    choice = ask(client, **options).choices[0]
    assert choice.text == recited[:first]
    assert choice.finish_reason == "stop"
    assert all(offset < first for offset in choice.logprobs.text_offset)
    [chunks] = streamed(client, **options)
    assert "".join(chunk.text for chunk in chunks) == recited[:first]


def test_prompts_in_every_form(client: openai.OpenAI, small_tokenizer: Tokenizer) -> None:
    """Strings, token ids, lists of both, and nothing; each prompt has its n texts, one after the other."""
    ids = small_tokenizer.encode(PROMPT, add_special_tokens=False).ids
    expected = ask(client, seed=3).choices[0].text
    for prompt in (PROMPT, [PROMPT], ids, [ids], [0, *ids]):
        assert ask(client, seed=3, prompt=prompt).choices[0].text == expected
    several = ask(client, seed=3, prompt=[PROMPT, "rain"], n=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.choices[0].text == expected
    assert several.choices[3].text == ask(client, seed=6, prompt="rain").choices[0].text
    nothing = [ask(client, seed=3, prompt=prompt) for prompt in ("", None, "<|endoftext|>")]
    assert len({answer.choices[0].text for answer in nothing}) == 1
    assert nothing[0].usage.prompt_tokens == 0


def test_best_of_answers_the_likeliest(client: openai.OpenAI) -> None:
    """Of eight texts the two with the highest mean log-probability, and all eight are counted."""
    every = ask(client, n=8, seed=1, logprobs=0)
    means = {choice.text: sum(values := choice.logprobs.token_logprobs) / len(values) for choice in every.choices}
    best = ask(client, n=2, best_of=8, seed=1)
    assert [choice.text for choice in best.choices] == sorted(means, key=means.__getitem__, reverse=True)[:2]
    assert best.usage.completion_tokens == every.usage.completion_tokens


def test_a_stream_ends_with_its_usage_where_asked(client: openai.OpenAI) -> None:
    """stream_options as OpenAI defines them."""
    *chunks, last = ask(client, stream=True, max_tokens=5, stream_options={"include_usage": True})
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage.completion_tokens == 5


def test_requests_without_a_seed_differ(client: openai.OpenAI) -> None:
    """And each says its seed, which writes the text again."""
    first, second = (ask(client).choices[0] for _ in range(2))
    assert first.text != second.text
    assert ask(client, seed=first.seed).choices[0].text == first.text


WRONG: list[tuple[dict[str, Any], str | None, str]] = [
    ({"temperature": 3}, "temperature", "temperature must be at most 2"),
    ({"temperature": "hot"}, "temperature", "temperature must be a number"),
    ({"max_tokens": 5000}, "max_tokens", "this server generates at most 4,096"),
    ({"max_tokens": 0}, "max_tokens", "with echo only"),
    ({"n": 0}, "n", "n must be at least 1"),
    ({"n": 100, "prompt": ["a", "b"]}, "n", "asks for 200 texts"),
    ({"n": 2, "best_of": 1}, "best_of", "must not be less than n"),
    ({"best_of": 2, "stream": True}, "best_of", "cannot be streamed"),
    ({"logprobs": 6}, "logprobs", "logprobs must be at most 5"),
    ({"prompt": [1.5]}, "prompt", "prompt must be a string"),
    ({"prompt": [300]}, "prompt", "from 0 to 299"),
    ({"prompt": "the lamp " * 60}, "prompt", "small reads at most 63"),
    ({"stop": 3}, "stop", "stop must be a string"),
    ({"suffix": "x"}, "suffix", "suffix is not implemented"),
    ({"presence_penalty": 0.5}, "presence_penalty", "presence_penalty is not implemented"),
    ({"logit_bias": {"50": 1}}, "logit_bias", "logit_bias is not implemented"),
    ({"extra_body": {"tempreature": 1}}, "tempreature", "unknown parameter: tempreature"),
    ({"extra_body": {"echo": 1}}, "echo", "echo must be true or false"),
]


@pytest.mark.parametrize(("options", "param", "message"), WRONG)
def test_what_is_wrong_is_named(options: dict[str, Any], param: str, message: str, client: openai.OpenAI) -> None:
    """As a bad request in OpenAI's form, with the parameter."""
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **options)
    assert caught.value.param == param
    assert message in str(caught.value)
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"prompt": "\\ud800"}', b'{"prompt": "\xff"}', b"[" * 100_000])
def test_bodies_that_are_no_request(body: bytes, server: SimpleNamespace) -> None:
    """Are refused, not tripped over."""
    request = urllib.request.Request(f"{server.api}/completions", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    with caught.value as answer:
        assert answer.status == 400
        assert json.load(answer)["error"]["type"] == "invalid_request_error"


def test_64_clients_at_once(server: SimpleNamespace, small_folder: Path) -> None:
    """Whole and streamed answers, each the text that its seed writes alone."""
    expected = tunesmith.generate(
        small_folder, prompt=PROMPT, num_samples=64, seed=100, max_new_tokens=40, precision="fp32",
        temperature=1.0, top_p=1.0, include_prompt=False,
    )  # fmt: skip

    async def text(client: openai.AsyncOpenAI, number: int) -> str:
        options: dict[str, Any] = {"model": "small", "prompt": PROMPT, "seed": 100 + number, "max_tokens": 40}
        if number % 2:
            return str((await client.completions.create(**options)).choices[0].text)
        stream = await client.completions.create(**options, stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def together() -> list[str]:
        async with openai.AsyncOpenAI(base_url=server.api, api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(text(client, number) for number in range(64)))

    assert asyncio.run(together()) == [one.text for one in expected]
