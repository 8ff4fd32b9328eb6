import functools
import tempfile
from pathlib import Path

import pytest
import torch

from optimus_server.engine.engine import Engine, EngineOptions
from optimus_server.engine.request import Committed, Failed, Finished, Params, Request
from optimus_server.models.loader import load_model
from tests.tiny import reference_model, tiny_checkpoint


class Tiny:
    """One tiny checkpoint in float64: as the engine loads it and as transformers does."""

    def __init__(self, path, flavour, block_size):
        tiny_checkpoint(path, flavour, block_size=block_size)
        self.model = load_model(path, dtype=torch.float64)
        self.reference = reference_model(path)
        self.config = self.model.config

    def engine(self, *, pages=64, page_size=8, max_rows=8, prefill_budget=64, **options):
        return Engine(
            self.model,
            EngineOptions(
                pages=pages, page_size=page_size, max_rows=max_rows, prefill_budget=prefill_budget, **options
            ),
        )

    def request(self, name, prompt, **params):
        stop = params.pop("stop_ids", self.config.eos_token_ids)
        return Request(
            name,
            tuple(prompt),
            Params(stop_ids=frozenset(stop), **params),
            block_size=self.config.block_size,
            shift=self.config.logit_shift,
        )


@pytest.fixture(scope="session")
def tiny():
    with tempfile.TemporaryDirectory() as root:

        @functools.cache
        def make(flavour="sdar", block_size=8):
            return Tiny(Path(root) / f"{flavour}-{block_size}", flavour, block_size)

        yield make


def finish(engine, requests, arrivals=None):
    """Run requests to their ends, each added before step ``arrivals[i]``; ids, events by request name.

    Pages and requests are checked after every step, and all must be back at the end.
    """
    arrivals = arrivals or [0] * len(requests)
    pending = sorted(zip(arrivals, range(len(requests)), strict=True))
    answers = {request.id: [] for request in requests}
    ends = {}
    step = 0
    while pending or engine.busy:
        while pending and pending[0][0] <= step:
            engine.add(requests[pending.pop(0)[1]])
        for name, event in engine.step():
            assert name not in ends
            match event:
                case Committed(ids, logprobs):
                    assert len(ids) == len(logprobs) > 0
                    answers[name].extend(ids)
                case Finished() | Failed():
                    ends[name] = event
        engine.check()
        step += 1
        assert step < 5000
    assert engine.pool.available == engine.options.pages
    return answers, ends
