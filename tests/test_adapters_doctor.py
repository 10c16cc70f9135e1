"""What `weightopt doctor` finds in an environment and in configurations, without importing a host."""

import dataclasses
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from weightopt.adapters import doctor
from weightopt.adapters.rules import UNREADABLE, Finding, Host, Plugin, Rule, Settings, sentences
from weightopt.adapters.skyrl_rules import SKYRL
from weightopt.adapters.slime_rules import SLIME
from weightopt.adapters.trl_rules import GRPO, RLOO
from weightopt.adapters.verl_rules import VERL
from weightopt.adapters.weigher import AdapterError
from weightopt.cli import app
from weightopt.table import WeightTable, group_table

SOUND = {"loss_type": "dr_grpo", "num_generations": 8, "max_completion_length": 256}


def table(size: int) -> WeightTable:
    return group_table(lambda rho: 1 / rho, size, name="t", label="t", all_wrong_advantage=-1, all_right_advantage=0)


def found(host: Host, given: dict[str, Any], size: int | None = None) -> dict[str, str]:
    return {each.setting: each.severity for each in host.findings(given, None if size is None else table(size))}


def test_sound_settings_are_left_alone():
    assert found(GRPO, SOUND, 8) == {}
    assert found(RLOO, {"beta": 0.0, "num_generations": 8}, 8) == {}


def test_what_trl_does_by_default_is_known():
    assert found(GRPO, {}) == {"loss_type": "warn"}
    assert found(RLOO, {}) == {"beta": "warn"}


@pytest.mark.parametrize(
    ("changed", "severity"),
    [
        ({"loss_type": "grpo"}, "warn"),
        ({"loss_type": "bnpo"}, "warn"),
        ({"loss_type": "dapo"}, "warn"),
        ({"loss_type": "luspo"}, None),
        ({"loss_type": "brand_new"}, "refuse"),
        ({"num_generations": 16}, "refuse"),
        ({"num_generations": "many"}, "refuse"),
        ({"beta": 0.01}, "warn"),
        ({"beta": [1]}, "refuse"),
        ({"entropy_coef": 0.01}, "warn"),
        ({"use_adaptive_entropy": True}, "warn"),
        ({"top_entropy_quantile": 0.2}, "warn"),
        ({"off_policy_mask_threshold": 0.5}, "warn"),
        ({"mask_truncated_completions": True}, "warn"),
        ({"top_p": 0.9}, "warn"),
        ({"top_k": 50}, "warn"),
        ({"min_p": 0.1}, "warn"),
        ({"repetition_penalty": 1.1}, "warn"),
        ({"reward_weights": [1.0, 0.2]}, "note"),
        ({"reward_weights": [1.0, 1.0]}, None),
        ({"scale_rewards": "group"}, "note"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "note"),
    ],
)
def test_each_setting_that_changes_what_a_table_means(changed, severity):
    findings = GRPO.findings({**SOUND, **changed}, table(8))
    assert [each.severity for each in findings] == ([] if severity is None else [severity])
    for each in findings:
        assert each.sentence.startswith(f"TRL: {each.setting}=")
        assert each.sentence.endswith(".")
        assert each.instead.split("=")[0] in (*changed, "entropy_coef", "correctness")


@pytest.mark.parametrize(
    ("host", "refilling"),
    [
        (GRPO, None),
        (SLIME, {"dynamic_sampling_filter_path": "keep"}),
        (VERL, {"algorithm": {"filter_groups": {"enable": True}}}),
        (SKYRL, {"trainer": {"algorithm": {"dynamic_sampling": {"type": "filter"}}}}),
    ],
    ids=lambda value: getattr(value, "key", ""),
)
def test_a_table_that_was_solved_for_another_loop_is_named(host, refilling):
    def loops(given, *names):
        made = dataclasses.replace(table(8), provenance={"loops": names, "made_for": "a loop of its own"})
        return [each for each in host.findings(given, made) if each.setting == "table"]

    (finding,) = loops({}, "until-success")
    assert finding.severity == "warn"
    assert "is not made for this run, which draws a fixed batch" in finding.sentence
    assert "it is made for: a loop of its own" in finding.sentence
    assert loops({}, "fixed-batch") == loops({}) == []
    if refilling is not None:
        assert loops(refilling, "refill") == []
        (finding,) = loops(refilling, "fixed-batch")
        assert "which refills with dynamic sampling" in finding.sentence


def test_the_line_to_write_instead_is_sound():
    """Each advice, followed, leaves no finding of its setting."""
    amiss = {
        "loss_type": "grpo",
        "num_generations": 16,
        "beta": 0.1,
        "entropy_coef": 0.1,
        "top_entropy_quantile": 0.5,
        "off_policy_mask_threshold": 0.1,
        "mask_truncated_completions": True,
        "top_p": 0.9,
        "top_k": 50,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "scale_rewards": "group",
        "multi_objective_aggregation": "normalize_then_sum",
    }
    findings = GRPO.findings(amiss, table(8))
    assert {each.setting for each in findings} == set(amiss)
    advice = ", ".join(each.instead.split(", or ")[0] for each in findings)
    assert GRPO.findings(eval(f"dict({advice})"), table(8)) == []


TRL_IN_PYTHON = """
import trl

BETA = 0.1
args = trl.GRPOConfig("out", loss_type="grpo", beta=BETA, num_generations=8, **more)
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", json.dumps({**SOUND, "loss_type": "grpo"})),
        ("c.yaml", "loss_type: grpo\nnum_generations: 8\nmax_completion_length: 256\n"),
        ("c.yml", "loss_type: ${other}\nother: grpo\nnum_generations: 8\n"),
        ("c.txt", "{'loss_type': 'grpo', 'num_generations': 8}"),
        ("c.py", "settings = dict(loss_type='grpo', num_generations=8)"),
        ("train.py", TRL_IN_PYTHON),
    ],
)
def test_configurations_of_every_form_are_read(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text, encoding="utf-8")
    document = doctor.report(tmp_path / name, table=table(8))
    assert document["host"] == "trl"
    severities = {each["setting"]: each["severity"] for each in document["findings"]}
    assert severities["loss_type"] == "warn"
    assert document["refused"] is False
    if name == "train.py":
        (unread,) = (each for each in document["findings"] if each["setting"] == "beta")
        assert (unread["severity"], unread["value"], unread["instead"]) == ("note", "?", "beta=0.0")
    json.dumps(document, allow_nan=False)


def test_rloo_is_told_from_grpo(tmp_path: Path):
    (tmp_path / "a.py").write_text("RLOOConfig(num_generations=4)", encoding="utf-8")
    assert doctor.report(tmp_path / "a.py")["host"] == "trl-rloo"
    (tmp_path / "b.json").write_text('{"normalize_advantages": true, "num_generations": 4}', encoding="utf-8")
    document = doctor.report(tmp_path / "b.json")
    assert document["host"] == "trl-rloo"
    assert {each["setting"] for each in document["findings"]} == {"beta", "normalize_advantages"}
    assert doctor.report(tmp_path / "b.json", "trl")["host"] == "trl"


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("c.json", "{", "cannot be parsed"),
        ("c.json", "[1]", "must hold settings by name"),
        ("c.json", "[" * 100_000, "cannot be parsed"),
        ("c.yaml", "a: [", "cannot be parsed"),
        ("c.yaml", "!!python/object/apply:os.system ['true']", "cannot be parsed"),
        ("c.py", "import os; os.system('true')", "no call of GRPOConfig"),
        ("c.py", "GRPOConfig(beta=0); GRPOConfig(beta=1)", "2 configurations are made in it"),
        ("c.py", "(", "cannot be parsed"),
        ("c.json", '{"lr": 1}', "no configuration of a trainer that is known; name it with --host, one of trl,"),
        ("c.json", b"\xff\xfe\x00", "not UTF-8"),
        ("c.json", None, "cannot be read"),
    ],
)
def test_what_is_no_configuration_is_one_sentence(tmp_path: Path, name: str, text: str | bytes | None, sentence: str):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    result = CliRunner().invoke(app, ["doctor", str(tmp_path / name)])
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_the_command(tmp_path: Path):
    config, weights = tmp_path / "c.json", tmp_path / "table.json"
    config.write_text(json.dumps({**SOUND, "beta": 0.1}), encoding="utf-8")
    table(16).save(weights)
    run = CliRunner().invoke
    everything = run(app, ["doctor"])
    assert everything.exit_code == 0
    assert "TRL" in everything.stdout
    fits = run(app, ["doctor", str(config)], standalone_mode=False)
    assert fits.return_value == 0
    assert "mind: beta=0.1 adds the gradient of a KL divergence" in fits.stdout
    assert "    write beta=0.0\n" in fits.stdout
    other = run(app, ["doctor", str(config), "--table", str(weights), "--json"], standalone_mode=False)
    assert other.return_value == 1
    document = json.loads(other.stdout)
    assert document["refused"] is True
    assert [each["severity"] for each in document["findings"]] == ["refuse", "warn"]
    config.write_text(json.dumps(SOUND), encoding="utf-8")
    assert "no setting changes what a table means" in run(app, ["doctor", str(config)]).stdout
    alone = run(app, ["doctor", "--table", str(weights)])
    assert (alone.exit_code, alone.stderr.count("\n")) == (2, 1)
    unknown = run(app, ["doctor", str(config), "--host", "trlx"])
    assert unknown.exit_code == 2
    assert "host 'trlx' is not known; give one of trl," in unknown.stderr
    missing = run(app, ["doctor", str(config), "--table", str(tmp_path / "no.json")], standalone_mode=False)
    assert "cannot be read" in str(missing.exception)


def test_versions_come_from_metadata_alone(monkeypatch: pytest.MonkeyPatch):
    known = {"trl": "1.16.0", "some-host": "3.0", "other-host": "1.0"}

    def version(distribution: str) -> str:
        if distribution not in known:
            raise importlib.metadata.PackageNotFoundError(distribution)
        return known[distribution]

    monkeypatch.setattr(importlib.metadata, "version", version)
    before = set(sys.modules)
    assert doctor.describe(GRPO)["state"] == "tested"
    known["trl"] = "1.17.0"
    assert doctor.describe(GRPO)["state"] == "untested version"
    del known["trl"]
    assert doctor.describe(GRPO)["state"] == "not installed"
    assert doctor.describe(GRPO)["version"] is None
    host = Host(
        key="h", name="H", distribution="some-host", written_for=("3.0",), lines="", rules=(),
        recognises=lambda _: False, plugin=lambda: Plugin(False, "its entry point is not there"),
    )  # fmt: skip
    document = doctor.describe(host)
    assert (document["state"], document["loaded"]) == ("written to its interface", False)
    assert document["why"] == "its entry point is not there"
    assert not {name for name in set(sys.modules) - before if name.partition(".")[0] in ("trl", "verl", "skyrl")}


def test_settings_are_found_where_hosts_keep_them():
    settings = Settings({"a": {"b": 1, "c": "${d.e}"}, "d": {"e": "x"}, "f.g": 2, "loop": "${loop}", "h": "${now:}/x"})
    assert settings.get("a.b") == 1
    assert settings.get("a.c") == "x"
    assert settings.get("f.g") == 2
    assert settings.get("a.b.c", "default") == "default"
    assert settings.get("loop") is UNREADABLE
    assert settings.get("h") is UNREADABLE
    rule = Rule(setting="h", amiss=lambda value, _: value > 1, meaning="does something", instead="h=1")
    host = Host(key="h", name="H", distribution="h", lines="", rules=(rule,), recognises=lambda _: True)
    (finding,) = host.findings({"h": "${now:}"})
    assert (finding.severity, finding.meaning) == ("note", "cannot be read from this file: see that it is as below")
    assert isinstance(finding, Finding)
    assert sentences(host.findings({"h": 2}), "warn") == "H: h=2 does something; write h=1."
    assert sentences(host.findings({"h": 0}), "warn") == ""


def test_a_named_host_is_known():
    assert doctor.named("trl") is GRPO
    with pytest.raises(AdapterError, match="'x' is not known"):
        doctor.named("x")
