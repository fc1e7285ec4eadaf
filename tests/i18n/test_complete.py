"""Nothing a person reads is forgotten: every text of the program is in the catalogue, and nothing else is.

The program's source is read as a tree (`ast`), so that no text has to be reached to be found.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

import cyclopts
import pytest

import tunesmith
from tunesmith.cli import app

PACKAGE = Path(tunesmith.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
CATALOGUE = PACKAGE / "i18n" / "locales" / "ja.po"
RULES = sorted((PACKAGE / "diagnostics" / "rules").glob("*.toml"))

MECHANISM = {"i18n/__init__.py", "errors.py", "serving/api_errors.py"}
"""Where texts are taken from callers."""

ENGLISH_ONLY = {"training/model_card.py", "serving/metrics.py", "convert/verify.py", "data/encoding_likelihood.py"}
"""What the hub's visitors and Prometheus read, what models are tried with, and words of languages."""
SAYS_DOCSTRINGS = {"ui/help.py"}
"""Says what `help_texts` collects."""
NO_SENTENCES = {
    "data/fast_tokenizer.py": {"it's we'll I'd they've DON'T", "caf\u00e9 na\u00efve \u00df \u0130"},
    "api.py": {". Did you mean {}?"},
    "commands.py": {"tokenizer train", "tokenizer extend"},
    "backends.py": {"pip install triton-windows"},
    "distributed/init.py": {
        "Connection closed by peer",
        "Connection reset by peer",
        "Broken pipe",
        "already in use",
        "timed out",
    },
    "doctor/checks/environment.py": {
        "WSL (Linux inside of Windows)",
        "uv venv --python 3.12",
        "unset LD_LIBRARY_PATH",
        "Triton {}: {}",
    },
    "doctor/checks/gpu_health.py": {"version mismatch", "{}, {} GiB", "nvidia-smi -i {} -pl {}", "sudo {}"},
    "doctor/checks/resources.py": {" {} GiB", "{} (PID {}){}", "disk for runs", "disk for text", "disk for models"},
    "doctor/checks/torch_build.py": {"CUDA {}", "unset LD_LIBRARY_PATH", "matmul {}"},
    "doctor/preflight.py": {"torch.cuda.is_available() is False"},
    "doctor/probes.py": {
        "{} (nvidia-ml-py)",
        "Lamp steady.\n\t café 日本語のテキスト 🔥 <|endoftext|",
        "Wind from the north-west, lamp steady, three ships went by.",
    },
    "doctor/fixes.py": {
        "sudo ubuntu-drivers install",
        "sudo apt install nvidia-driver firmware-misc-nonfree",
        "sudo dnf install akmod-nvidia xorg-x11-drv-nvidia-cuda",
        "sudo pacman -S nvidia-open",
        "sudo zypper install nvidia-open-driver-G06-signed-kmp-default",
        "sudo apt install build-essential python3-dev",
        "sudo dnf install gcc python3-devel",
        "sudo pacman -S base-devel",
        "sudo zypper install gcc python3-devel",
        "taskkill /PID {} /F",
        "kill {}",
        "export {}={}",
        "Remove-Item Env:{}",
        "unset {}",
    },
    "training/epoch.py": {"--memory-mode {}", "--fused-backward yes"},
    "convert/export_gguf.py": {"gguf {}", "llama-cpp-python {}", "PARAMETER {} {}"},
    "convert/push.py": {"Upload a model trained with tunesmith"},
    "convert/export_onnx.py": {"onnxruntime {}", "float {}", "int {}", "ints {}"},
    "monitoring/system_monitor.py": {"system monitor"},
    "dashboard/run_state.py": {"broken off"},
    "convert/import_openai.py": {"TensorFlow, {}"},
    "ui/doctor_table.py": {"bold red"},
    "ui/notebook.py": {
        '<pre style="white-space:pre;overflow-x:auto;line-height:normal;font-family:monospace">{code}</pre>'
    },
    "ui/progress.py": {" --base {}"},
    "planning/gpus.py": {
        "TITAN Xp",
        "TITAN RTX",
        "Quadro RTX 6000",
        "Quadro RTX 8000",
        "RTX 3050 Ti Laptop",
        "RTX 3070 Ti Laptop",
        "RTX 3080 Ti Laptop",
        "RTX 4070 Ti SUPER",
        "RTX 5070 Ti Laptop",
        "titan rtx",
    },
    "utils/formatting.py": {"{} GiB", "{} MiB", "{} kWh", "{} Wh"},
    "reporting/run_list.py": {"broken off"},
    "serving/app.py": {"text/plain; version=0.0.4"},
    "serving/completions.py": {"data: {}\n\n"},
    "tracking/callback.py": {"--report-to {}", "tracker {}"},
    "tracking/trackers.py": {"(from nothing)", "model card"},
    "ui/plan_table.py": {"host states"},
    "ui/result_tables.py": {"  {}: {} kB", "{} GiB", "{} MiB", "{} GB", "{} MB", "{} UTC"},
    "utils/device.py": {"model name"},
    "utils/oom.py": {"out of memory", "can't allocate memory", "not enough memory"},
    "planning/calibration_cache.py": {"torch {}", "tunesmith {}", "{}x{}x{}x{}, {} tokens", "lora {} {}", "frozen {}"},
    "planning/hardware.py": {" {} GiB", "{} (PID {}){}"},
    "training/checkpointer.py": {"checkpoint writer"},
    "training/stop.py": {"--max-hours {}", "--stop-at {}", "the user"},
    "training/run_sync.py": {"--memory-mode cpu-offload", "--fused-backward yes", "--device {}"},
    "training/plan.py": {"host states"},
}
"""What reads like words of a person and is none: names, units, and what other programs write."""


@dataclass(frozen=True)
class Text:
    """A text of the catalogue where it is said.

    Attributes:
        template: in English.
        place: file and line.
        values: names that it is said with.
    """

    template: str
    place: str
    values: frozenset[str]


def noted(tree: ast.AST) -> Iterator[ast.expr]:
    """Texts that are said later: the names of checks."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "Check"
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.args[0]


def texts_of_rules(path: Path) -> list[Text]:
    """The texts of a chapter of known issues."""
    chapter = tomllib.loads(path.read_text("utf-8"))
    texts = [chapter["title"], *(rule[key] for rule in chapter["rule"] for key in ("cause", "fix"))]
    return [Text(text, path.name, frozenset()) for text in texts]


class NotLiteralError(Exception):
    """A text that cannot be read off the source."""


TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text("utf-8")) for path in FILES}


def errors_for_users() -> set[str]:
    """The names of `UserError` and of every class that is one, however remote."""
    found = {"UserError"}
    while True:
        more = {
            node.name
            for tree in TREES.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and {base.id for base in node.bases if isinstance(base, ast.Name)} & found
        }
        if more <= found:
            return found
        found |= more


ERRORS = errors_for_users()
TEXT_PLACES = {"say": 0, "LazyString": 0, "APIError": 1} | dict.fromkeys(ERRORS, 0)
"""Calls with a text of the catalogue, and which argument it is."""
SPEAKERS = frozenset(TEXT_PLACES)
SAID_LATER = {"cause", "fix", "name", "status"}
"""Texts of a rule and of a check of the doctor, translated where they are shown."""
STATUSES = {"ok", "warn", "fail"}
DISKS = {"disk for runs", "disk for text", "disk for models"}
"""What a check is called and what it finds, where that is looked up."""
ABBREVIATIONS = {"CPU", "GPU", "RAM"}
"""Words of Japanese that are written in Latin letters."""
NAMES = {"bf16", "cuda", "cudnn", "pcie", "python", "torch", "--max-grad-norm", "pip install 'tunesmith[export]'"}
NAMES |= {"run.json: {status}", "run.json: train_samples {count:,}"}
"""Names of things, commands, and what stands in files."""

CONVERTED = [name for name in TREES if name not in MECHANISM | ENGLISH_ONLY]


def spoken_calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Every call that says something."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SPEAKERS:
            yield node


def disguised(tree: ast.AST) -> Iterator[ast.alias | ast.Attribute]:
    """What says something under a name that `spoken_calls` does not know."""
    for node in ast.walk(tree):
        if (isinstance(node, ast.alias) and node.name in SPEAKERS and node.asname not in {None, node.name}) or (
            isinstance(node, ast.Attribute) and node.attr in SPEAKERS
        ):
            yield node


def literals(node: ast.expr, tree: ast.Module) -> list[str]:
    """The texts that an expression can be: a literal, one of several (`a if so else b`), or a name for such ones.

    Raises:
        NotLiteralError: if it can be anything else.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return literals(node.body, tree) + literals(node.orelse, tree)
    if isinstance(node, ast.Name):
        bound = [
            statement.value
            for statement in ast.walk(tree)
            if isinstance(statement, ast.Assign)
            and any(isinstance(target, ast.Name) and target.id == node.id for target in statement.targets)
        ]
        stores = [
            other
            for other in ast.walk(tree)
            if (isinstance(other, ast.Name) and other.id == node.id and isinstance(other.ctx, ast.Store))
            or (isinstance(other, ast.arg) and other.arg == node.id)
        ]
        if bound and len(stores) == len(bound):
            return [text for value in bound for text in literals(value, tree)]
    raise NotLiteralError(ast.unparse(node))


def placeholders(template: str) -> set[tuple[str, str, str | None]]:
    """Name, format and conversion of every value in a text.

    Raises:
        ValueError: if it is no format.
    """
    return {
        (name, form or "", conversion) for _, name, form, conversion in Formatter().parse(template) if name is not None
    }


def texts_of(name: str) -> tuple[list[Text], list[str]]:
    """Every text of a file, and what is wrong with how it is said."""
    tree = TREES[name]
    texts, wrong = [], [f"{name}:{node.lineno}: said by another name" for node in disguised(tree)]
    texts += [Text(text, f"{name}:{node.lineno}", frozenset()) for node in noted(tree) for text in literals(node, tree)]
    for call in spoken_calls(tree):
        place = f"{name}:{call.lineno}"
        if len(call.args) == 1 and isinstance(call.args[0], ast.Attribute) and call.args[0].attr in SAID_LATER:
            continue
        try:
            said, values = _said(call, tree)
            named = {value for template in said for value, _, _ in placeholders(template)} if values else values
        except (NotLiteralError, ValueError) as error:
            wrong.append(f"{place}: not a literal text, or no format: {error}")
            continue
        texts += [Text(template, place, values) for template in said]
        if named != values:
            wrong.append(f"{place}: the text has the values {sorted(named)} and is said with {sorted(values)}")
    return texts, wrong


def _said(call: ast.Call, tree: ast.Module) -> tuple[list[str], frozenset[str]]:
    """The texts of a call and the names of its values."""
    assert isinstance(call.func, ast.Name)
    where = TEXT_PLACES[call.func.id]
    if len(call.args) <= where or any(isinstance(argument, ast.Starred) for argument in call.args):
        raise NotLiteralError(ast.unparse(call))
    said = literals(call.args[where], tree)
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if call.func.id == "LazyString":
        values = call.args[1] if len(call.args) > 1 else keywords.get("values")
        if values is None:
            return said, frozenset()
        if not isinstance(values, ast.Dict):
            raise NotLiteralError(ast.unparse(values))
        return said, frozenset(name for key in values.keys for name in literals(key or values, tree))
    if None in keywords:
        raise NotLiteralError(ast.unparse(call))
    if call.func.id == "APIError":
        keywords = {name: value for name, value in keywords.items() if name not in {"code", "param", "retry_after_s"}}
    if call.func.id in ERRORS:
        said += literals(keywords.pop("hint"), tree)
    return said, frozenset(str(name) for name in keywords)


def entries() -> list[tuple[str, str]]:
    """Every entry of the catalogue: English and Japanese. Read here by itself, so that nothing is merged or dropped."""
    found: list[tuple[str, str]] = []
    parts: dict[str, str] = {}
    current = ""
    for line in [*CATALOGUE.read_text("utf-8").splitlines(), 'msgid ""']:
        if line.startswith(("msgid ", "msgstr ")):
            current, _, line = line.partition(" ")  # noqa: PLW2901
            if current == "msgid" and "msgid" in parts:
                found.append((parts["msgid"], parts["msgstr"]))
                parts = {}
        if line.startswith('"'):
            parts[current] = parts.get(current, "") + ast.literal_eval(line)
        else:
            assert not line or (line[0] == "#" and line[1:2] not in {",", "~"}), f"{line!r} is neither text nor remark"
    return [entry for entry in found if entry[0]]


SENTENCE = re.compile(r"(?:[^\W\d_]{2,}|\0)[,;:.)]* \(?(?:[^\W\d_]{2,}|\0)")
"""Two words, or a word beside a value, with a blank between them."""
OURS = {"ValueError", "TypeError", "RuntimeError", "AssertionError", "AttributeError", "OSError", "FileExistsError"}
"""Errors that no person is meant to see, or whose words are the system's."""


def said_arguments(tree: ast.AST) -> Iterator[ast.expr]:
    """What is said, now or later."""
    for call in spoken_calls(tree):
        assert isinstance(call.func, ast.Name)
        yield from call.args[: TEXT_PLACES[call.func.id] + 1]
        yield from (keyword.value for keyword in call.keywords if keyword.arg == "hint")
    yield from noted(tree)


def bypassing(tree: ast.AST, said: frozenset[ast.AST] = frozenset()) -> Iterator[tuple[str, str]]:
    """Every sentence that stands in the program and is not said through the catalogue: with its line, and alone."""
    said = said or frozenset(text for argument in said_arguments(tree) for text in ast.walk(argument))
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if isinstance(node, ast.Assert) or (
            isinstance(node, ast.Raise)
            and isinstance(node.exc, ast.Call)
            and isinstance(node.exc.func, ast.Name)
            and node.exc.func.id in OURS
        ):
            continue
        text = ""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        elif isinstance(node, ast.JoinedStr):
            text = "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
        if (
            node not in said
            and not text.startswith("tunesmith ")
            and SENTENCE.search(text)
            and re.search(r"[^\W\d_]{2,}", text)
        ):
            shown = text.replace("\0", "{}")
            yield f"{node.lineno}: {shown!r}", shown
        elif isinstance(node, ast.JoinedStr):
            for part in node.values:
                if isinstance(part, ast.FormattedValue):
                    yield from bypassing(part, said)
        else:
            yield from bypassing(node, said)


def in_words(template: str) -> bool:
    """Whether there is anything to translate beside the values."""
    return bool(re.search(r"[^\W\d_]", re.sub(r"{[^{}]*}", "", template)))


def commands(text: str) -> list[str]:
    """What a person types as it stands: flags and commands."""
    return sorted(re.findall(rf"--[a-z][a-z0-9-]*|tunesmith (?:{'|'.join(app)})", text))


def help_texts(command: cyclopts.App) -> Iterator[str]:
    """What `--help` says of a command, its flags, and the commands below it."""
    yield from filter(None, [" ".join((command.help or "").split("\n\n")[0].split())])
    if command.default_command is not None:
        for argument in command.assemble_argument_collection(parse_docstring=True).filter_by(show=True):
            assert argument.parameter.help, f"{argument.name} says nothing"
            yield " ".join(argument.parameter.help.split())
    for name in command:
        yield from [command[name].help] if name.startswith("-") else help_texts(command[name])


app.help = ""  # what `main` says
HELP = {"Commands", "Parameters", *help_texts(app)}
TEXTS = {name: texts_of(name) for name in TREES if name not in MECHANISM}
RULE_TEXTS = [text for path in RULES for text in texts_of_rules(path)]
ENTRIES = entries()


@pytest.mark.parametrize("name", CONVERTED)
def test_every_text_is_literal_and_has_its_values(name: str) -> None:
    """A text can be read off the source, and is said with exactly the values that it names."""
    assert TEXTS[name][1] == [] or name in SAYS_DOCSTRINGS


@pytest.mark.parametrize("name", CONVERTED)
def test_nothing_bypasses_the_catalog(name: str) -> None:
    """No sentence stands in the program but in a call that says it, in a docstring, or in an error of ours."""
    allowed = NO_SENTENCES.get(name, set()) | HELP
    assert [line for line, text in bypassing(TREES[name]) if text not in allowed] == []


def test_every_text_is_there_in_japanese() -> None:
    """Complete."""
    there = {english for english, japanese in ENTRIES if japanese}
    lacking = {text.template: text.place for name in CONVERTED for text in TEXTS[name][0] if in_words(text.template)}
    lacking |= {text.template: text.place for text in RULE_TEXTS}
    lacking |= dict.fromkeys(HELP, "--help") | dict.fromkeys(STATUSES | DISKS, "a check")
    lacking = {template: place for template, place in lacking.items() if template not in NAMES}
    assert {template: place for template, place in lacking.items() if template not in there} == {}


def test_no_entry_is_left_over() -> None:
    """And nothing more; each once."""
    said = (
        {text.template for texts in (RULE_TEXTS, *(texts for texts, _ in TEXTS.values())) for text in texts}
        | HELP
        | STATUSES
        | DISKS
    )
    english = [entry for entry, _ in ENTRIES]
    assert [entry for entry in english if entry not in said] == []
    assert len(english) == len(set(english))


@pytest.mark.parametrize(("english", "japanese"), ENTRIES)
def test_the_japanese_says_the_same(english: str, japanese: str) -> None:
    """It is Japanese, has the same values in the same form, and names the same flags and commands."""
    assert not japanese.isascii() or set(re.findall(r"[A-Za-z]+", re.sub(r"{[^{}]*}", "", japanese))) <= ABBREVIATIONS
    assert placeholders(japanese) == placeholders(english)
    assert commands(japanese) == commands(english)


def test_the_check_sees_what_is_wrong() -> None:
    """Each way of going around it, in a small program."""
    TREES["wrong.py"] = ast.parse(
        'a = say(f"{x} files")\n'
        'b = say("{x} files", y=1)\n'
        'c = UserError("all is lost", hint=hint)\n'
        'd = say("good {x}", **values)\n'
        "def one(text: str): return say(text)\n"
        'e = say("x" if y else z)\n'
        'f = say("{x", x=1)\n'
        'g = say("all is well")\n'
        'h = say("{x} files", x=1)\n'
        "from tunesmith.i18n import say as tell\n"
        'i = catalogue.say("all is well")\n'
    )
    try:
        texts, wrong = texts_of("wrong.py")
    finally:
        del TREES["wrong.py"]
    assert {int(place.split(":")[1]) for place in wrong} == {1, 2, 3, 4, 5, 6, 7, 10, 11}
    assert "all is well" in {text.template for text in texts}
    program = (
        '"""A docstring."""\n'
        'print("all is lost")\n'
        'print(f"{x} files")\n'
        'raise ValueError("a bug of ours")\n'
        'print(say("{x} files", x=f"{x} small"))\n'
        'name = f"{x}-files.bin"\n'
    )
    assert [line.split(":")[0] for line, _ in bypassing(ast.parse(program))] == ["2", "3", "5"]
