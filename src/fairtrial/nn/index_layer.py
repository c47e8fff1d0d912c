"""The lightning indexer as part of a layer: its projections, what it remembers, which keys it chooses, its loss.

Source: DeepSeek-V3.2-Exp report, section 2; pooled keys as in GLM-5.3-Flash: per complete pool of P tokens one key, a
gated average (`ops.indexer.pool_keys`). A pooled indexer remembers the keys of complete pools, and of the last P - 1
tokens key and gate, from which the pool that is still open will be made: a state like a convolution's, which cannot be
rolled back without `State.keep`.
Legend: B batch, T time, S keys or pools, D model width, Q query width, J indexer heads, I indexer width, K chosen keys,
N sequences, P tokens per pool.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairtrial.core.errors import UserError
from fairtrial.nn.call import VECTOR, Call, Span, wide
from fairtrial.nn.config import Layout, ModelConfig
from fairtrial.nn.norm import Linear, empty
from fairtrial.nn.ops.dsa import check_selection, index_select, pool_keys, pool_tokens
from fairtrial.nn.ops.rotary import rotate
from fairtrial.nn.state import LayerState, Rows, no_rows


class LayerNorm(nn.Module):
    """Mean and variance over the last axis, with weight and bias (the indexer's keys; eps 1e-6)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = empty(width), empty(width)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., width]."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-6)


class Pool(nn.Module):
    """Gate of the pooled keys: logits = weight x + bias[place in the pool], weight [I, D], bias [P, I]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = empty(config.index_dim, config.hidden)
        self.bias = empty(config.index_pool, config.index_dim)


@dataclass(slots=True)
class Index:
    """The indexer's view of one pass."""

    indexer: Indexer
    q: Tensor | None
    """Queries [B, T, J, I]; None where nothing is to be chosen or learned."""
    k: Tensor
    """Keys of the pass's tokens [B, T, I]."""
    w: Tensor | None
    """Weights of the heads [B, T, J]."""
    after: LayerState
    """What is remembered; without a state only what pools need."""

    def see(self, span: Span) -> Tensor:
        """What the tokens of a span may choose from, up to the last of them: keys or pooled keys [B, S, I]."""
        held = self.after.get("index_keys")
        if self.indexer.pool is None:
            return span.see(self.k, None if held is None else rows_of(held))
        rows = rows_of(held)
        seen = rows.tensor() if span.sequence is None else rows.sequence(span.sequence)[None]
        return seen[:, : span.end // self.indexer.pooled]

    def choose(self, call: Call, span: Span) -> Tensor | None:
        """Positions of the chosen tokens [B, T, K] (-1: none); None: all, or nothing is chosen in this stage."""
        if call.stage in ("dense", "warmup") or self.q is None or self.w is None:
            return None
        if call.stage == "sparse" and call.record is None and self.indexer.takes_all(span.end):
            return None
        some = (span.batch, span.time)
        return self.indexer.select(self.q[some], self.see(span), self.w[some], span.start)


class Indexer(nn.Module):
    """The lightning indexer. Its inputs are detached: no other loss reaches it, and its own reaches nothing else."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.rotated, self.topk = config.index_heads, config.index_rope_dim, config.index_topk
        self.layout: Layout = config.index_rope
        self.width, self.pooled = config.index_dim, config.index_pool
        self.wq_b = Linear(config.q_rank or config.hidden, config.index_heads * config.index_dim)
        self.wk = Linear(config.hidden, config.index_dim)
        self.k_norm = LayerNorm(config.index_dim)
        self.weights_proj = Linear(config.hidden, config.index_heads)
        self.pool = Pool(config) if self.pooled > 1 else None

    def init_state(self, batch: int) -> LayerState:
        """An empty memory for `batch` sequences."""
        weight = self.wk.weight
        state: LayerState = {"index_keys": no_rows(batch, self.width, weight)}
        if self.pool is not None:
            state["index_tail"] = weight.new_zeros(batch, self.pooled - 1, 2 * self.width)
        return state

    def forward(
        self,
        x_BTD: Tensor,
        query_BTQ: Tensor,
        where_BT: Tensor,
        frequency: Tensor,
        call: Call,
        before: LayerState | None,
    ) -> Index:
        """Keys behind those in memory, and queries where they decide or learn; `query_BTQ`: MLA's query latent or x."""
        x_BTD, query_BTQ = x_BTD.detach(), query_BTQ.detach()
        k = turn(self.k_norm(call.product(x_BTD, self.wk.weight)), where_BT, self.layout, self.rotated, frequency, call)
        q = w = None
        if self._asked(call):
            q = call.product(query_BTQ, self.wq_b.weight).unflatten(-1, (self.heads, -1))
            q = turn(q, where_BT, self.layout, self.rotated, frequency, call)
            w = call.product(wide(x_BTD), wide(self.weights_proj.weight)) * self.heads**-0.5
        after: LayerState = {}
        if self.pool is not None:
            both = torch.cat([k, call.product(x_BTD, self.pool.weight)], -1)
            state = self.init_state(len(call.lengths)) if before is None else before
            held, tail = self._append_pools(both, rows_of(state["index_keys"]), state["index_tail"], call)
            after = {"index_keys": held, "index_tail": tail}
        elif before is not None:
            after = {"index_keys": rows_of(before["index_keys"]).append(k, call.lengths, call.packed)}
        return Index(self, q, k, w, after)

    def _asked(self, call: Call) -> bool:
        """Whether queries are needed in this pass."""
        if call.stage != "sparse":
            return call.stage != "dense"
        if call.replay is not None:
            return False
        ends = [start + length for start, length in zip(call.starts, call.lengths, strict=True)]
        return call.record is not None or not self.takes_all(max(ends))

    def _append_pools(self, both: Tensor, held: Rows, tail: object, call: Call) -> tuple[Rows, Tensor]:
        """`both`: keys and gates [B, T, 2 I]; the tokens of each sequence's open pool end `tail` [N, P - 1, 2 I]."""
        assert isinstance(tail, Tensor)
        if call.uniform:
            groups = [(both, tail, call.starts[0])]
        else:
            pieces = both[0].split(call.lengths) if call.packed else both
            groups = [(one[None], tail[i : i + 1], call.starts[i]) for i, one in enumerate(pieces)]
        made = [self._pools(*group, exact=call.exact) for group in groups]
        if call.uniform:
            pools, after = made[0]
            return held.append(pools, [pools.shape[1]] * len(pools), packed=False), after
        counts = [pools.shape[1] for pools, _ in made]
        joined = torch.cat([pools for pools, _ in made], 1)
        return held.append(joined, counts, packed=True), torch.cat([after for _, after in made])

    def _pools(self, both: Tensor, tail: Tensor, start: int, *, exact: bool) -> tuple[Tensor, Tensor]:
        """The pools that these tokens complete [N, pools, I], and the last P - 1 rows."""
        assert self.pool is not None
        longer = torch.cat([tail, both], 1)
        open_rows = longer[:, tail.shape[1] - start % self.pooled :]
        k, gate = open_rows.split(self.width, -1)
        bias = self.pool.bias
        if exact:  # whole vectors, as in Call.smooth
            k, gate, bias = (functional.pad(x, (0, -self.width % VECTOR)) for x in (k, gate, bias))
        return pool_keys(k, gate, bias)[..., : self.width], longer[:, longer.shape[1] - tail.shape[1] :].clone()

    def takes_all(self, end: int) -> bool:
        """Whether a query that sees `end` tokens would choose every one of them."""
        return end // self.pooled <= self.topk // self.pooled

    def select(self, q_BTJI: Tensor, k_BSI: Tensor, w_BTJ: Tensor, start: int) -> Tensor:
        """Positions of the chosen tokens [B, T, K], K the same at any context (-1: none)."""
        pool = self.pooled
        chosen = index_select(q_BTJI, k_BSI, w_BTJ, self.topk // pool, start, pool=pool, pad=True)
        return chosen if pool == 1 else pool_tokens(chosen, pool, start)


def replayed(call: Call, layer: int, where_BT: Tensor) -> Tensor:
    """The recorded selection of a layer [B, T, K], checked against the tokens of this pass.

    Raises:
        UserError: there is none, or it belongs to another prompt.
    """
    assert call.replay is not None
    if layer not in call.replay:
        raise UserError(f"replay has no selection for layer {layer}; record and replay the same model")
    given = call.replay[layer]
    if given.ndim != 3 or given.shape[:2] != where_BT.shape or given.is_floating_point():
        raise UserError(
            f"replay: layer {layer} holds {given.dtype} {list(given.shape)}, which does not fit the tokens; it must be "
            f"integers [{where_BT.shape[0]}, {where_BT.shape[1]}, K]"
        )
    given = given.to(where_BT.device, torch.int64)
    check_selection(given, where_BT, f"replay: layer {layer}")
    return given


def turn(x: Tensor, where_BT: Tensor, layout: Layout, width: int, frequency: Tensor, call: Call) -> Tensor:
    """Rotary positions on the first `width` features of x [B, T, ...]."""
    if layout == "none" or not width:
        return x

    def turned(some: Tensor, where: Tensor) -> Tensor:
        return rotate(some, where, layout=layout, width=width, frequencies_R=frequency)

    return call.each(turned, x, where_BT)


def rows_of(value: object) -> Rows:
    """A growing part of a layer's state."""
    assert isinstance(value, Rows)
    return value
