"""The guide builds without a warning, in both languages, and fetches nothing from anywhere."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from .pages import DOCS, JAPANESE, ROOT

pytest.importorskip("zensical")


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    """`recipes/guide_site.py`."""
    spec = importlib.util.spec_from_file_location("guide_site", ROOT / "recipes" / "guide_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(recipe: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both languages, built strictly."""
    out = tmp_path_factory.mktemp("built") / "site"
    recipe.build(out, tmp_path_factory.mktemp("work"))
    return out


def test_every_page_is_in_both_languages_and_in_the_contents(recipe: ModuleType, site: Path) -> None:
    """Nothing is written that nobody finds."""
    names = {path.name.removesuffix(".md") for path in DOCS.glob("*.md") if not path.name.endswith(JAPANESE)}
    assert names <= {name for chapter in recipe.CHAPTERS.values() for name in chapter}
    for folder, language in ((site, "en"), (site / "ja", "ja")):
        assert names <= {path.stem for path in folder.glob("*.html")}
        pages = [(folder / f"{name}.html").read_text("utf-8") for name in names]
        assert all(f'<html lang="{language}"' in page for page in pages)
    assert "手元のマシン" in (site / "ja" / "index.html").read_text("utf-8")


def test_nothing_comes_from_elsewhere(site: Path) -> None:
    """No script, style, picture or font has an address of its own."""
    loaded = re.compile(r"<(?:script|img|link|iframe)\b[^>]*?\b(?:src|href)=[\"']?(https?:)?//", re.IGNORECASE)
    assert [page.name for page in site.rglob("*.html") if loaded.search(page.read_text("utf-8"))] == []
    styles = [path for path in site.rglob("*.css") if re.search(r"url\([\"']?https?:|@import", path.read_text("utf-8"))]
    assert styles == []


def test_links_between_built_pages_lead_somewhere(site: Path) -> None:
    """Files and anchors, as a browser would follow them."""
    broken = []
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # its paths are the server's
            continue
        for target in re.findall(r"<a\b[^>]*?\bhref=\"([^\"]*)\"", page.read_text("utf-8")):
            if re.match(r"https?:|mailto:", target) or not target:
                continue
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            file = file / "index.html" if file.is_dir() else file
            if not file.is_file() or (anchor and f'id="{anchor}"' not in file.read_text("utf-8")):
                broken.append(f"{page.name}: {target}")
    assert broken == []
