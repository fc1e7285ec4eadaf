"""The whole visit: ask the machine, judge the answers."""

from tunesmith.doctor.gather import gather
from tunesmith.doctor.verdict import Verdict, judge


def examine(*, model: str | None = None, quick: bool = False) -> Verdict:
    """Check this machine; takes seconds, or with `quick` less than one, and never hangs.

    Args:
        model: also say whether it can be trained here.
        quick: do not try torch, the tokenizer and the hub.
    """
    return judge(gather(model=model, quick=quick))
