"""The page of the figures as committed: complete, and what the figures give at full size."""

import re
from pathlib import Path

import pytest

from figures import captions, command, cost_map, group_tables, relative_cost, surrogates, trajectories, weights
from figures.output import write

DOCS = Path(__file__).resolve().parent.parent / "docs"
FAST = (weights, surrogates, trajectories, relative_cost, cost_map, group_tables)


@pytest.mark.slow
@pytest.mark.parametrize("module", FAST, ids=lambda module: module.__name__)
def test_the_committed_page_says_what_the_figures_give(module):
    """For the figures that take a fraction of a second; `weightopt figures --captions docs/figures.md` writes it."""
    frame = module.data()
    section = captions.Section("name", module.TITLE, module.caption(frame))
    committed = (DOCS / "figures.md").read_text(encoding="utf-8")
    assert captions.page([section]).split("## name\n\n")[1].strip() in committed
    if hasattr(module, "table"):
        assert captions.markdown(module.table(frame)) in committed


def test_the_committed_page_is_complete_and_its_pictures_small():
    committed = (DOCS / "figures.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", committed, re.M) == list(command.NAMES)
    links = re.findall(r"\]\((figures/[a-z-]+\.png)\)", committed)
    assert {f"figures/{path.name}" for path in (DOCS / "figures").iterdir()} == set(links)
    assert set(command.NAMES) - {Path(link).stem for link in links} <= set(command.FROM_RUNS)
    for link in links:
        assert (DOCS / link).stat().st_size < 150_000


@pytest.mark.slow
def test_at_full_size_too_a_figure_repeats_byte_for_byte(tmp_path):
    written = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        frame = weights.data()
        files = write(folder, "figure", weights.draw(frame), frame)
        assert [file.name for file in files] == ["figure.png", "figure.pdf", "figure.csv"]
        written.append([file.read_bytes() for file in files])
    assert written[0] == written[1]
    assert b"/TrueType" in written[0][1] or b"/CIDFontType2" in written[0][1]
