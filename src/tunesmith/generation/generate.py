"""The verb `generate`: a model and prompts in, texts out."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tunesmith.config import GenerateConfig
from tunesmith.data.copies import CopyIndex
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.data.trained_text import trained_text
from tunesmith.distributed.consistency import check_same_inputs
from tunesmith.distributed.launcher import command_world
from tunesmith.distributed.world import World
from tunesmith.files import refuse_existing
from tunesmith.generation.text_model import load_for_writing
from tunesmith.generation.text_requests import prompts_of, text_requests
from tunesmith.generation.uncopied import all_copy, write_uncopied
from tunesmith.generation.write_texts import GeneratedText, Interrupted, TextRequest, write_requests
from tunesmith.model.hub import local_folder


def generate_texts(
    config: GenerateConfig,
    *,
    on_text: Callable[[int, int], object] = lambda _done, _of: None,
    show: Callable[[str], object] | None = None,
    on_model: Callable[[str], object] = lambda _says: None,
) -> list[GeneratedText]:
    """Load a model and write texts: every sample of every prompt at every temperature, in this order.

    Args:
        config: what to write.
        on_text: told how many texts of how many are done.
        show: called with the pieces of a single text as they are written.
        on_model: told what computes, if there is something to tell.

    Raises:
        UserError: if the model cannot be used or a setting is impossible.
        Interrupted: at Ctrl-C, with the texts that were done.
    """
    with command_world(config) as world:
        texts, is_whole = _written(config, world, on_text, show, on_model)
    if not is_whole:
        raise Interrupted(texts)
    return texts


def _written(
    config: GenerateConfig,
    world: World,
    on_text: Callable[[int, int], object],
    show: Callable[[str], object] | None,
    on_model: Callable[[str], object],
) -> tuple[list[GeneratedText], bool]:
    """The texts, in order, and whether they are all that was asked for; of several processes only the first has them.

    Raises:
        UserError: as above.
    """
    requests = text_requests(config, world.broadcast_object(lambda: prompts_of(config)))
    if config.out and world.is_main_process:
        refuse_existing(Path(config.out))
    with world.main_process_first():
        folder = local_folder(config.model)
    check_same_inputs(world, "", folder)
    model = load_for_writing(config, world)
    if model.says and world.is_main_process:
        on_model(model.says)
    show_it = show if len(requests) == 1 and not config.reject_copied and world.size == 1 else None
    if show_it and config.include_prompt:
        show_it(requests[0].prompt)

    def write(some: Sequence[TextRequest]) -> list[GeneratedText]:
        return write_requests(
            model,
            some,
            include_prompt=config.include_prompt,
            texts_at_once=config.batch_size,
            on_text=on_text,
            show=show_it,
        )

    def accepted(some: Sequence[TextRequest]) -> list[GeneratedText]:
        if index is None:
            return write(some)
        shortest = config.reject_copied
        return write_uncopied(write, some, index, shortest, n_texts=len(requests), is_all=world.size == 1)

    index = _index_of_copies(config, model.tokenizer, world)
    own, is_whole = requests[world.rank :: world.size], True
    try:
        with _ended_as_interrupted(world):
            texts = accepted(own) if own else []
    except Interrupted as interruption:
        texts, is_whole = interruption.texts, False
    if world.size == 1:
        return texts, is_whole
    told = world.gather_object({"texts": [asdict(text) for text in texts], "is_whole": is_whole})
    texts = [GeneratedText(**text) for one in told for text in one["texts"]]
    texts.sort(key=lambda text: ((text.seed - config.seed) % len(requests), config.temperature.index(text.temperature)))
    is_whole = all(one["is_whole"] for one in told)
    on_text(len(texts), len(requests))
    if world.is_main_process and is_whole and not texts:
        raise all_copy(config.reject_copied)
    return texts, is_whole


def _index_of_copies(config: GenerateConfig, tokenizer: TextTokenizer, world: World) -> CopyIndex | None:
    """Of the text that nothing is to be copied from; None where everything is taken."""
    if not config.reject_copied:
        return None
    with world.main_process_first():
        return CopyIndex(trained_text(local_folder(config.model), tokenizer, config.trained_on).train)


@contextmanager
def _ended_as_interrupted(world: World) -> Iterator[None]:
    """With several processes SIGTERM is what Ctrl-C becomes on its way; the second time neither does anything."""
    if world.size == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except Interrupted:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise
