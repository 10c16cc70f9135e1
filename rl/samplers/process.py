"""The other end of `rl.samplers.ahead`: a process that samples with the weights it was given last, when it is asked.

It answers one request after the other with a line of JSON, and ends when nobody can ask any more, at once. The first
request says what the run is, a later one has prompts, or nothing: then there are new weights. What fails is said in an
object with ``kind`` and ``reason``, and is the last answer.
"""

import json
import os
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn

import torch

from rl.config import parse_config
from rl.errors import one_line
from rl.models.policy import choose_device, load_policy
from rl.samplers.ahead import shared_tensors
from rl.samplers.registry import open_sampler
from rl.tasks.protocol import Prompt


def main() -> NoReturn:
    """Serve until the process that asks has ended or something fails."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no reply
    requests: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=[requests], daemon=True).start()

    def say(document: Any) -> None:
        print(json.dumps(document), file=replies, flush=True)

    try:
        _serve(requests, say)
    except Exception as error:  # whatever it is, the other side is to know
        say({"kind": type(error).__name__, "reason": one_line(error)})
    finally:
        os._exit(1)  # the thread still listens


def _listen(requests: "SimpleQueue[str]") -> NoReturn:
    for line in sys.stdin:
        requests.put(line)
    os._exit(1)  # also in the middle of a draw


def _serve(requests: "SimpleQueue[str]", say: Any) -> NoReturn:
    first = json.loads(requests.get())
    config = parse_config(first["config"])
    torch.set_num_threads(config.sampler.threads)
    # Of all GPUs it sees one, or none.
    policy = load_policy(Path(first["start"]), config.policy, device=choose_device("auto"))
    weights = shared_tensors(first["file"], first["layout"])
    policy.model.load_state_dict(weights)
    with open_sampler(config, policy, weights, probe=_prompts(first["probe"])) as sampler:
        del policy  # the sampler has its own
        say([sampler.ends, sampler.engine])
        while True:
            request = json.loads(requests.get())
            if request:
                say(sampler.sample(_prompts(request["prompts"]), **request["options"]).to_json())
            else:
                sampler.publish(weights)
                say([])


def _prompts(texts: list[str]) -> list[Prompt[None]]:
    """Prompts of which a sampler reads the text alone."""
    return [Prompt(id=text, text=text, difficulty="", problem=None) for text in texts]
