"""The reader of configurations: hostile files get one sentence, and what is printed reads back."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from rl.config import load_config as load_run
from rl.tasks.config import TASKS
from sim.config import load_config as load_sweep
from tests.amounts import some_of
from weightopt.settings import ByName, Integer, Section, SettingsError, as_toml, load

ROOT = Path(__file__).parent.parent
RUNS = sorted((ROOT / "configs").glob("*.toml"))
SWEEPS = sorted((ROOT / "configs" / "simulate").glob("*.toml"))


class Inner(Section):
    """A section."""

    name: str = 'a "quoted"\n\ttext \x7f\\ é'
    """What it is called."""
    shape: Literal["round", "square"] | None = None
    """Its shape."""
    sizes: Mapping[str, float] = {"a b": 1e-300, "é": 2.0}


class Whole(Section):
    """A configuration."""

    count: Annotated[Integer, Field(ge=1, lt=9)] = 3
    """How many."""
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"inner = " + b"[" * 500 + b"]" * 500, "is not TOML: values are nested more than 32 deep"),
        (b"inner = " + b"[" * 100 + b"]" * 100, "is not TOML: values are nested more than 32 deep"),
        (b"inner = " + b"{a=" * 500 + b"1" + b"}" * 500, "is not TOML: values are nested more than 32 deep"),
        (b"a." * 50_000 + b"a = 1", "is not TOML: a key has more than 32 parts"),
        (b'"a" . ' * 50_000 + b"a = 1", "is not TOML: a key has more than 32 parts"),
        (b"[" + b"a." * 50_000 + b"a]", "is not TOML: a key has more than 32 parts"),
        (b"count = 1\ninner.name = '\xff'", "is not UTF-8 text: byte 0xff stands at offset 24"),
        (b"count = 1" + b"0" * 5000, "is not TOML: Exceeds the limit"),
        (b"count = 1" + b"0" * 4000, "is 1000"),
        (b"#" * 2**20 + b"\n", "is longer than 1,048,576 bytes"),
        (b"\0", "is not TOML"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hostile_file_gets_one_short_sentence(data: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(data)
    with pytest.raises(SettingsError) as caught:
        load(Whole, path)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xef\xbb\xbfcount = 5\r\n")
    assert load(Whole, path).count == 5


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(SettingsError, match=r"cannot be read: (not a regular file|Is a directory)"):
            load(Whole, path)
    with pytest.raises(SettingsError, match=r"cannot be read: .*null"):
        load(Whole, tmp_path / "a\0b")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (".".join("a" * 50_000) + "=1", "names a key of more than 32 parts"),
        ("count=" + "[" * 500 + "]" * 500, "'count' is '"),
        ("inner.name.deep=1", "'inner.name' is {'deep': 1}"),
        ("count=9", "'count' is 9: it must be at least 1 and below 9"),
    ],
)
def test_a_hostile_override_gets_one_short_sentence(override: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(Whole, None, [override])
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_model_too_large_to_be_built_is_refused_before_it_is() -> None:
    for change in (["model.layers=1000000"], ["model.layers=64", "model.hidden_size=8192"]):
        with pytest.raises(ValueError, match="at most"):
            load_run(None, change)


def test_what_is_printed_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "printed.toml"
    for settings, read in [
        (Whole(), lambda path: load(Whole, path)),
        (load_run(None), load_run),
        (load_sweep(None), load_sweep),
        *((load_run(each), load_run) for each in RUNS),
        *((load_sweep(each), load_sweep) for each in SWEEPS),
    ]:
        path.write_text(as_toml(settings), encoding="utf-8")
        assert read(path) == settings
    assert as_toml(Whole()).startswith(
        "# How many. At least 1 and below 9.\ncount = 3\n\n[inner]\n# What it is called.\n"
    )
    assert "# Its shape. One of 'round', 'square'.\n# shape =\n" in as_toml(Whole())


@some_of("command", ["simulate", "train"], 1)
def test_the_commands_print_every_key(command: str) -> None:
    line = [sys.executable, "-m", "weightopt", command, "--print-config", "--set", "seeds=7"]
    line[-1] = {"train": "seed=7", "simulate": "seeds=7"}[command]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    printed = tomllib.loads(done.stdout)
    settings = {"train": load_run, "simulate": load_sweep}[command](None)
    given = {key: value for key, value in settings.model_dump(mode="json").items() if value is not None}
    assert printed.keys() == given.keys()
    assert printed[line[-1].partition("=")[0]] == 7


def sections(model: type[Section]) -> Iterator[type[Section]]:
    yield model
    for field in model.model_fields.values():
        if isinstance(field.default, Section):
            yield from sections(type(field.default))


def test_every_key_says_what_it_means() -> None:
    tasks = {ByName(TASKS).section(name) for name in TASKS}
    models = [*sections(type(load_run(None))), *sections(type(load_sweep(None))), *tasks]
    silent = [
        f"{model.__name__}.{name}"
        for model in models
        for name, field in model.model_fields.items()
        if not field.description and not isinstance(field.default, Section) and name != "task"
    ]
    assert len(models) > 20
    assert silent == []


@pytest.mark.slow
def test_reading_a_configuration_needs_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from rl.config import load_config; "
        f"[load_config(path) for path in Path({str(ROOT / 'configs')!r}).glob('*.toml')]; "
        "print(*(sys.modules.keys() & {'torch', 'transformers', 'numpy', 'sympy', 'pyarrow'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
