"""The page of design decisions has every package, and every package says what it is for."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("design_decisions", ROOT / "docs/design_decisions.py")
design_decisions = importlib.util.module_from_spec(spec)
spec.loader.exec_module(design_decisions)


def test_every_package_is_listed():
    names = {path.parent.relative_to(design_decisions.ROOT) for path in design_decisions.ROOT.rglob("*/__init__.py")}
    for link in ("workers", "policies", "infra"):  # rglob does not follow the links of a checkout
        linked = design_decisions.ROOT / link
        names |= {Path(link) / path.parent.relative_to(linked) for path in linked.rglob("__init__.py")}
    assert sorted(design_decisions.PACKAGES) == sorted(".".join(name.parts) for name in names)


@pytest.mark.parametrize("package", design_decisions.PACKAGES)
def test_every_package_has_a_docstring_that_begins_with_a_summary(package):
    text = design_decisions.docstring(package)
    assert "\n" not in design_decisions.summary(text)
    assert design_decisions.summary(text).endswith(".")


def test_the_page_has_every_package_with_decisions():
    page = design_decisions.decisions()
    for package in design_decisions.PACKAGES:
        text = design_decisions.docstring(package)
        assert (f"## {package}\n\n{design_decisions.summary(text)}\n" in page) == (design_decisions.HEADING in text)
    assert page.count("- **") >= 20
