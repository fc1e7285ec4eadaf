"""Whether there is a card for every process of a host."""

from tunesmith.errors import UserError


def refuse_too_few_cards(processes: int, *, device: str) -> None:
    """Check before anything is started.

    Args:
        processes: on this host.
        device: asked for: auto, cpu or cuda.

    Raises:
        UserError: if there are more of them than cards, and cards are to be used.
    """
    import torch

    cards = torch.cuda.device_count()
    if device == "cpu" or (device == "auto" and not cards) or processes <= cards:
        return
    raise UserError(
        "{processes} processes on this host, and torch sees {cards} CUDA devices",
        hint="start one process per card (--devices {cards}, torchrun --nproc-per-node {cards}); "
        "CUDA_VISIBLE_DEVICES may hide some",
        processes=processes,
        cards=cards,
    )
