"""Checks that all processes start with the same text, model and versions: a run of different ones would go wrong."""

import hashlib
from pathlib import Path

from tunesmith.data.cache import content_hash
from tunesmith.distributed.world import World
from tunesmith.errors import UserError
from tunesmith.i18n import LazyString
from tunesmith.model.hf_checkpoint import weight_files
from tunesmith.utils.device import environment

NAMES = {
    "versions": LazyString("the versions of tunesmith and torch"),
    "text": LazyString("the text"),
    "model": LazyString("the weights of the model"),
}
ADVICE = {
    "versions": LazyString("pip install the same versions there"),
    "text": LazyString("copy the text there, or read it from a folder that all hosts see"),
    "model": LazyString("copy the model's folder there, or name the same revision"),
}
SHOWN_CHARACTERS = 40
"""Enough of a checksum."""


def check_same_inputs(world: World, text: str, model: Path | None) -> None:
    """Compare what the processes start with; all of them come to the same verdict.

    Args:
        world: all processes.
        text: fingerprint of the text; empty where there is none.
        model: folder of the weights; None where the main process broadcasts them.

    Raises:
        UserError: naming the first process that differs from the main process, and in what.
    """
    if world.size == 1:
        return
    versions = environment()
    by_rank = world.all_gather_object(
        {
            "versions": f"tunesmith {versions['tunesmith']}, torch {versions['torch']}",
            "text": text,
            "model": weights_sha256(model) if model and world.local_rank == 0 else "",  # others read the same file
        }
    )
    for rank, facts in enumerate(by_rank):
        for name, value in by_rank[0].items():
            if value and facts[name] and facts[name] != value:
                raise UserError(
                    "rank {rank} differs from rank 0 in {name}: {there} there, {here} here",
                    hint="give every host the same files, versions and command; {advice}",
                    rank=rank,
                    name=NAMES[name],
                    there=facts[name][:SHOWN_CHARACTERS],
                    here=value[:SHOWN_CHARACTERS],
                    advice=ADVICE[name],
                )


def weights_sha256(folder: Path) -> str:
    """Return one checksum of a model folder's weights; with --from-scratch there may be none."""
    digest = hashlib.sha256()
    for path in weight_files(folder):
        digest.update(content_hash(path).encode())
    return digest.hexdigest()
