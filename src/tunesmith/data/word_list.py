"""A list of words: one a line, in whatever encoding the file has."""

import io

from tunesmith.data.encoding import bad_byte, detect_encoding
from tunesmith.data.hub_datasets import HubDataset
from tunesmith.data.source_files import found_sources
from tunesmith.errors import UserError


def read_words(source: str) -> list[str]:
    """Each word once, in order, without what is blank around it.

    Raises:
        UserError: if it cannot be read or holds no word.
    """
    words: list[str] = []
    with found_sources([source]) as found:
        for file in found.files:
            if isinstance(file, HubDataset):
                continue
            encoding = detect_encoding(file)
            try:
                with io.TextIOWrapper(file.open(), encoding) as stream:
                    words += [line.strip() for line in stream]
            except UnicodeDecodeError:
                raise bad_byte(file, encoding) from None
    words = [word for word in dict.fromkeys(words) if word]
    if not words:
        raise UserError("--words {source} holds no word", hint="write one word a line", source=source)
    return words
