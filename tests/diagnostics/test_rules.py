"""The rules about known issues against messages from the field."""

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from babel.messages.pofile import read_po

from tunesmith.diagnostics.matcher import all_rules, best_match

HERE = Path(__file__).parent
RULES = all_rules()
FIELD_MESSAGES = tomllib.loads((HERE / "field_messages.toml").read_text("utf-8"))["message"]
PASTED_WHOLE = """(venv) user@host:~/gpt2$ python finetune.py --epochs 3
/home/user/venv/lib/python3.11/site-packages/some/module.py:12: FutureWarning: `old` is deprecated, use `new`
Loading text: 100%|##########| 12/12 [00:03<00:00,  3.91it/s]
step 40  loss 3.412  lr 2.1e-05  812 tokens/s
Traceback (most recent call last):
  File "/home/user/gpt2/finetune.py", line 88, in <module>
    main(arguments)
  File "/home/user/gpt2/finetune.py", line 61, in main
    learn(batches)
    ^^^^^^^^^^^^^^
{line}
(venv) user@host:~/gpt2$
"""
"""Our own; a message as people paste it."""
UNRELATED = (
    "the lamp burns and the wind is in the north",
    "def main() -> None:\n    for step in range(10):\n        print(step)\n",
    "step 200  loss 3.214  lr 4.1e-05  12,345 tokens/s",
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
    "Traceback (most recent call last):\n  File 'x.py', line 3, in <module>\nZeroDivisionError: division by zero",
    "Successfully installed tunesmith-0.1.0",
    "2026/11/25 08:49:36 [error] 12#12: *23 upstream timed out (110: Connection timed out) while reading from upstream",
    "recv() failed (104: Connection reset by peer) while proxying upgraded connection, client: 10.0.0.7",
    "main.c:1:10: fatal error: foo.h: No such file or directory",
    "cc1: fatal error: hello.c: No such file or directory\ncompilation terminated.",
    "const x = {a: 1; b: 2}\nSyntaxError: Unexpected token ';'\n    at makeContextifyScript (node:internal/vm:185:14)",
    "Failed to connect to bus: Host is down",
    "npm ERR! enoent ENOENT: no such file or directory, open '/app/package.json'",
    "nginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)",
    "git@github.com: Permission denied (publickey).",
    "java.lang.OutOfMemoryError: Java heap space",
    "[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x1]",
    "kernel: usb 1-1: new high-speed USB device number 5",
    "cuDNN 9.1 found, CUDA available: True, bf16 supported: True",
    "/usr/lib/x86_64-linux-gnu/libcudnn.so.8.9.0\n/usr/lib/x86_64-linux-gnu/libcudnn_adv_infer.so.8.9.0",
    "bash: line 1: syntax error: unexpected end of file",
    "",
)


def test_names_are_unique() -> None:
    """A name means one rule."""
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_matches_its_own_examples(rule) -> None:
    """And no other rule does."""
    assert rule.examples
    for example in rule.examples:
        found = best_match(example)
        assert found is not None, example
        assert found.rule.name == rule.name, example


@pytest.mark.parametrize("pasted", ["{line}", PASTED_WHOLE], ids=["alone", "whole"])
def test_messages_from_the_field(pasted: str) -> None:
    """At least 95 % of the messages that are not examples of the rules get the right cause, and none a wrong one."""
    wrong = []
    for message in FIELD_MESSAGES:
        found = best_match(pasted.replace("{line}", message["text"]))
        if found is None or found.rule.name != message["cause"]:
            wrong.append((message["from"], found and found.rule.name))
    assert len(FIELD_MESSAGES) >= 1000
    assert len(wrong) <= 0.05 * len(FIELD_MESSAGES), wrong
    assert [name for _, name in wrong if name is not None] == []


@pytest.mark.parametrize("text", UNRELATED)
def test_unrelated_text_is_unknown(text: str) -> None:
    """Nothing is better than something wrong."""
    assert best_match(text) is None


def test_the_cause_goes_before_what_follows_from_it() -> None:
    """In a log the message that tells most is taken, not the last one, and colors do not hide it."""
    log = (
        "Setting `pad_token_id` to `eos_token_id`:50256 for open-end generation.\n"
        "\x1b[31mtorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\x1b[0m\n"
        "torch._dynamo.exc.BackendCompilerFailed: backend='inductor' raised:\n"
    )
    found = best_match(log)
    assert found is not None
    assert (found.rule.name, found.line_number) == ("gpu-memory-full", 2)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("Der Befehl „pip“ ist entweder falsch geschrieben oder konnte nicht gefunden werden.", "python-not-found"),
        ("无法将“pip”项识别为 cmdlet、函数、脚本文件或可运行程序的名称。", "python-not-found"),
        ("Le jeton « && » n’est pas un séparateur d’instruction valide dans cette version.", "old-powershell"),  # noqa: RUF001
        ("OSError: [WinError 1455] Файл подкачки слишком мал для завершения операции.", "paging-file-too-small"),
        ("Speicherzugriffsfehler (Speicherabzug geschrieben)", "crashed"),
    ],
)
def test_other_languages_and_quotation_marks(text: str, cause: str) -> None:
    """A system's own wording is known in several languages, whatever its quotation marks."""
    found = best_match(text)
    assert found is not None
    assert found.rule.name == cause


def test_a_long_log_is_read_without_its_steps() -> None:
    """Repeated lines are left out, and the line number of the error is that in the file."""
    steps = [
        f"step {step}  loss {3 + step % 7 / 10:.3f}  {'#' * (step % 40)}{' ' * (40 - step % 40)}| {step / 1000:.1%}"
        for step in range(30_000)
    ]
    steps[12_345:12_345] = [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
        "made smaller, going on",
    ]
    found = best_match("\n".join([*steps, "done"]))
    assert found is not None
    assert (found.rule.name, found.line_number) == ("gpu-memory-full", 12_346)


def test_every_rule_is_translated() -> None:
    """Cause and fix of every rule are in the message catalog."""
    with files("tunesmith.i18n").joinpath("locales", "ja.po").open("rb") as file:
        translated = {message.id for message in read_po(file) if message.id and message.string}
    texts = {text for rule in RULES for text in (rule.cause, rule.fix)}
    assert texts - translated == set()
