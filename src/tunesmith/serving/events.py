"""What a server tells its owner. No extra is needed to read this."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.serving.served_model import ServedModel


@dataclass(frozen=True)
class Serving:
    """What is served where, once it is.

    Attributes:
        url: of the page on this machine, with the token if there is one.
        api: base of OpenAI's paths.
        models: that are served.
    """

    url: str
    api: str
    models: "list[ServedModel]"


@dataclass(frozen=True)
class Answered:
    """A request that is done with.

    Attributes:
        model: its name.
        outcome: ok, hung_up or the code of an error.
        texts: that were asked for.
        tokens: that were written.
        duration_s: of all of it.
    """

    model: str
    outcome: str
    texts: int
    tokens: int
    duration_s: float
