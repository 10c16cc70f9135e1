"""Configurations: every file in the repository loads, and a mistake is answered with one helpful sentence."""

import json
import tomllib
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl.config import Config, load_config, parse_config
from rl.errors import UsageError
from rl.run.config import TrackingConfig
from rl.samplers.config import SamplerConfig
from rl.step.config import LaterTable, WeightingConfig
from rl.tasks.countdown_text import CountdownText
from rl.tasks.extraction import CLOSING
from rl.tasks.registry import build_task, wants_chat
from rl.tasks.split import held_out_prompts
from tests.amounts import some_of
from weightopt.settings import differences

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
TASK = {"name": "addition", "digits": {"1": 1.0}}

# A row of the data that a config names, as it is published; {} is the number of the row.
ROWS = {
    "gsm8k-from-scratch": {"question": "Ann has {} eggs. How many?", "answer": "She has {}.\n#### {}"},
    "math-post-sft": {
        "problem": "What is ${}$?",
        "level": "Level 3",
        "type": "Algebra",
        "solution": "It is $\\boxed{{}}$.",
    },
    "dapo-math-post-sft": {"prompt": "What is ${}$?", "solution": "{}", "data_source": "math_dapo"},
}


def with_data(path: Path, folder: Path) -> Config:
    """The config, with a small file in the place of every file of data it names."""
    rows = ROWS.get(path.stem)
    if rows is None:
        return load_config(path)
    changes = []
    for number, key in enumerate(("train", "held_out")):
        name = tomllib.loads(path.read_text(encoding="utf-8"))["task"].get(key)
        if name is None:
            continue
        filled = [
            {column: text.replace("{}", str(i)) for column, text in rows.items()}
            for i in range(10_000 * number, 10_000 * number + 5000)
        ]
        file = folder / f"{key}{Path(name).suffix}"
        if file.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(filled), file)
        else:
            file.write_text("".join(json.dumps(row) + "\n" for row in filled))
        changes.append(f"task.{key}={file}")
    return load_config(path, changes)


@pytest.mark.slow
@some_of("path", CONFIGS, lambda path: path.stem != "tinyzero-countdown", ids=lambda path: path.stem)
def test_every_config_loads_and_has_its_held_out_prompts(path: Path, tmp_path: Path) -> None:
    config = with_data(path, tmp_path)
    task = build_task(config.task)
    prompts = held_out_prompts(task, count=config.evaluation.prompts, seed=config.evaluation.seed)
    longest = max(len(prompt.text) for prompt in prompts)
    if config.start_model is None:  # a token of a new model is a character
        assert longest + config.rollout.max_new_tokens <= config.model.context


def test_there_are_configs() -> None:
    assert {path.stem for path in CONFIGS} >= {"char-addition", "char-countdown", "demo", "tinyzero-countdown", *ROWS}


def test_the_experiments_are_those_that_are_known() -> None:
    """What is known of the paper's runs; the rest of these files is ours, and says so."""
    tinyzero, gsm8k = (
        load_config(ROOT / "configs" / f"{name}.toml") for name in ("tinyzero-countdown", "gsm8k-from-scratch")
    )
    assert str(tinyzero.start_model) == "hub:Qwen/Qwen2.5-3B"
    assert (tinyzero.rollout.group_size, tinyzero.rollout.prompts_per_step) == (16, 256)
    assert tinyzero.optimizer.learning_rate == 1e-6
    assert isinstance(tinyzero.task, CountdownText)
    assert set(tinyzero.task.numbers) == {3, 4}
    assert str(gsm8k.start_model) == "hub:meta-llama/Llama-3.1-8B"
    assert (gsm8k.rollout.group_size, gsm8k.rollout.prompts_per_step) == (16, 128)
    assert (gsm8k.weighting.all_wrong, gsm8k.weighting.all_wrong_after) == ("hold", 50)


def test_a_base_model_that_answers_in_tags_ends_with_the_second() -> None:
    """It writes no end token, and the verifier looks for both tags: else every response would be cut, and wrong."""
    found = []
    for path in CONFIGS:
        config = load_config(path)
        tags = isinstance(config.task, CountdownText) and not config.task.examples
        tags = tags or getattr(config.task, "answer", None) == "tags"
        if tags and config.start_model is not None and not wants_chat(config.task):
            found.append(path.stem)
            assert CLOSING in config.rollout.stop, path.stem
            assert config.rollout.include_stop, path.stem
    assert found == ["tinyzero-countdown"]


def test_no_room_is_too_small_for_a_longest_response() -> None:
    for path in CONFIGS:
        config = load_config(path)
        if config.sampler.context is not None:
            assert config.rollout.max_new_tokens < config.sampler.context


def test_a_config_survives_json() -> None:
    for path in CONFIGS:
        config = load_config(path)
        assert parse_config(config.to_json()) == config


def test_configs_are_immutable() -> None:
    config = parse_config({"task": TASK})
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('seed = 1\n[task]\nname = "addition"\ndigits = { 1 = 1 }\n')
    overrides = ["seed=7", "rollout.group_size=4", "optimizer.betas=[0.5, 0.6]", "table=some/where.json", "seed=8"]
    config = load_config(path, overrides)
    assert config.seed == 8
    assert config.rollout.group_size == 4
    assert config.optimizer.betas == (0.5, 0.6)
    assert config.table == Path("some/where.json")
    config = load_config(path, ['later_tables=[{from_step=9, table="b.json"}]'])
    assert config.later_tables == (LaterTable(from_step=9, table=Path("b.json")),)
    assert (
        load_config(path, ["task.digits={3=1}"]).task
        == Config.model_validate({"task": {"name": "addition", "digits": {3: 1}}}).task
    )


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"task": TASK, "sead": 1}, r"'sead' is unknown; the nearest is 'seed'"),
        ({"task": TASK, "nosuch": 1}, r"'nosuch' is unknown \(known here: device, "),
        (
            {"task": TASK, "rollout": {"group_sise": 1}},
            r"'rollout.group_sise' is unknown; the nearest is 'rollout.group_",
        ),
        (
            {"task": TASK, "rollout": {"top_p": 0.9}},
            r"'rollout.top_p' is refused: tokens are drawn from the whole dist",
        ),
        ({"task": {**TASK, "digit": 1}}, r"'task.digit' is unknown; the nearest is 'task.digits'"),
        ({"task": {"name": "chess"}}, r"'task.name' is 'chess': it must be one of 'addition', 'countdown'"),
        ({"task": {}}, r"'task.name' is missing: it must be one of"),
        ({"task": 3}, r"'task"),
        ({"task": "addition"}, r"'task"),
        ({}, r"'task' is missing"),
        (
            {"task": TASK, "rollout": {"group_size": 1}},
            r"'rollout.group_size' is 1: it must be at least 2 and at most 65,536$",
        ),
        ({"task": TASK, "rollout": 3}, r"'rollout' is 3: it must be a section of keys, \[rollout\]"),
        ({"task": TASK, "optimizer": {"learning_rate": "fast"}}, r"'optimizer.learning_rate' is 'fast': "),
        (
            {"task": TASK, "optimizer": {"learning_rate": float("nan")}},
            r"'optimizer.learning_rate' is nan: it must be above 0 and below 1$",
        ),
        (
            {"task": {"name": "addition", "digits": {"0": 1.0}}},
            r"'task.digits.0' is '0': it must be at least 1 and at most 12$",
        ),
        ({"task": {"name": "addition", "digits": {}}}, r"'task.digits' is {}: "),
        (
            {"task": TASK, "weighting": {"all_wron": "off"}},
            r"'weighting.all_wron' is unknown; the nearest is 'weighting.all_wrong'",
        ),
        ({"task": TASK, "weighting": {"all_wrong": "on"}}, r"'weighting.all_wrong' is 'on': .*'table', 'off', 'hold'"),
        ({"task": TASK, "weighting": {"all_wrong": "hold"}}, r"^config key 'weighting': all_wrong_after goes with"),
        ({"task": TASK, "weighting": {"all_wrong_after": 3}}, r"^config key 'weighting': all_wrong_after goes with"),
        (
            {"task": TASK, "weighting": {"all_wrong": "ramp", "all_wrong_after": 3}},
            r"^config key 'weighting': all_wrong_full_at goes with",
        ),
        (
            {"task": TASK, "weighting": {"all_wrong": "ramp", "all_wrong_after": 3, "all_wrong_full_at": 3}},
            r"^config key 'weighting': all_wrong_full_at must be greater than all_wrong_after",
        ),
        (
            {
                "task": TASK,
                "rollout": {"dynamic_sampling": True},
                "weighting": {"all_wrong": "hold", "all_wrong_after": 3},
            },
            r"^config: weighting.all_wrong = 'hold' would never act with rollout.dynamic_sampling",
        ),
        (
            {"task": TASK, "evaluation": {"pass_at": [8]}},
            r"^config key 'evaluation': pass_at asks for 8 .* samples is 4",
        ),
        ({"task": TASK, "evaluation": {"pass_at": [2], "temperature": 0}}, r"pass_at needs a temperature above 0"),
        (
            {"task": TASK, "training": {"rollout_share": 2}},
            r"'training.rollout_share' is 2: it must be at least 0 and at most 1$",
        ),
        (
            {"task": TASK, "training": {"keep_checkpoints": 0}},
            r"'training.keep_checkpoints' is 0: it must be at least 1$",
        ),
        (
            {"task": TASK, "later_tables": [{"from_step": 2, "tabel": "x"}]},
            r"'later_tables.0.tabel' is unknown; the nearest is 'later_tables.0.table' \(known here: from_step, table",
        ),
        ({"task": {"name": "addition", "digitz": {"1": 1}}}, r"'task.digitz' is unknown; the nearest is 'task.digits'"),
        ({"task": TASK, "later_tables": [{"from_step": 2}]}, r"'later_tables.0.table' is missing"),
        ({"task": TASK, "later_tables": [{"from_step": 1, "table": "x"}]}, r"'later_tables.0.from_step' is 1: "),
        (
            {"task": TASK, "later_tables": [{"from_step": 5, "table": "x"}, {"from_step": 5, "table": "y"}]},
            r"^config key 'later_tables': each from_step must be greater than the one before it",
        ),
        ({"task": TASK, "later_tables": {"step": 3}}, r"'later_tables' is .*: it must be a list"),
        ({"task": TASK, "later_tables": [3]}, r"'later_tables.0' is 3: it must be a table, \{ key = value"),
        ({"task": TASK, "rollout": {"stop": "x"}}, r"'rollout.stop' is 'x': it must be a list"),
        (
            {"task": TASK, "optimizer": {"betas": [0.9, 1]}},
            r"'optimizer.betas.1' is 1: it must be at least 0 and below",
        ),
        (
            {"task": TASK, "optimizer": {"betas": [0.9] * 3}},
            r"'optimizer.betas' is .*: it must be a list of 2, in brackets",
        ),
        (
            {"task": TASK, "lora": {"rank": True}},
            r"'lora.rank' is true: it must be a whole number, at least 0 and at most",
        ),
        (
            {"task": TASK, "lora": {"targets": 3}},
            r"'lora.targets' is 3: it must be 'all-linear' or a list, in brackets: \[ … \], of length at least 1$",
        ),
        (
            {"task": TASK, "policy": {"logits_at_once": 1.5}},
            r"'policy.logits_at_once' is 1.5: it must be 'auto' or a whole number, at least 1 and at most",
        ),
        (
            {"task": {"name": "addition", "digits": {"x": 1}}},
            r"'task.digits.x' is 'x': it must be a whole number, at least 1 and at most 12$",
        ),
        (
            {"task": TASK, "rollout": {"stop": [""]}},
            r"'rollout.stop.0' is '': .* of length at least 1 and of length at",
        ),
        ({"task": TASK, "start_model": 3}, r"'start_model' is 3: it must be a path, in quotes$"),
        ({"task": TASK, "evaluation": {"keep_best": 7}}, r"'evaluation.keep_best' is 7: it must be true or false$"),
        (
            {"task": TASK, "kl": {"estimator": "score"}},
            r"'kl.estimator' is refused: it is gone since version 0.3, and ",
        ),
        (
            {"task": TASK, "lora": {"rank": 2, "alpha": 2e6}},
            r"'lora.alpha' is 2000000.0: it must be above 0 and at most",
        ),
        ({"task": TASK, "evaluation": {"pass_at": [0]}}, r"'evaluation.pass_at.0' is 0: it must be at least 1$"),
        ({"task": TASK, "rollout": {"prompts_per_step": 10**12}}, r"'rollout.prompts_per_step' is .* at most 65,536$"),
        (
            {"task": {"name": "import", "path": "a:b", "parameters": {"day": date(2020, 1, 1)}}},
            r"^config key 'task.parameters': the value of 'day' must be made of texts, finite numbers",
        ),
        (
            {"task": TASK, "model": {"hidden_size": 100, "heads": 3}},
            r"^config key 'model': .* multiple of 2 \* heads = 6",
        ),
        (
            {
                "task": {
                    "name": "countdown",
                    "numbers": {"2": 1},
                    "largest_number": 9,
                    "largest_target": 50,
                    "habits": {"^": 1},
                }
            },
            r"'task.habits.\^' is '\^': ",
        ),
    ],
)
def test_a_mistake_gets_one_sentence(document: dict, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        parse_config(document)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "overrides", "sentence"),
    [
        ("seed = ", [], "is not TOML"),
        ("", ["seed"], "is not of the form"),
        ("", ["=3"], "is not of the form"),
        ("", ["a..b=3"], "is not of the form"),
        ("seed = 1", ["seed.deep=3"], "'seed' is not a section"),
        ("", ["training.steps=3\nfoo=4"], "holds more than one value"),
    ],
)
def test_bad_files_and_overrides(tmp_path: Path, text: str, overrides: list[str], sentence: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=sentence):
        load_config(path, overrides)


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_config(tmp_path / "absent.toml")


def test_the_options_are_documented() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    names = [*WeightingConfig.model_fields, *LaterTable.model_fields, "dynamic_sampling", "over_generation_limit"]
    names += ["warmup_steps", "max_grad_norm", "pass_at", "greedy", "keep_best"]
    names += ["keep_checkpoints", "rollout_share", *TrackingConfig.model_fields, *SamplerConfig.model_fields]
    assert [name for name in names if name not in text] == []


def test_differences() -> None:
    assert differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}) == [
        ("a.c", 2, 4),
        ("d", 3, None),
        ("e", None, 5),
    ]
