"""A byte-level BPE in which every character of the text is whole.

Trained on bytes alone, a script of thousands of characters leaves the rare ones in pieces, and some tokens end inside
of a character: a model then writes broken ones. Here the bytes of each character are merged first, and only whole
characters grow together. What the text never holds still becomes bytes.
"""

from collections.abc import Callable
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer

from tunesmith.data.tokenizer import END_OF_TEXT, TextTokenizer
from tunesmith.preparation.extended_tokenizer import cut_words, extended, new_merges
from tunesmith.preparation.new_merges import learn_merges
from tunesmith.preparation.text_reader import TextReader
from tunesmith.preparation.train_tokenizer import SMALLEST_VOCAB, learn_tokenizer

MANY_CHARACTERS = 500
"""From so many different ones on a script is no alphabet."""


def tokenizer_for_script(read: Callable[[], TextReader], alphabet: set[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of the text, with whole characters where there are many.

    Args:
        read: begins to read the text again.
        alphabet: every character in it.
        vocab_size: every byte and end-of-text among them.

    Raises:
        UserError: if there is no text.
    """
    if len(alphabet) < MANY_CHARACTERS:
        return learn_tokenizer(read(), vocab_size)
    plain = learn_tokenizer(read(), SMALLEST_VOCAB)
    end_of_text_id = int(plain.token_to_id(END_OF_TEXT) or 0)
    plain_bytes = TextTokenizer(plain, end_of_text_id=end_of_text_id, folder=Path())
    new = new_merges(plain_bytes)
    learn_merges(new, cut_words(plain_bytes, sorted(alphabet)), None)
    room = vocab_size - len(new.vocab)
    if room < 0:
        return learn_tokenizer(read(), vocab_size)
    whole = extended(plain_bytes, new, {})
    learn_merges(new, cut_words(whole, chain.from_iterable(read().lists())), room)
    return Tokenizer.from_str(extended(plain_bytes, new, {}).json)
