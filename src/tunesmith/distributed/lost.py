"""A process of the training is gone, or cannot be reached: what torch says then, and what the user is told."""

from tunesmith.errors import UserError

SIGNS = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "ncclInternalError")


class LostError(UserError):
    """Another process has ended, or says nothing any more."""


def lost() -> LostError:
    """The error that tells of it."""
    return LostError(
        "another process of this training has ended, or cannot be reached any more",
        hint="what was saved before stays: start the same command again with --resume",
    )


class ToldError(Exception):
    """The training ended with an error that another process tells the user."""


def is_loss(error: BaseException) -> bool:
    """Whether an error of torch says that another process cannot be reached."""
    import torch.distributed as dist

    if isinstance(error, dist.DistError):  # of the backend, the network or the store
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
