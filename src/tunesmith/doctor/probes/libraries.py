"""Encodes awkward text with the packaged tokenizer and reads it back; run in a process of its own."""

from tunesmith.doctor.children import found
from tunesmith.messages.catalogue import say

TEXT = "Lamp steady.\n\t caf\u00e9 \u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \U0001f525 <|endoftext|"


def main() -> None:
    """Write what the self-check found; empty where all was right."""
    try:
        from tunesmith.data.tokenizer import load_tokenizer
        from tunesmith.model.hf_config import read_hf_config
        from tunesmith.model.hub import TINY, local_folder

        folder = local_folder(TINY)
        tokenizer = load_tokenizer(folder, read_hf_config(folder))
        back = tokenizer.decode(tokenizer.encode([TEXT])[0])
    except Exception as error:  # noqa: BLE001  whatever it raises is what was to be found
        found(tokenizer_error=f"{type(error).__name__}: {error}")
        return
    found(tokenizer_error="" if back == TEXT else say("{text!r} came back as {back!r}", text=TEXT, back=back))


if __name__ == "__main__":
    main()
