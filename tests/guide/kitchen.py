"""Where the guide's commands are run: a folder with what a reader would have, and stand-ins for what the hub has.

Commands run in this process, as they are printed, with these exceptions: `tiny` answers to the names on the hub, runs
end after a few steps (those that the page resumes, in the middle), models from scratch are small, texts are few and
short, and a server takes a free port.
"""

import io
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tunesmith.cli import main
from tunesmith.model.hub import PRESETS, local_folder

from .pages import ROOT, Block, arguments_of, commands_of

ON_THE_HUB = (*PRESETS.values(), "rinna/japanese-gpt2-small")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FEW_STEPS, FEW_TEXTS, FEW_TOKENS = "3", "2", "16"
NO_TIME_HOURS = "0.000001"
ELSEWHERE = {"torchrun", "srun", "sbatch", "docker", "ssh", "export", "hf"}
"""Starters that another machine has; what they start is parsed."""
TO_THE_HUB = {"push"}
"""Commands that only a hub can answer: their own tests have one."""
PURE = {"doctor", "plan", "runs"}
"""Commands that leave nothing behind: the same command on another page need not run again."""
PORT = "http://127.0.0.1:8000"

CLOSINGS = ("Lamp steady.", "All well.", "Lamp lit until dawn.", "No ship in danger.", "Oil enough.")
LINES = [f"Night {night}: wind from the north, {night} gulls on the rail. {CLOSINGS[night % 5]}" for night in range(40)]
ROWS = [f"{number},Question {number} about the lamp?,It burns {number} hours." for number in range(20)]
READERS_FILES = {
    "my-texts.txt": "\n".join(LINES) + "\n",
    "untouched.txt": "\n".join(LINES[:5]).replace("Night", "Evening") + "\n",
    "more-texts.txt": "\n".join(LINES[:10]).replace("Night", "Morning") + "\n",
    "input.txt": "\n".join(LINES) + "\n",
    "terms.txt": "lighthouse\nforeland\n",
    "novels/one.txt": "\n".join(LINES) + "\n",
    "big/one.txt": "\n".join(LINES) + "\n",
    "texts/one.txt": "\n".join(LINES[:15]) + "\n",
    "texts/two.md": "\n".join(LINES[15:]) + "\n",
    "old-texts.txt": "\n".join(f"第{night}夜、灯台の灯は静かに燃えている。" for night in range(40)) + "\n",
    "posts.csv": "id,body\n" + "\n".join(f'{n},"{line}"' for n, line in enumerate(LINES)) + "\n",
    "faq.csv": "id,question,answer\n" + "\n".join(ROWS) + "\n",
    "prompts.csv": "prompt\nNight 1\nThe lamp\n",
    "prompts.txt": "Night 1\nThe lamp\n",
    "run.log": "step 12\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 96.00 MiB.\n",
}
OTHER_ENCODINGS = {"old-texts.txt": "cp932"}


def hub_cache(folder: Path) -> Path:
    """What the hub's library keeps after a download: `tiny` under the names of other models."""
    for name in ON_THE_HUB:
        repository = folder / f"models--{name.replace('/', '--')}"
        shutil.copytree(local_folder("tiny"), repository / "snapshots" / COMMIT)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
    return folder


@dataclass
class Kitchen:
    """One page's folder, and what its blocks leave behind for those below them.

    Attributes:
        folder: where commands run.
        trained: the run folder that the first command of the README leaves.
        runs_before: where commands of earlier pages have left their results; the same command is not run twice.
        resumed: the runs that the page resumes.
        earlier: the runs that a reader of earlier pages has.
        names: what blocks of Python have defined.
        server: the one that the page started.
        address: where it listens.
        shown: what the block before has printed.
    """

    folder: Path
    trained: Path
    runs_before: dict[str, Path]
    resumed: set[str]
    earlier: tuple[str, ...]
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    server: subprocess.Popen[str] | None = None
    address: str = PORT
    shown: str = ""

    def __enter__(self) -> Self:
        """Lay out what a reader would have."""
        shutil.copytree(ROOT / "examples", self.folder / "examples")
        (self.folder / "recipes").mkdir()
        for recipe in (ROOT / "recipes").glob("*.toml"):
            shutil.copyfile(recipe, self.folder / "recipes" / recipe.name)
        for name, text in READERS_FILES.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_text(text, encoding=OTHER_ENCODINGS.get(name, "utf-8"))
        for name in self.earlier:
            shutil.copytree(self.trained, self.folder / name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the server, which has to end well."""
        if self.server is None:
            return
        self.server.send_signal(signal.SIGTERM)
        self.server.communicate(timeout=60)
        if kind is None:
            assert self.server.returncode == 0

    def do(self, block: Block) -> None:
        """Run a block, or write the file that it is."""
        if block.title:
            (self.folder / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            text = block.text.replace(PORT, self.address)
            exec(compile(text, block.page, "exec"), self.names)  # noqa: S102  our own documentation
        elif block.language == "bash":
            with redirect_stdout(io.StringIO()) as stdout:
                for command in commands_of(block.text):
                    self._run(command)
            self.shown = stdout.getvalue()
        elif block.language == "output":
            shown = {" ".join(line.split()) for line in self.shown.splitlines()}
            assert [line for line in block.text.splitlines() if " ".join(line.split()) not in shown] == []

    def _run(self, command: str) -> None:
        if command.startswith("pip install"):
            return  # what it installs is compared with pyproject.toml elsewhere
        words = shlex.split(command)
        arguments = arguments_of(command)
        if words[0] in ELSEWHERE or command == "pytest":  # which is running
            return
        if needs_a_shell(command):
            self._in_a_shell(command)
        elif words[0] != "tunesmith" or arguments is None:
            raise AssertionError(f"{command}: a command of another machine belongs in a block of ```shell")
        elif arguments[0] == "serve":
            self._serve(arguments)
        elif (
            arguments[0] not in TO_THE_HUB and "--devices" not in arguments
        ):  # the tests of several processes run those
            self._here(arguments)

    def _here(self, arguments: list[str]) -> None:
        out = arguments[arguments.index("--out") + 1] if "--out" in arguments else ""
        known = " ".join(arguments)
        if known in self.runs_before:
            if out and not (self.folder / out).exists():
                shutil.copytree(self.runs_before[known], self.folder / out)
            return
        if "--help" in arguments:  # which remembers the width of the terminal for as long as a process lasts
            program = [sys.executable, "-m", "tunesmith"]
            assert subprocess.run([*program, *arguments], check=True, capture_output=True, text=True).stdout
            return
        words = shortened(arguments, is_resumed=out in self.resumed)
        code = main(words)
        expected = {130} if NO_TIME_HOURS in words else {0, 1} if arguments[0] == "doctor" else {0}  # it may find much
        assert code in expected, arguments
        if arguments[0] in PURE or (arguments[0] == "train" and out and out not in self.resumed):
            self.runs_before[known] = self.folder / out

    def _serve(self, arguments: list[str]) -> None:
        command = [sys.executable, "-m", "tunesmith", *arguments, "--port", "0", "--json", "--quiet"]
        self.server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=self.folder)
        assert self.server.stdout is not None
        self.address = json.loads(self.server.stdout.readline())["url"].rstrip("/")

    def _in_a_shell(self, command: str) -> None:
        """Pipes are the shell's; there, too, the program is this one."""
        here = f"{shlex.quote(sys.executable)} -m tunesmith"
        program = re.sub(r"tunesmith train (\S+)", rf"tunesmith train \1 --max-steps {FEW_STEPS}", command)
        program = re.sub(r"tunesmith generate (\S+)", rf"\g<0> --max-new-tokens {FEW_TOKENS}", program)
        program = re.sub(r"(^|\| *)tunesmith ", rf"\1{here} ", program)
        subprocess.run(["bash", "-euo", "pipefail", "-c", program], cwd=self.folder, check=True)


def needs_a_shell(command: str) -> bool:
    """Whether there are pipes, redirections or variables in it, outside of quotes."""
    words = shlex.shlex(command, posix=True, punctuation_chars=True)
    return any(set(word) <= set("|<>;&") for word in words) or re.search(r"\$['({A-Z]", command) is not None


def shortened(arguments: list[str], *, is_resumed: bool) -> list[str]:
    """The same command for people in a hurry."""
    words, added = list(arguments), list[str]()
    if "--size" in words:
        at = words.index("--size")
        words[at : at + 2] = ["--n-layer", "1", "--n-embd", "64"]
    if "--memorization" in words:
        words[words.index("--memorization") + 1] = FEW_TEXTS
    if "--help" in words or "--resume" in words:
        return words
    if words[0] == "train" and is_resumed:
        added = ["--max-hours", NO_TIME_HOURS]
    elif words[0] == "train" and "--max-steps" in words:
        words[words.index("--max-steps") + 1] = FEW_STEPS
    elif words[0] == "train":
        added = ["--max-steps", FEW_STEPS]
    elif words[0] == "generate" and "--max-new-tokens" not in words:
        added = ["--max-new-tokens", FEW_TOKENS]
    return words + added
