"""Bad inputs from good ones: bytes that are flipped, cut and repeated, and JSON whose values are of another kind."""

import json
import random
from typing import Any

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 1 << 16, 10**6, 1024,
    0.5, -1e308, 1e308, float("nan"), float("inf"),
    "", "\x00", "../../../etc/passwd", "/etc/passwd", "C:\\Windows", "\x1b[2J\x1b]0;title\x07", "a" * 5000, "\ud800",
    "日本", "%s%n{0}", "nan", [], {}, [[]], [None], {"a": {"b": []}}, ["../x"], list(range(50)), {"": ""},
)  # fmt: skip
"""Values that some program somewhere did not expect."""

FRAGMENTS = (
    b"\x00" * 8, b"\xff" * 8, b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"[" * 3000, b'{"a":' * 3000, b"PK\x03\x04",
    b"../../x", b"\x1b[31m", b"\xef\xbb\xbf", b"\xff\xfe", b"\r", b'"', b"<|endoftext|>", b"9" * 5000, b"-1", b"\x80",
)  # fmt: skip


def mutated_bytes(good: bytes, chance: random.Random) -> bytes:
    """A few changes in a row."""
    content = bytearray(good)
    for _ in range(chance.choice([1, 1, 2, 4, 8])):
        at = chance.randrange(len(content) + 1)
        if chance.random() < 0.5:  # the beginning is where formats keep what matters
            at = min(at, chance.randrange(64))
        kind = chance.randrange(6)
        if kind == 0 and content:
            content[min(at, len(content) - 1)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del content[at:]
        elif kind == 2:
            content[at:at] = chance.choice(FRAGMENTS)
        elif kind == 3:
            del content[at : at + chance.randrange(1, 64)]
        elif kind == 4:
            content[at:at] = content[at : at + chance.randrange(1, 256)]
        else:
            fragment = chance.choice(FRAGMENTS)
            content[at : at + len(fragment)] = fragment
    return bytes(content)


def mutated_json(good: Any, chance: random.Random) -> bytes:
    """Valid JSON with a few values of another kind, or now and then nonsense."""
    value = json.loads(json.dumps(good))
    for _ in range(chance.choice([1, 1, 2, 5])):
        value = _changed(value, chance)
    text = json.dumps(value).encode("utf-8", errors="surrogatepass")
    return mutated_bytes(text, chance) if chance.random() < 0.2 else text


def _changed(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        kind = chance.random()
        if kind < 0.15:
            return {name: part for name, part in value.items() if name != key}
        if kind < 0.2:
            return {**value, chance.choice(["", "x" * 300, "__class__", "\x00"]): chance.choice(STRANGE)}
        return {**value, key: _changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        at = chance.randrange(len(value))
        return [*value[:at], _changed(value[at], chance), *value[at + 1 :]]
    return chance.choice(STRANGE)
