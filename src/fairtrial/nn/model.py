"""The decoder: embedding, layers by pattern letters, output head; its initial values and its one forward pass.

Legend: B batch, T time, D model width, N sequences (B, or the number of packed documents).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairtrial.core.errors import UserError
from fairtrial.nn.block import Block
from fairtrial.nn.call import Aux, Call, SparseStage, make_call
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.moe import MoE
from fairtrial.nn.mtp import Mtp
from fairtrial.nn.norm import Linear, RMSNorm
from fairtrial.nn.state import LayerState, State


@dataclass(slots=True)
class Output:
    """What a forward pass returns."""

    logits: Tensor
    """[B, T, vocab]: position t scores the token at t + 1."""
    state: State | None
    """The state after these tokens; None where none was given."""
    aux: Aux
    hidden: Tensor
    """[B, T, D]: what the output head reads."""
    stream: Tensor | None = None
    """[B, T, D]: the residual stream before the last norm, what multi-token prediction reads."""


class Decoder(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = Linear(config.hidden, config.vocab)
        self.layers = nn.ModuleList(Block(config, letter, i) for i, letter in enumerate(config.letters))
        self.norm = RMSNorm(config.hidden, config.norm_eps)
        self.mtp = Mtp(config) if config.mtp_steps else None


class Model(nn.Module):
    """A decoder with fp32 parameters on the CPU; `to` moves and converts it.

    Every parameter's initial value depends on the seed and its own name, so that models that differ in one layer
    share all others.
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = None if config.tied else Linear(config.hidden, config.vocab)
        for name, parameter in self.named_parameters():
            fill(parameter, name, config, seed)

    def forward(
        self,
        tokens_BT: Tensor,
        state: State | None = None,
        cu_seqlens: Tensor | None = None,
        *,
        record: dict[int, Tensor] | None = None,
        replay: dict[int, Tensor] | None = None,
        sparse: SparseStage = "sparse",
        mtp: bool | None = None,
        exact: bool = False,
        backend: str = "auto",
    ) -> Output:
        """Logits for tokens, behind those that `state` has read.

        Args:
            tokens_BT: integers [B, T]; packed documents as one row [1, T] with `cu_seqlens`.
            state: from `init_state` or an earlier pass (not changed); None: start of text, and no state is returned.
            cu_seqlens: [N + 1] borders of packed documents. Nothing crosses them: no attention, convolution, state.
            record: filled with each D layer's selection, layer -> positions [B, T, k] (-1: none).
            replay: selections to use instead of the indexers'.
            sparse: what DSA layers do: "sparse" attends to the selection, "dense" to everything, "warmup" to
                everything with the indexer's loss in `aux`, "joint" to the selection with the indexer's loss.
            mtp: whether to compute `aux.mtp_logits`; None: in training mode, without a state.
            exact: round every token the same however tokens are split into passes and batches (K, G, N, C with the
                "c" back end: bitwise; one thread). Slower: products run in tiles of 16 rows.
            backend: of `ops.kda.kda`.

        Raises:
            UserError: tokens, borders, state or replay that do not fit.
        """
        self._check(tokens_BT, state)
        call = make_call(tokens_BT.shape, cu_seqlens, None if state is None else state.positions)
        call.exact, call.backend, call.stage = exact, backend, sparse
        call.record, call.replay = record, replay
        # Not weight[tokens]: with several threads its gradient adds up in any order, so no run would repeat another.
        embedded_BTD = functional.embedding(tokens_BT, self.model.embed_tokens.weight)
        x_BTD, after = self.stream(embedded_BTD, call, state)
        hidden_BTD = self.model.norm(x_BTD)
        head = self.model.embed_tokens if self.lm_head is None else self.lm_head
        logits = call.product(hidden_BTD, head.weight)
        if self.model.mtp is not None and (self.training and state is None if mtp is None else mtp):
            call.record = call.replay = None
            steps = self.model.mtp(x_BTD, embedded_BTD, call)
            call.aux.mtp_logits = [call.product(hidden, head.weight) for hidden in steps]
        return Output(logits, after, call.aux, hidden_BTD, x_BTD)

    def stream(self, x_BTD: Tensor, call: Call, state: State | None) -> tuple[Tensor, State | None]:
        """What the layers make of embedded tokens, before the final norm and the head, and the state after them."""
        memory: list[LayerState] = []
        for index, block in enumerate(self.blocks[: self.config.layers]):
            x_BTD, after = block(x_BTD, call, index, None if state is None else state.layers[index])
            memory.append(after)
        if state is None:
            return x_BTD, None
        ends = [start + length for start, length in zip(call.starts, call.lengths, strict=True)]
        return x_BTD, State(memory, ends, state.kept)

    @property
    def blocks(self) -> list[Block]:
        """The layers, and behind them the MTP block where there is one."""
        return [cast(Block, layer) for layer in self.model.layers] + ([self.model.mtp.block] if self.model.mtp else [])

    def init_state(self, batch: int = 1) -> State:
        """The state of `batch` sequences (documents, where they are packed) that have read nothing yet."""
        if batch < 1:
            raise UserError(f"init_state({batch}): the number of sequences must be at least 1")
        return State([block.self_attn.init_state(batch) for block in self.blocks[: self.config.layers]], [0] * batch)

    def update_router_bias(self, aux: Aux, rate: float) -> None:
        """Move every router's selection bias by `rate` towards an even load (DeepSeek-V3: after each step)."""
        for index, load_E in aux.expert_load.items():
            moe = self.blocks[index].block_sparse_moe
            assert isinstance(moe, MoE)
            moe.update_bias(load_E, rate)

    def _check(self, tokens_BT: Tensor, state: State | None) -> None:
        if tokens_BT.ndim != 2 or tokens_BT.is_floating_point() or tokens_BT.numel() == 0:
            raise UserError(f"tokens must be integers [batch, time], not {tokens_BT.dtype} {list(tokens_BT.shape)}")
        if tokens_BT.device.type == "cpu":
            low, high = int(tokens_BT.min()), int(tokens_BT.max())
            if low < 0 or high >= self.config.vocab:
                wrong = low if low < 0 else high
                raise UserError(f"tokens: {wrong} is outside the vocabulary 0..{self.config.vocab - 1}")
        if state is not None and len(state.layers) != self.config.layers:
            raise UserError(f"state has {len(state.layers)} layers, the model {self.config.layers}: not this model's")


@torch.no_grad()
def fill(parameter: Tensor, name: str, config: ModelConfig, seed: int) -> None:
    """Set a parameter's initial value from the seed and its name.

    Norms 1, biases 0, linears N(0, init_std), convolutions U(-W^-1/2, W^-1/2). KDA's gate (Kimi Linear's released code;
    decisive for recall): A_log = log U(1, 16) per head (0 for the bounded gate), dt_bias = softplus^-1(dt) with dt
    log-uniform in [1e-3, 1e-1].
    """
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "A_log":
        if config.kda_gate == "bounded":
            parameter.zero_()
        else:
            parameter.uniform_(1, 16, generator=generator).log_()
    elif leaf == "dt_bias":
        parameter.uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp_().clamp_(min=1e-4)
        parameter += torch.log(-torch.expm1(-parameter))
    elif leaf == "bias":
        parameter.zero_()
    elif "norm" in name.split(".")[-2]:
        parameter.fill_(1)
    elif "conv1d" in name:
        bound = parameter.shape[-1] ** -0.5
        parameter.uniform_(-bound, bound, generator=generator)
    else:
        parameter.normal_(0, config.init_std, generator=generator)
