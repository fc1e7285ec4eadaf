"""Runs what `doctor` may run itself: packages of the environment that it runs in."""

import shlex
import subprocess

from tunesmith.errors import UserError


def fix(commands: tuple[tuple[str, ...], ...]) -> None:
    """Run the commands one after the other, in sight of the person.

    Raises:
        UserError: for the first one that fails; those behind it are not run.
    """
    for command in commands:
        try:
            code = subprocess.run(command, check=False).returncode  # noqa: S603  made by `remedies`, shown before
        except OSError as error:
            raise UserError(
                "{program} cannot be run: {error}",
                hint="run it by hand: {command}",
                program=command[0],
                error=error.strerror or error,
                command=shlex.join(command),
            ) from None
        if code:
            raise UserError(
                "it failed: {command}",
                hint="its own words stand above; tunesmith explain can read them",
                command=shlex.join(command),
            )
