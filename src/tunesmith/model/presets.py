"""What is known of the usual models without fetching them: names on the hub, and shapes."""

from tunesmith.model.shape import GPT2Config

PRESETS = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}

VOCABULARY, POSITIONS = 50_257, 1024
SIZES = {
    "distilgpt2": (6, 768, 12),
    "gpt2": (12, 768, 12),
    "gpt2-medium": (24, 1024, 16),
    "gpt2-large": (36, 1280, 20),
    "gpt2-xl": (48, 1600, 25),
}
"""Layers, channels and heads (Radford et al. 2019; Sanh et al. 2019)."""


def preset_shape(model: str) -> GPT2Config | None:
    """The shape of a preset, by its short name or its name on the hub; None for any other model."""
    names = {**{name: name for name in PRESETS}, **{hub: name for name, hub in PRESETS.items()}}
    if model not in names:
        return None
    layers, channels, heads = SIZES[names[model]]
    return GPT2Config(VOCABULARY, POSITIONS, channels, layers, heads, 4 * channels)
