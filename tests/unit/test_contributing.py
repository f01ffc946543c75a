"""The map in CONTRIBUTING.md leads to places that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def names(path):
    """Functions and classes of a module, methods as Class.method."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{part.name}" for part in node.body if hasattr(part, "name"))
        if hasattr(node, "name"):
            yield node.name


def test_every_step_of_the_walk_names_a_function_that_exists():
    steps = re.findall(r"`([\w/]+\.py):([\w.]+)`", TEXT)
    assert len(steps) >= 10
    for path, function in steps:
        assert function in set(names(ROOT / path)), f"{path}:{function}"


def test_the_tree_has_every_package_and_no_other():
    tree = TEXT.split("## Packages", 1)[1].split("```")[1]
    folder, listed = "", set()
    for line in tree.strip().splitlines():
        for name in re.findall(r"(\w+)/(?= )", line[:19] + " "):
            indented = line.startswith(" ")
            folder = folder if indented else name
            listed.add(f"{folder}/{name}" if indented else name)
        if line.rstrip().endswith("/"):
            folder = line.strip().rstrip("/")
            listed.add(folder)
    packages = {
        str(path.parent.relative_to(ROOT))
        for top in ("streams", "workers", "policies", "infra")
        for path in (ROOT / top).glob("**/__init__.py")
        if len(path.relative_to(ROOT).parts) <= 3 and not any(parent.is_symlink() for parent in path.parents)
    }
    assert listed == packages | {"docs", "tests"}
