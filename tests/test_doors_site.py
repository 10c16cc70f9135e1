"""The site of the documentation: built strictly, whole on the disk, and asking nobody for anything."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.browser import browser

ROOT = Path(__file__).resolve().parent.parent
THEORY = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.slow


def build(output, *more):
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(output), *more]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


class Fetched(HTMLParser):
    """What a browser fetches by itself when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        names = ("src", "srcset", "poster", "data", "href" if tag in ("link", "use", "image") else "src")
        self.addresses += [given[name] or "" for name in names if name in given]


def test_no_page_fetches_anything_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        reader = Fetched()
        text = page.read_text(encoding="utf-8")
        reader.feed(text)
        outside = [each for each in reader.addresses if re.match(r"(?:\w+:)?//", each)]
        assert outside == [], page.name
        for each in reader.addresses:
            there = each.partition("#")[0].partition("?")[0]
            if page.name == "404.html":  # a server's, with addresses from the top of the site
                there = there.removeprefix("/")
            assert not there or each.startswith("data:") or (page.parent / there).exists(), (page.name, each)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


def test_formulas_are_set_as_formulas(site):
    page = (site / "theory.html").read_text(encoding="utf-8")
    displayed = re.findall(r"\$\$.*?\$\$", THEORY, re.S)
    inline = re.findall(r"\$[^$]+\$", re.sub(r"\$\$.*?\$\$", "", THEORY, flags=re.S))
    assert page.count('display="block"') == len(displayed) > 5
    assert page.count("<math ") == len(displayed) + len(inline)
    assert "arithmatex" not in page
    assert "$" not in re.sub(r"<script.*?</script>|<math.*?</math>", "", page, flags=re.S)
    assert not re.search(r"\\(?:frac|sqrt|rho|omega|mathrm|bigl)", re.sub(r"<script.*?</script>", "", page, flags=re.S))


def test_the_modules_that_the_theory_names_hold_it():
    import importlib

    named = set(re.findall(r"`((?:theory|weightopt|sim)(?:\.\w+)+)`", THEORY))
    assert len(named) > 12
    for name in named:
        importlib.import_module(name)


def test_every_command_and_option_is_in_the_reference(site):
    import typer

    from weightopt import cli

    cli._add_commands([])
    page = (site / "cli.html").read_text(encoding="utf-8")
    commands = typer.main.get_command(cli.app).commands  # pyright: ignore[reportAttributeAccessIssue]
    for name, command in commands.items():
        section = page.partition(f'<h2 id="{name}">')[2].partition("<h2 ")[0]
        assert section, name
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert f"<code>{parameter.opts[0]}" in section, (name, parameter.opts)


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Page\n\n[there](nowhere.md) and [here](#no-such-place)\n")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    kept = re.search(r"^validation:\n(?: .*\n)+", settings, re.M)
    assert kept
    (tmp_path / "mkdocs.yml").write_text(f"site_name: x\n{kept[0]}", encoding="utf-8")
    done = build(tmp_path / "out", "--config-file", str(tmp_path / "mkdocs.yml"))
    assert done.returncode == 1
    assert "nowhere.md" in done.stderr
    assert "#no-such-place" in done.stderr
    # Not --quiet: what is not said is not counted either.
    assert (
        "mkdocs build --strict\n"
        in (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ndocs:")[2].partition("\n\n")[0]
    )


@pytest.fixture(scope="module")
def tab():
    with browser() as page:
        page.size(1280, 900)
        yield page


@pytest.mark.parametrize("name", ["index.html", "theory.html", "api/weightopt.html"])
def test_a_page_opens_from_the_disk_and_is_searched(name, site, tab):
    tab.open((site / name).as_uri())
    # What is focused before the page listens is not heard, and what is typed is read when a key is let go.
    tab.wait(
        "(field => (field.blur(), field.focus(), !document.querySelector('.md-search-result__meta').textContent"
        ".includes('Initializing')))(document.querySelector('input[data-md-component=search-query]'))"
    )
    tab.write("input[data-md-component=search-query]", "crowding")
    tab.press("End", 35)
    tab.wait("document.querySelectorAll('.md-search-result__item').length > 2")
    tab.wait("[...document.images].every(each => each.complete && each.naturalWidth)")
    assert tab.errors == []
    assert {address.partition(":")[0] for address in tab.requests} <= {"file", "data"}
    if name == "theory.html":
        # Set by the font that comes along: a square root grows with what is under it.
        loaded = "[...document.fonts].filter(each => each.status === 'loaded').map(each => each.family)"
        assert any("STIX" in family for family in tab.run(loaded)), json.dumps(tab.run(loaded))
