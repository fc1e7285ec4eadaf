"""Texts on their way from a file to the tokenizer, a list at a time."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class SampleList:
    """Samples in file order.

    Attributes:
        texts: whole texts.
        prompt_characters: of each text, how many characters at its beginning are given and not to be predicted;
            empty where every text is to be predicted whole.
        goes_on: whether the last text is unfinished and continues with the first text of the next list: a long
            document comes in parts, so that none has to fit into memory.
    """

    texts: list[str]
    prompt_characters: list[int]
    goes_on: bool = False

    def parts(self) -> tuple[list[str], list[str]]:
        """What is given and what is to be predicted, text by text."""
        pairs = zip(self.texts, self.prompt_characters, strict=True)
        prompts, completions = zip(*((text[:cut], text[cut:]) for text, cut in pairs), strict=True)
        return list(prompts), list(completions)


def without_parts(lists: Iterator[SampleList]) -> Iterator[SampleList]:
    """Whole documents, for what can only be done to the whole of a text; each has to fit into memory then."""
    begun: list[str] = []
    for some in lists:
        first, *others = some.texts
        texts = ["".join([*begun, first]) if others or not some.goes_on else first, *others]
        begun = [*([] if others else begun), texts.pop()] if some.goes_on else []
        if texts:
            yield SampleList(texts, some.prompt_characters)
