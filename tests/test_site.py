"""The site of the documentation builds strictly, is complete, and loads nothing from elsewhere."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def build(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_link_that_leads_nowhere_is_noticed(tmp_path: Path) -> None:
    """A planted breach: the strict build must not let it pass."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("[gone](gone.md)")
    (tmp_path / "mkdocs.yml").write_text("site_name: breach\ndocs_dir: docs\nstrict: true\n")
    done = build(tmp_path / "site", "--config-file", str(tmp_path / "mkdocs.yml"))
    assert done.returncode != 0
    assert "gone.md" in done.stdout + done.stderr


def test_links_lead_somewhere_in_the_repository_too() -> None:
    """It is read there as well as on the site, whose generated pages are no files."""
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
    links = [
        (document, link)
        for document in documents
        for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)\s#]+)", document.read_text(encoding="utf-8"))
    ]
    assert len(links) > 50
    assert [f"{document}: {link}" for document, link in links if not (document.parent / link).exists()] == []


def test_what_is_elsewhere_in_the_repository_is_a_page_of_the_site(site: Path) -> None:
    text = (site / "security.html").read_text(encoding="utf-8")
    assert 'href="wire.html"' in text
    assert 'href="benchmarks.html"' in text


def test_every_page_of_the_documentation_is_in_the_navigation(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    linked = {link.split("#")[0] for link in re.findall(r'href="([^":]+\.html[^"]*)"', start)}
    pages = {str(page.relative_to(site)) for page in site.rglob("*.html")} - {"404.html"}
    assert len(pages) > 15
    assert pages - linked == set()


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loading = re.compile(
        r'<(?:script|img|iframe|source)[^>]+src="(https?:)?//|<link[^>]+rel="(?!canonical)[^"]*"[^>]+href="https?://'
    )
    foreign = [str(page) for page in site.rglob("*.html") if loading.search(page.read_text(encoding="utf-8"))]
    assert foreign == []


def test_the_wire_has_every_topic_and_message(site: Path) -> None:
    contract = json.loads((ROOT / "docs" / "contract" / "asyncapi.json").read_text(encoding="utf-8"))
    page = (site / "wire.html").read_text(encoding="utf-8")
    absent = [
        row["address"]
        for row in contract["channels"].values()
        if row["address"].removeprefix("hw/1/{fleet}/") not in page
    ]
    absent += [name for name in contract["components"]["schemas"] if f'id="{name.lower()}"' not in page]
    assert absent == []


def test_the_reference_has_the_codes_words(site: Path) -> None:
    page = (site / "reference.html").read_text(encoding="utf-8")
    for name in ("headwater.schemas.messages.Delta", "headwater.node.parent.Parent", "headwater.core.round.step"):
        assert f'id="{name}"' in page, name
