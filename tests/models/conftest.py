"""Tiny random models that answer nonsense, quickly, for every test of whatever stands in front of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

TEXT = """The quick brown fox jumps over the lazy dog. {"name": "add", "arguments": {"a": 1, "b": 2}}
A model answers a question; the answer is a number, a word or a line of text. Zwölf Boxkämpfer jagen Viktor.
What is the capital of France? Paris. Call the tool, read the result, and say what it means. 日本語 and emoji 🙂.
"""


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """One thread per test process: the machine is shared."""
    try:
        import torch
    except ImportError:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_native(folder: Path, pattern: str = "KF", seed: int = 0) -> Path:
    """A tiny random model of the native family, saved with a tokenizer of about 300 ids."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("tokenizers")
    from fairtrial.nn import hub
    from fairtrial.nn.config import ModelConfig
    from fairtrial.nn.model import Model
    from fairtrial.nn.tokenizer import Tokenizer

    tokenizer = Tokenizer.train([TEXT], vocab_size=300)
    config = ModelConfig(
        vocab=tokenizer.vocab_size, hidden=32, layers=max(2, len(pattern)), pattern=pattern, intermediate=64,
        heads=2, head_dim=16, kda_heads=2, kda_key_dim=16, kda_gate_rank=8, window=8, init_std=0.2,
        kv_rank=16, nope_dim=16, rope_dim=8, mla_value_dim=16, index_heads=2, index_dim=8, index_topk=8,
    )  # fmt: skip
    with torch.no_grad():
        hub.save(Model(config, seed), folder)
    tokenizer.save(folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="session")
def native_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `native:FOLDER` opens: 2 layers (KDA and attention), 32 wide, about 300 ids. Do not change it."""
    return make_native(tmp_path_factory.mktemp("native") / "tiny")


@pytest.fixture(scope="session")
def native_maker() -> Callable[..., Path]:
    """`native_maker(folder, pattern="KF", seed=0)`: another tiny native model in a new folder."""
    return make_native
