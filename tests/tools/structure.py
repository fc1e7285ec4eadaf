"""Print how the package is cut: modules, lines, the median, long files, names that exist twice.

python -m tests.tools.structure
"""

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median

PACKAGE = Path(__file__).parents[2] / "src" / "tunesmith"


def lines_of_modules() -> dict[str, int]:
    """Lines of each Python file, by its path in the package."""
    return {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text("utf-8").splitlines())
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def median_lines() -> float:
    """Median over all modules that are not empty."""
    return median(lines for lines in lines_of_modules().values() if lines)


def basenames_twice() -> dict[str, list[str]]:
    """File names that more than one folder has; `__init__.py` aside."""
    return _twice((path.rpartition("/")[2], path) for path in lines_of_modules() if not path.endswith("__init__.py"))


def classes_twice() -> dict[str, list[str]]:
    """Class names that are defined more than once."""
    return _twice(
        (node.name, path)
        for path in lines_of_modules()
        for node in ast.walk(ast.parse((PACKAGE / path).read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
    )


def _twice(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    places = defaultdict(list)
    for name, path in pairs:
        places[name].append(path)
    return {name: paths for name, paths in places.items() if len(paths) > 1}


def main() -> None:
    """Print the whole and each package."""
    modules = lines_of_modules()
    packages = defaultdict(list)
    for path, lines in modules.items():
        packages[path.split("/")[0]].append(lines)
    print(f"{'package':<20}{'modules':>8}{'lines':>8}{'longest':>9}")
    for name, lines in sorted(packages.items()):
        print(f"{name:<20}{len(lines):>8}{sum(lines):>8,}{max(lines):>9}")
    print(f"{'all':<20}{len(modules):>8}{sum(modules.values()):>8,}{max(modules.values()):>9}")
    print(f"median of the modules that are not empty: {median_lines():.0f} lines")
    print(f"file names twice: {basenames_twice() or 'none'}")
    print(f"class names twice: {classes_twice() or 'none'}")


if __name__ == "__main__":
    main()
