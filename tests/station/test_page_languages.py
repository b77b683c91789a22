"""The page's texts: every key in every language, none missing or unused; and the browser's language."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import station_browser
from station_browser import HOLE, Open, Running, shown

from blemish.station.routes.pages import WEB

one_station, tab = station_browser.one_station, station_browser.tab

TEXTS: dict[str, dict[str, Any]] = {
    file.name.removesuffix(".json"): json.loads(file.read_text("utf-8"))
    for file in (WEB / "messages").iterdir()
}


def forms(text: str | dict[str, str]) -> list[str]:
    return [text] if isinstance(text, str) else list(text.values())


def names(text: str | dict[str, str]) -> list[set[str]]:
    return [set(re.findall(r"\{(\w+)\}", form)) for form in forms(text)]


def test_there_are_the_languages_that_the_page_chooses_from():
    chosen = re.search(r"LANGUAGES = \{ (.*) \}", (WEB / "messages.js").read_text())
    assert chosen is not None
    assert chosen[1].split(", ") == sorted(TEXTS) == ["de", "en", "es", "zh"]


@pytest.mark.parametrize("language", ["de", "es", "zh"])
def test_every_text_is_there_with_the_same_values(language: str):
    english, own = TEXTS["en"], TEXTS[language]
    assert list(own) == list(english)
    for key, text in own.items():
        assert all(form.strip() for form in forms(text)), key
        assert set.union(*names(text)) == set.union(*names(english[key])), key
        assert isinstance(text, str) == isinstance(english[key], str), key
        assert isinstance(text, str) or set(text) == {"one", "other"}, key
        assert all(form.count("`") % 2 == 0 for form in forms(text)), key


def test_what_the_page_says_is_a_key_and_no_key_is_left_over():
    scripts = [file.read_text() for file in WEB.iterdir() if file.name.endswith(".js")]
    source = "\n".join([*scripts, (WEB / "index.html").read_text()])
    literal = set(re.findall(r"""(?:\bt\(|data-t(?:-[a-z-]+)?=)\s*["']([\w.]+)["']""", source))
    assert literal <= set(TEXTS["en"])
    made = [re.escape(begin) for begin in re.findall(r"\bt\(`([\w.]+)\$\{", source)]
    chosen = {key for key in re.findall(r"""["']([a-z]+\.\w+)["']""", source) if key in TEXTS["en"]}
    unused = [k for k in set(TEXTS["en"]) - literal - chosen if not any(re.match(m, k) for m in made)]
    assert not unused


def test_no_words_stand_in_the_page_itself():
    page = (WEB / "index.html").read_text()
    body = re.sub(
        r'<(svg|kbd|span id="brand")(?=[ >]).*?</\w+>', "", page[page.index("<body>") :], flags=re.DOTALL
    )
    assert not re.findall(r">[^<>]*[A-Za-z]{3}[^<>]*<", body)
    assert not re.findall(r'\s(?:title|placeholder|aria-label)="', body)


@pytest.mark.parametrize(
    ("asked", "lang", "said", "score"),
    [
        ("de-AT", "de", "Abgelehnt", r"\d,\d"),
        ("es-MX", "es", "Rechazada", r"\d\.\d"),
        ("zh-CN", "zh", "拒收", r"\d\.\d"),
        ("fr-FR", "en", "Rejected", r"\d\.\d"),
    ],
)
def test_the_browser_chooses_the_language(
    one_station: Running, tab: Open, asked: str, lang: str, said: str, score: str
):
    one_station.inspect(HOLE)
    page = tab(one_station.address, locale=asked)
    shown(page)
    assert page.locator("html").get_attribute("lang") == lang
    assert page.locator(".stage:visible .decision h2").inner_text() == said
    assert re.search(score, page.locator(".facts dd").first.inner_text())
    assert page.locator("#tab-queue span").first.inner_text() == TEXTS[lang]["view.queue"]
    assert page.title().startswith(TEXTS[lang]["view.inspect"])
