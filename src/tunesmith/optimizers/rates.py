"""The numbers of one update, for all who compute it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """Numbers of one update.

    Attributes:
        learning_rate: of this step.
        weight_decay: of this parameter's group.
        beta1: decay of the first moment.
        beta2: decay of the second.
        epsilon: added to the root of the second.
    """

    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    epsilon: float
