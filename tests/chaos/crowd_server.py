"""A crowd at `tunesmith serve`: many clients at once for a while, some of which hang up; then SIGTERM.

    python tests/chaos/crowd_server.py [--clients 64 --seconds 60 --model tiny]

Every client writes in a loop with the official client, plain and streaming in turn, each request with a prompt and a
seed of its own; what comes back has to be the text that `tunesmith generate` writes from the same seed. Every tenth
turn is a stream that is hung up in its middle. At the end the server has to be free of texts, and a SIGTERM during
the last answers has to let them finish. Prints the counts; exit code 1 if anything was wrong.
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from itertools import count
from urllib.request import urlopen

import openai

import tunesmith

PROMPTS = [f"Night {number}. Wind " for number in range(8)]
SEEDS = 16
TOKENS = 32
HANG_UP_EVERY = 10


@dataclass
class Counts:
    """What came back."""

    answers: int = 0
    streams: int = 0
    hung_up: int = 0
    wrong: int = 0
    errors: int = 0
    tokens: int = 0


def main() -> int:
    """Run the crowd."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--model", default="tiny")
    asked = parser.parse_args()
    expected = expected_texts(asked.model)
    command = [sys.executable, "-u", "-m", "tunesmith", "serve", asked.model, "--port", "0", "--precision", "fp32"]
    command += ["--batch-size", "64", "--max-queue", "256"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            api = next(line.split()[1] for line in server.stderr if line.startswith("API"))
            threading.Thread(target=server.stderr.read, daemon=True).start()  # a full pipe would stop the server
            counts = asyncio.run(crowd(api, asked.clients, asked.seconds, expected))
            left = texts_left(api)
            finished = asyncio.run(ended_by_signal(api, server, expected))
            code = server.wait(60)
        finally:
            server.kill()
    result = {**asdict(counts), "texts_left": left, "finished_after_sigterm": finished, "exit_code": code}
    print(json.dumps(result))
    clean = not counts.wrong and not counts.errors and not left and finished == len(PROMPTS) and code in {0, 130, 143}
    return 0 if clean and counts.answers and counts.streams and counts.hung_up else 1


def expected_texts(model: str) -> dict[tuple[str, int], str]:
    """What each prompt and seed becomes when the command writes it."""
    return {
        (prompt, text.seed): text.text
        for prompt in PROMPTS
        for text in tunesmith.generate(
            model,
            prompt=prompt,
            seed=0,
            num_samples=SEEDS,
            max_new_tokens=TOKENS,
            precision="fp32",
            include_prompt=False,
            device="cpu",
        )
    }


async def crowd(api: str, clients: int, seconds: float, expected: dict[tuple[str, int], str]) -> Counts:
    """Ask for as long as that."""
    counts, ends = Counts(), time.monotonic() + seconds
    async with openai.AsyncOpenAI(base_url=api, api_key="none", max_retries=0, timeout=120) as client:
        await asyncio.gather(*(one_client(client, number, ends, expected, counts) for number in range(clients)))
    return counts


async def one_client(
    client: openai.AsyncOpenAI, number: int, ends: float, expected: dict[tuple[str, int], str], counts: Counts
) -> None:
    """One after the other, plain and streaming in turn."""
    model = (await client.models.list()).data[0].id
    for turn in count(number):
        if time.monotonic() > ends:
            return
        prompt, seed = PROMPTS[turn % len(PROMPTS)], turn * 7 % SEEDS
        options = {"model": model, "prompt": prompt, "seed": seed, "max_tokens": TOKENS}
        options |= {"temperature": 0.8, "top_p": 0.95}
        try:
            if turn % 2:
                answer = await client.completions.create(**options)
                text, counts.answers = answer.choices[0].text, counts.answers + 1
                counts.tokens += answer.usage.completion_tokens
            else:
                text = ""
                stream = await client.completions.create(**options, stream=True)
                if turn % HANG_UP_EVERY == 0:
                    await anext(aiter(stream))
                    await stream.close()
                    counts.hung_up += 1
                    continue
                async for piece in stream:
                    text += piece.choices[0].text
                counts.streams += 1
        except openai.OpenAIError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            counts.errors += 1
            continue
        counts.wrong += text != expected[prompt, seed]


def texts_left(api: str) -> int:
    """How many texts the server still holds, a few seconds after the last client has gone."""
    for _ in range(50):
        lines = urlopen(api.removesuffix("/v1") + "/metrics").read().decode().splitlines()
        gauges = ("tunesmith_sequences_running{", "tunesmith_sequences_waiting{")
        held = [line for line in lines if line.startswith(gauges)]
        left = int(sum(float(line.rsplit(" ", 1)[1]) for line in held))
        if not left:
            return 0
        time.sleep(0.1)
    return left


async def ended_by_signal(api: str, server: subprocess.Popen[str], expected: dict[tuple[str, int], str]) -> int:
    """How many of the answers that had begun come whole after a SIGTERM."""
    async with openai.AsyncOpenAI(base_url=api, api_key="none", max_retries=0) as client:
        model = (await client.models.list()).data[0].id
        options = {"model": model, "max_tokens": TOKENS, "seed": 3, "temperature": 0.8, "top_p": 0.95, "stream": True}
        streams = [(prompt, await client.completions.create(**options, prompt=prompt)) for prompt in PROMPTS]
        server.send_signal(signal.SIGTERM)
        texts = {prompt: "".join([piece.choices[0].text async for piece in stream]) for prompt, stream in streams}
    return sum(text == expected[prompt, 3] for prompt, text in texts.items())


if __name__ == "__main__":
    sys.exit(main())
