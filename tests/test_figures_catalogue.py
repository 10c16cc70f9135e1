"""The page of the catalogue: as committed, complete, and the same when written again."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom

from figures import catalogue as page
from tests.amounts import some_of
from theory import catalogue

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_committed_page_is_what_the_catalogue_gives():
    # Three decimals of quadratures exact to rounding; `python -m figures.catalogue` writes the page again.
    assert (DOCS / "weightings.md").read_text(encoding="utf-8") == page.page()


def test_every_member_has_a_section_a_row_and_a_small_picture():
    text = page.page()
    pictures = re.findall(r"\]\((weightings/[a-z0-9-]+\.png)\)", text)
    assert len(set(pictures)) == len(pictures) == len(catalogue.EVERYTHING)
    on_disk = {f"weightings/{path.name}" for path in (DOCS / "weightings").iterdir()}
    assert set(pictures) == on_disk
    for name, member in catalogue.EVERYTHING.items():
        assert f"\n### {name}\n" in text
        assert f"[{member.label}](#{page.anchor(member)})" in text
        assert member.formula in text
    for path in (DOCS / "weightings").iterdir():
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < 25_000


@some_of("name", ["sqrt-r", "curverl:60,45,35,30,30,25,35", "ngrpo"], 1)
def test_a_picture_is_the_same_bytes_when_drawn_again(name):
    member = catalogue.EVERYTHING[name]
    assert page.picture(member) == page.picture(member)


@pytest.mark.slow
def test_writing_twice_gives_the_same_files(tmp_path, monkeypatch):
    few = {name: catalogue.EVERYTHING[name] for name in ("grpo", "psr")}
    monkeypatch.setattr(catalogue, "EVERYTHING", few)
    page.write(tmp_path / "docs")
    first = {path.name: path.read_bytes() for path in (tmp_path / "docs").rglob("*") if path.is_file()}
    page.write(tmp_path / "docs")
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "docs").rglob("*") if path.is_file()}
    assert set(first) == {"weightings.md", "grpo.png", "psr.png"}


@pytest.mark.parametrize("name", ["sqrt-r", "ngrpo", "pass-at-k-groups:4"])
def test_ratio_of_a_group_table_by_another_quadrature(name):
    """Speed by summing over groups, integrals by adaptive quadrature in log-odds."""
    member, size, span = catalogue.EVERYTHING[name], 16, (0.01, 0.9)
    table = page.catalogue_table(member, size)
    assert table.advantage_correct is not None
    assert table.advantage_wrong is not None
    correct, wrong = np.array(table.advantage_correct), np.array(table.advantage_wrong)
    k = np.arange(size + 1)

    def speed(rho):
        return float(binom.pmf(k, size, rho) @ (k / size * correct / rho - (1 - k / size) * wrong / (1 - rho)))

    def integral(function):
        low, high = (np.log(rho / (1 - rho)) for rho in span)

        def integrand(theta):
            rho = 1 / (1 + np.exp(-theta))
            return function(rho) * rho * (1 - rho)

        return quad(integrand, low, high, epsrel=1e-11)[0]

    time = integral(lambda rho: 1 / (rho * rho * (1 - rho) * speed(rho))) * integral(speed)
    least = integral(lambda rho: 1 / (rho * np.sqrt(1 - rho))) ** 2
    # 1/u is exact to 1e-9 in panels of an eighth; adaptive quadrature to 1e-10.
    assert page.group_ratio(member, size, *span, "effective") == pytest.approx(time / least, rel=1e-8)


def test_no_table_for_groups_beats_the_curve():
    for name, member in catalogue.EVERYTHING.items():
        if not name.startswith("curverl"):
            assert page.group_ratio(member, 16, 0.01, 0.9, "effective") >= 1, name


def test_places_and_ties_of_the_page():
    ratios, gap = page.curve_ratios()
    assert gap <= 1e-10
    assert set(ratios) == set(catalogue.WEIGHTINGS) | set(catalogue.BATCH_EXAMPLES)
    assert ratios["grpo"][0] == pytest.approx(1, abs=1e-12)
    assert ratios["sqrt-r"][1] == pytest.approx(1, abs=1e-12)
    assert ratios["batch-std:0.3"] == pytest.approx(ratios["rloo"], rel=1e-12)
