"""Ollama's `Modelfile`: text goes in and on as it is, with the sampling that `tunesmith generate` has."""

from tunesmith.config import GenerateConfig
from tunesmith.exporting.exported import Exported


def modelfile(exported: Exported, gguf_name: str) -> str:
    """What stands beside a GGUF file for `ollama create`.

    Args:
        exported: the model.
        gguf_name: file name of the GGUF.
    """
    settings = {
        "num_ctx": exported.model.config.n_positions,
        "temperature": GenerateConfig.temperature[0],
        "top_k": GenerateConfig.top_k,
        "top_p": GenerateConfig.top_p,
        "repeat_penalty": GenerateConfig.repetition_penalty,
        "num_predict": GenerateConfig.max_new_tokens,
        "stop": f'"{exported.tokenizer.end_of_text}"',
    }
    lines = [f"FROM ./{gguf_name}", 'TEMPLATE """{{ .Prompt }}"""']
    return "\n".join([*lines, *(f"PARAMETER {name} {value}" for name, value in settings.items())]) + "\n"
