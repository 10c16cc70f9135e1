"""No text of a figure touches another or leaves the page, in the pictures that people get."""

import importlib
from pathlib import Path

import pytest

from figures import all_wrong, command, population, regimes, simulation
from tests.pictures import faults

STUDY = Path(__file__).parents[1] / "studies" / "weightings" / "results" / "countdown-scratch"
# Fewer prompts, seeds and steps leave all text in place.
SMALLER = {
    simulation: {"PROMPTS": 20, "SEEDS": 2},
    regimes: {"PROMPTS": 32, "SEEDS": 2},
    all_wrong: {"PROMPTS": 16, "SEEDS": 2},
    population: {"PROMPTS": 30},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", command.NAMES)
def test_no_text_touches_another_or_is_cut_off(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"figures.{name.replace('-', '_')}")
    for key, value in SMALLER.get(module, {}).items():
        monkeypatch.setattr(module, key, value)
    frame = module.data(STUDY) if name in command.FROM_RUNS else module.data()
    assert faults(module.draw(frame)) == []
