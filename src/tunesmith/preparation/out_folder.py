"""Where the verbs of this room write."""

from pathlib import Path

from tunesmith.errors import UserError


def refuse_taken(out: Path) -> None:
    """Check that nothing stands there that could be lost.

    Raises:
        UserError: if it is a file, or a folder that is not empty.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError("--out {out} already holds something", hint="name a folder that does not exist yet", out=out)
