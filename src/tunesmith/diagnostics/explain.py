"""The command `explain`: find the cause and the fix of an error message, a log, or a run directory."""

import re
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from string import Formatter

from tunesmith.config import ExplainConfig
from tunesmith.data.source_files import STDIN_NAMES
from tunesmith.diagnostics.matcher import RuleMatch, Specificity, all_matches
from tunesmith.diagnostics.run_diagnosis import Cause, Explanation, explain_run
from tunesmith.errors import UsageError, UserError
from tunesmith.i18n import in_every_language, say, texts
from tunesmith.run_dir import RUN_FILE

MAX_BYTES = 4 << 20
"""Read of a log, from its end, where the error is."""
MAX_OTHERS = 3
ENCODINGS = ("utf-8-sig", "utf-16", "cp932", "cp1252", "latin-1")
"""Of logs: PowerShell redirects in UTF-16, consoles in the system's own encoding."""
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
OWN_ERROR = "reported-by-tunesmith"
MIN_LETTERS = 8
"""Of a message without its values: one that is nearly all values would match anything."""


def explain(config: ExplainConfig) -> Explanation:
    """Find the cause.

    Raises:
        UserError: if there is nothing to read.
    """
    if config.source in STDIN_NAMES:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError(
                "nothing was given to explain",
                hint="name a log or a run folder, quote a message, or pipe one in: tunesmith explain < LOG",
            )
        return explain_text(_decoded(sys.stdin.buffer.read()), say("standard input"))
    path = Path(config.source)
    if path.is_dir():
        if not (path / RUN_FILE).is_file():
            raise UserError(
                "{path} contains no run",
                hint="name the folder of a run (--out of train), a log, or give the message: tunesmith explain -",
                path=path,
            )
        return explain_run(path)
    if path.is_file():
        return explain_text(_end_of(path), config.source)
    if any(character.isspace() for character in config.source):  # a message in quotes
        return explain_text(config.source, say("the message"))
    raise UserError(
        "no such file or folder: {path}",
        hint="check the path; or give the message itself: tunesmith explain 'MESSAGE', or tunesmith explain < LOG",
        path=config.source,
    )


def explain_text(text: str, source: str) -> Explanation:
    """The causes that a message or log shows."""
    matches = all_matches(text)
    relevant = [match for match in matches if match.rule.specificity > Specificity.IGNORE]
    causes = [_cause(match) for match in relevant or matches[:1]]
    own = own_error(text)
    if own is not None:
        causes.insert(0, own)
    return Explanation(source, tuple(causes[:1]), tuple(causes[1 : 1 + MAX_OTHERS]))


def _cause(match: RuleMatch) -> Cause:
    evidence = say("line {number}: {line}", number=match.line_number, line=match.line)
    return Cause(match.rule.name, say(match.rule.cause), (evidence,), say(match.rule.fix))


def _end_of(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - MAX_BYTES, 0))
        return _decoded(file.read())


def _decoded(content: bytes) -> str:
    """The text of a log in any encoding; with replacement characters where no encoding fits."""
    is_utf_16 = content.startswith(UTF_16_MARKS)
    for encoding in ENCODINGS if is_utf_16 or b"\0" not in content[:64] else ():
        if encoding == "utf-16" and not is_utf_16:
            continue
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    return content.decode("utf-8", "replace")


def own_error(log: str) -> Cause | None:
    """The last error in a log that tunesmith itself printed, in any language, with the hint below it as its fix.

    Other programs print hints too: one of the two lines has to be a text of the message catalog.
    """
    cause = None
    lines = log.splitlines()
    for number, (line, next_line) in enumerate(pairwise(lines), 1):
        message, hint = _after_label(line, "error:"), _after_label(next_line, "hint:")
        if message and hint and (_is_own_text(message) or _is_own_text(hint)):
            evidence = say("line {number}: {line}", number=number, line=line.strip())
            cause = Cause(OWN_ERROR, message, (evidence,), hint)
    return cause


def _after_label(line: str, label: str) -> str | None:
    for translated in in_every_language(label):
        if line.lstrip().startswith(translated):
            return line.lstrip().removeprefix(translated).strip()
    return None


def _is_own_text(text: str) -> bool:
    return any(pattern.fullmatch(text) for pattern in _own_patterns())


@cache
def _own_patterns() -> tuple[re.Pattern[str], ...]:
    return tuple(pattern for text in texts() if (pattern := _pattern_of(text)) is not None)


def _pattern_of(text: str) -> re.Pattern[str] | None:
    """A text of the catalog with any values in it."""
    try:
        parts = [(literal, name is not None) for literal, name, *_ in Formatter().parse(text)]
    except ValueError:  # a text without values may contain single braces
        parts = [(text, False)]
    if sum(letter.isalpha() for literal, _ in parts for letter in literal) < MIN_LETTERS:
        return None
    pattern = "".join(
        re.escape(" ".join(f".{literal}.".split())[1:-1]) + (".*" if has_value else "") for literal, has_value in parts
    )
    return re.compile(pattern, re.DOTALL)
