"""Whether all processes begin with the same: a run of different texts or versions would go wrong without a word."""

import hashlib
from pathlib import Path

from tunesmith.data.content_hash import content_hash
from tunesmith.distributed.team import Team
from tunesmith.errors import UserError
from tunesmith.messages.catalogue import Phrase, say
from tunesmith.model.hf_checkpoint import weight_files

NAMES = {
    "versions": Phrase("the versions of tunesmith and torch"),
    "text": Phrase("the text"),
    "model": Phrase("the weights of the model"),
}
"""What is compared."""
SHOWN = 40
"""Characters of a value: a fingerprint is told by its first ones."""


def refuse_different(team: Team, facts: dict[str, str]) -> None:
    """Compare what every process begins with; all of them come to the same verdict.

    Args:
        team: all processes.
        facts: by the keys of `NAMES`; an empty one was not looked at.

    Raises:
        UserError: naming the first process that differs from the first of all, and in what.
    """
    by_rank = team.gather(facts)
    for rank, other in enumerate(by_rank):
        for name, value in by_rank[0].items():
            if value and other[name] and other[name] != value:
                raise UserError(
                    "rank {rank} differs from rank 0 in {name}: {there} there, {here} here",
                    hint="give every host the same files, versions and command; {advice}",
                    rank=rank,
                    name=NAMES[name],
                    there=other[name][:SHOWN],
                    here=value[:SHOWN],
                    advice=_advice(name),
                )


def weights_sha256(folder: Path) -> str:
    """Of a model folder's weights; with --from-scratch there may be none."""
    together = hashlib.sha256()
    for path in weight_files(folder):
        together.update(content_hash(path).encode())
    return together.hexdigest()


def _advice(name: str) -> str:
    if name == "versions":
        return say("pip install the same versions there")
    if name == "model":
        return say("copy the model's folder there, or name the same revision")
    return say("copy the text there, or read it from a folder that all hosts see")
