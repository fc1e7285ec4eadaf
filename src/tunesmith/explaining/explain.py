"""The verb `explain`: an error message, a log or a run folder in; the cause, what shows it, and what mends it out."""

import sys
from pathlib import Path

from tunesmith.config import ExplainConfig
from tunesmith.data.standard_input import STANDARD_INPUT
from tunesmith.errors import UsageError, UserError
from tunesmith.explaining.explanation import Cause, Explanation
from tunesmith.explaining.own_errors import own_error
from tunesmith.explaining.run_evidence import explain_run
from tunesmith.messages.catalogue import say
from tunesmith.run_dir import RUN_FILE
from tunesmith.symptoms.recognise import Recognised, recognise_all
from tunesmith.symptoms.symptom import Says

MOST_BYTES = 4 << 20
"""Read of a log, from its end: what ended a run stands there."""
SHOWN_OTHERS = 3
ENCODINGS = ("utf-8-sig", "utf-16", "cp932", "cp1252", "latin-1")
"""Of logs: PowerShell redirects in UTF-16, consoles in the system's own."""


def explain(config: ExplainConfig) -> Explanation:
    """Find the cause.

    Raises:
        UserError: if there is nothing to read.
    """
    if config.source in STANDARD_INPUT:
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
                "{path} holds no run",
                hint="name the folder of a run (--out of train), a log, or give the message: tunesmith explain -",
                path=path,
            )
        return explain_run(path)
    if path.is_file():
        return explain_text(_end_of(path), config.source)
    if any(character.isspace() for character in config.source):  # a message, put between quotes
        return explain_text(config.source, say("the message"))
    raise UserError(
        "there is no file or folder {path}",
        hint="check the path; or give the message itself: tunesmith explain 'MESSAGE', or tunesmith explain < LOG",
        path=config.source,
    )


def explain_text(text: str, source: str) -> Explanation:
    """What a message or log shows."""
    seen = recognise_all(text)
    telling = [one for one in seen if one.symptom.says > Says.HARMLESS]
    causes = [_cause(one) for one in telling or seen[:1]]
    ours = own_error(text)
    if ours is not None:
        causes.insert(0, ours)
    return Explanation(source, tuple(causes[:1]), tuple(causes[1 : 1 + SHOWN_OTHERS]))


def _cause(recognised: Recognised) -> Cause:
    symptom = recognised.symptom
    evidence = say("line {number}: {line}", number=recognised.line_number, line=recognised.line)
    return Cause(symptom.name, say(symptom.cause), (evidence,), say(symptom.fix))


def _end_of(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(0, 2)
        size = file.tell()
        file.seek(max(size - MOST_BYTES, 0))
        return _decoded(file.read())


def _decoded(content: bytes) -> str:
    """A log's text, whatever wrote it; where nothing fits, what does not decode is marked."""
    if b"\0" in content[:64] and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-8", "replace")
    for encoding in ENCODINGS:
        if encoding == "utf-16" and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
            continue
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    return content.decode("utf-8", "replace")
