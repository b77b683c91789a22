"""What the pages say is there: files, modules, commands, options; every page has its place in the site."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import runpy
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from mkdocs.exceptions import PluginError

from blemish.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "blemish"
PAGES = sorted(DOCS.rglob("*.md")) + [
    ROOT / n for n in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")
]


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def navigation() -> list[str]:
    """The pages of mkdocs.yml's navigation, in order."""

    def leaves(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        values = entry.values() if isinstance(entry, dict) else entry
        return [leaf for value in values for leaf in leaves(value)]  # type: ignore[union-attr]

    return leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])


def test_every_page_has_one_place_in_the_navigation():
    pages = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
    assert sorted(navigation()) == pages


def test_every_room_has_a_page_of_reference():
    rooms = {folder.name for folder in SOURCE.iterdir() if (folder / "__init__.py").exists()}
    assert len(rooms) == 15
    for room in rooms:
        assert f"::: blemish.{room}\n" in (DOCS / "reference" / f"{room}.md").read_text()
        assert f"(reference/{room}.md)" in (DOCS / "architecture.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files(page: Path):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    for target in targets:
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_that_are_named_exist(page: Path):
    text = page.read_text()
    folders = "src|tests|docs|examples|benchmarks"
    found = re.findall(rf"(?<![\w/.-])((?:{folders})/[\w./-]+\.(?:py|md|json|png|csv))\b", text)
    for path in found:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_names_in_the_package_resolve(page: Path):
    for dotted in set(re.findall(r"`(blemish(?:\.\w+)+)(?:\([^`]*\))?`", page.read_text())):
        assert resolved(dotted) is not None, dotted


def resolved(dotted: str) -> object:
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[cut:]:
            found = getattr(found, attribute)
        return found
    return None


def code_of(page: Path) -> list[str]:
    """The lines of a page's code blocks, and what stands between backticks."""
    text = page.read_text()
    blocks = re.findall(r"^```[^`\n]*\n(.*?)^```", text, re.M | re.S)
    joined = [
        re.sub(r"\n {8,}--", " --", block) for block in blocks
    ]  # a command that goes on in the next line
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return [line for block in joined for line in block.splitlines()] + inline


def commands() -> list[tuple[str, str, str]]:
    """(page, command, the line) of each `blemish COMMAND ...` of the pages."""
    pattern = re.compile(r"(?:.*-m )?blemish(?:\.cli)? (([a-z]+)(?: .*)?)")
    found = [(page, pattern.fullmatch(line)) for page in PAGES for line in code_of(page)]
    return [(named(page), match[2], match[1]) for page, match in found if match]


@cache
def help_of(*command: str) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    return shown.getvalue()


@pytest.mark.slow
def test_commands_and_options_exist():
    said = commands()
    assert {command for _, command, _ in said} == set(COMMANDS)
    for page, command, line in said:
        method = re.findall(r"--method [a-z][a-z0-9-]*(?=\s|$)", line)[:1]  # a method has options of its own
        words = (command, *(method[0].split() if method else ()))
        for option in re.findall(r"(?<!\S)\[?(--[a-z][\w-]*)", line.split("#")[0]):
            known = re.search(rf"{re.escape(option)}\b", help_of(*words))
            assert known or option in ("--no-bounded-context", "--help"), (page, line, option)


def test_pictures_are_small_and_of_generated_parts():
    limits = {"result.png": 150_000, "station.png": 250_000}  # of README; made by docs/make_pictures.py
    for name in limits:
        assert f"docs/pictures/{name}" in (ROOT / "README.md").read_text()
    # by make_counting_pictures.py
    limits |= dict.fromkeys(("review.png", "sizes.png", "roi.png", "audit.png"), 100_000)
    limits["views.png"] = 100_000  # by make_views_picture.py
    limits["aligned.png"] = 100_000  # by make_alignment_picture.py
    limits |= dict.fromkeys(("products.png", "known_defects.png"), 100_000)  # by make_products_pictures.py
    for picture in (DOCS / "pictures").iterdir():
        if picture.name in limits:
            assert picture.stat().st_size < limits[picture.name]
        else:
            assert picture.resolve().is_relative_to(ROOT / "benchmarks" / "results")


NAMES = "".join(f'<h2 id="blemish.{name}">' for name in ("fit", "load", "Detector", "Prediction"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NAMES, None),
        (NAMES.replace("load", "store"), "blemish.load is not there"),
        (NAMES + '<link href="https://fonts.example/a.css">', "fetches fonts from elsewhere"),
    ],
)
def test_make_docs_refuses_a_site_without_its_names_or_with_fonts_from_elsewhere(
    text: str, said: str | None, tmp_path: Path
):
    """Continuous integration builds the site, a warning being an error: half a minute, not here as well."""
    assert "hooks: [docs/check_site.py]\n" in (ROOT / "mkdocs.yml").read_text()
    assert "mkdocs build --strict" in (ROOT / "Makefile").read_text()
    assert "make docs" in (ROOT / ".ci" / "run").read_text().splitlines()
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "python.html").write_text(text)
    look = runpy.run_path(str(DOCS / "check_site.py"))["on_post_build"]
    with pytest.raises(PluginError, match=said) if said else contextlib.nullcontext():
        look(SimpleNamespace(site_dir=tmp_path))
