"""`/v1/overlap`: where a text stands in the training text."""

import json
import urllib.error
import urllib.request
from types import SimpleNamespace
from typing import Any

import pytest


def copies(server: SimpleNamespace, **asked: Any) -> list[dict[str, Any]]:
    """What the server finds."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.api}/overlap", json.dumps(asked).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        found: list[dict[str, Any]] = json.load(answer)["matches"]
        return found


@pytest.mark.parametrize("model", ["tiny", "small"])
def test_a_copied_sentence_is_found_among_others(model: str, server: SimpleNamespace, learned: list[str]) -> None:
    """In characters, Japanese before it included, with file and sample."""
    before = "灯台の夜 🎏: "
    text = f"{before}{learned[1]} And then something of its own."
    [copy] = copies(server, model=model, text=text)
    found = text[copy["start"] : copy["end"]]
    assert found in learned[1]
    assert len(found) > len(learned[1]) - 8  # the first token may differ behind a blank
    assert (copy["source"], copy["sample"]) == ("log.txt", 2)
    assert copy["tokens"] >= 8


def test_new_text_has_none(server: SimpleNamespace) -> None:
    """Nor has the empty one."""
    assert copies(server, model="tiny", text="A line that nobody has written before, about nothing.") == []
    assert copies(server, model="tiny", text="") == []


@pytest.mark.parametrize("asked", [{}, {"text": 3}, {"text": "a", "model": 3}])
def test_other_questions_are_refused(asked: dict[str, Any], server: SimpleNamespace) -> None:
    """With what to send instead."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        copies(server, **asked)
    with caught.value as answer:
        assert answer.status == 400
        assert json.load(answer)["error"]["message"] == 'send {"model": "...", "text": "..."}'
