"""How much of a test the default suite runs: some of its cases; the others are slow, for `make test-all`."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SETTINGS = settings(
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def some_of(
    names: str | tuple[str, ...], values: Iterable[Any], quick: int | Callable[[Any], bool], *, ids: Any = None
) -> pytest.MarkDecorator:
    """Parametrise a test; slow but for the first few values, or but for those that ``quick`` picks."""
    found = []
    for place, value in enumerate(values):
        picked = quick(value) if callable(quick) else place < quick
        found.append(
            pytest.param(*((value,) if isinstance(names, str) else value), marks=() if picked else pytest.mark.slow)
        )
    return pytest.mark.parametrize(names, found, ids=ids)


def examples(
    few: int, many: int, *drawn: st.SearchStrategy[Any], **named: st.SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a law a test of a few drawn examples, always the same, and a slow one of many."""

    def test_of(law: Callable[..., None]) -> Callable[..., None]:
        def test(examples: int, **others: Any) -> None:
            settings(SETTINGS, max_examples=examples)(given(*drawn, **named)(law))(**others)

        drawing = inspect.signature(given(*drawn, **named)(law))
        number = inspect.Parameter("examples", inspect.Parameter.KEYWORD_ONLY)
        test.__signature__ = drawing.replace(parameters=[*drawing.parameters.values(), number])  # type: ignore[attr-defined]
        test.__name__, test.__doc__ = law.__name__, law.__doc__
        return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])(test)

    return test_of
