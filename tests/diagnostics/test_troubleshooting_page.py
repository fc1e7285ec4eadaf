"""The troubleshooting page shows the rules about known issues."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_matches_the_rules(language: str) -> None:
    """`python recipes/troubleshooting_page.py` was run after the rules were changed."""
    spec = importlib.util.spec_from_file_location("recipe", ROOT / "recipes" / "troubleshooting_page.py")
    assert spec is not None
    assert spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    assert (ROOT / "docs" / recipe.PAGES[language]).read_text("utf-8") == recipe.page(language)
