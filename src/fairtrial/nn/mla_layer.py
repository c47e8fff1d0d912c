"""Multi-head latent attention, with DeepSeek Sparse Attention's indexer or without (letters M, D, S).

Source: Kimi Linear report, section 4 (NoPE MLA); DeepSeek-V3.2-Exp report, section 2; GLM-5 (2602.15763); IndexShare of
GLM-5.2 for S. The indexer reads detached inputs: the language model's loss never reaches it, its own never leaves it.
Legend: B batch, T time, S keys, D model width, H heads, N per-head key part, P shared key part, C latent, R = C + P,
V value width, J indexer heads, I indexer width, K chosen keys.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairtrial.nn.call import Call, Span
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.index_layer import Index, Indexer, replayed, rows_of, turn
from fairtrial.nn.norm import Linear, RMSNorm
from fairtrial.nn.ops.dsa import indexer_kl, selection_mask, sparse_attention
from fairtrial.nn.ops.mla import (
    absorb_queries,
    absorbed_attention,
    expand_context,
    expanded_attention,
    split_up_projection,
    yarn_scale,
)
from fairtrial.nn.ops.rotary import frequencies, yarn_frequencies
from fairtrial.nn.state import LayerState, no_rows

GATHER = 12
"""Several queries gather their rows where keys * (queries + C) >= GATHER * K * queries; else a mask hides the others.

A mask costs keys and values per head (about what C queries cost) and then every query every key; gathering costs K rows
per query whatever the context, about 12 times the masked price of a row. Measured (4 heads, C 128, P 32, N = V = 64,
fp32, one core of an AMD EPYC, mask / gather in CPU time), 256 queries at the end of S keys: K 64: 3.1 at 1k, 12 at 4k,
44 at 16k; K 256: 0.7 at 1k, 1.1 at 2k, 2.4 at 4k, 9.6 at 16k; K 2048: 0.5 at 4k and 8k, 1.5 at 16k, 2.9 at 32k. 32
queries: K 2048: 1.0 at 4k, 2.6 at 8k. 4 queries: 5.5 and more everywhere. Whole sequences, with backward: K 64: 0.9 at
512, 1.3 at 1k, 2.8 at 2k; K 256: 0.5 at 1k, 0.8 at 2k.
"""


class LatentLayer(nn.Module):
    """x [B, T, D] -> [B, T, D]; remembers latent rows [N, S, R], and the indexer's keys [N, S, I] where it has one."""

    def __init__(self, config: ModelConfig, letter: str) -> None:
        super().__init__()
        self.letter = letter
        self.heads, self.nope, self.shared = config.heads, config.nope_dim, config.rope_dim
        self.latent, self.topk, self.config = config.kv_rank, config.index_topk, config
        width = self.nope + self.shared
        self.scale = yarn_scale(width**-0.5, config.yarn_factor)
        if config.q_rank is None:
            self.q_proj = Linear(config.hidden, self.heads * width, rows=(self.nope, self.shared))
        else:
            self.q_a_proj = Linear(config.hidden, config.q_rank)
            self.q_a_layernorm = RMSNorm(config.q_rank, config.latent_norm_eps)
            self.q_b_proj = Linear(config.q_rank, self.heads * width, rows=(self.nope, self.shared))
        self.kv_a_proj_with_mqa = Linear(config.hidden, config.latent_dim)
        self.kv_a_layernorm = RMSNorm(self.latent, config.latent_norm_eps)
        value = config.mla_value_dim
        self.kv_b_proj = Linear(self.latent, self.heads * (self.nope + value), rows=(self.nope, value))
        self.o_proj = Linear(self.heads * value, config.hidden)
        self.indexer = Indexer(config) if letter == "D" else None

    def init_state(self, batch: int) -> LayerState:
        """An empty memory for `batch` sequences."""
        weight = self.o_proj.weight
        state: LayerState = {"latents": no_rows(batch, self.latent + self.shared, weight)}
        return state | ({} if self.indexer is None else self.indexer.init_state(batch))

    def forward(self, x_BTD: Tensor, call: Call, layer: int, before: LayerState | None) -> tuple[Tensor, LayerState]:
        """The layer's output and what it remembers afterwards."""
        where = call.positions(x_BTD.device)
        q_BTHN, q_BTHP, latent_BTQ = self._queries(x_BTD, where, call)
        new_BTR = self._rows(x_BTD, where, call)
        after: LayerState = {}
        after_rows = None
        if before is not None:
            after_rows = rows_of(before["latents"]).append(new_BTR, call.lengths, call.packed)
            after["latents"] = after_rows
        spans = list(call.spans())
        view: Index | None = None
        if self.indexer is not None and (before is not None or call.stage != "dense"):
            frequency = self._frequencies(self.indexer.rotated, x_BTD)
            view = self.indexer(x_BTD, latent_BTQ, where, frequency, call, before)
            assert view is not None
            if before is not None:
                after |= view.after
        replay = None
        if call.replay is not None and call.stage != "dense" and (view is not None or layer in call.replay):
            replay = replayed(call, layer, where)
        out: list[Tensor] = []
        chosen: list[Tensor | None] = []
        for index, span in enumerate(spans):
            some = (span.batch, span.time)
            rows_BSR = span.see(new_BTR, after_rows)
            selection = None
            if replay is not None:
                selection = replay[some]
            elif view is not None:
                selection = view.choose(call, span)
            elif self.letter == "S" and call.selections:
                selection = call.selections[index]
            if view is not None:
                self._learn(view, selection, (q_BTHN[some], q_BTHP[some], rows_BSR), call, layer, span)
            chosen.append(selection)
            sparse = call.stage in ("sparse", "joint") and not self._all(selection, where[some], call, span)
            out.append(self._attend(q_BTHN[some], q_BTHP[some], rows_BSR, selection if sparse else None, span.start))
        if self.letter == "D":
            call.selections = chosen
            known = [one for one in chosen if one is not None]
            if call.record is not None and known:
                call.record[layer] = call.join(known)
        return call.product(call.join(out).flatten(-2), self.o_proj.weight), after

    def _all(self, selection_BTK: Tensor | None, where_BT: Tensor, call: Call, span: Span) -> bool:
        """Whether every query attends to all that it sees: dense attention then gives the same, and is faster."""
        if selection_BTK is None:
            return True
        if call.replay is None:
            return span.end // self.config.index_pool <= self.topk // self.config.index_pool
        return bool(((selection_BTK >= 0).sum(-1) == where_BT + 1).all())

    def _queries(self, x_BTD: Tensor, where_BT: Tensor, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        """Queries for the per-head keys, for the shared key, and what the indexer's queries are made from."""
        latent = x_BTD
        if self.config.q_rank is None:
            q = call.product(x_BTD, self.q_proj.weight)
        else:
            latent = self.q_a_layernorm(call.product(x_BTD, self.q_a_proj.weight))
            q = call.product(latent, self.q_b_proj.weight)
        q_BTHN, q_BTHP = q.unflatten(-1, (self.heads, -1)).split([self.nope, self.shared], -1)
        return q_BTHN, self._turned(q_BTHP, where_BT, call), latent

    def _rows(self, x_BTD: Tensor, where_BT: Tensor, call: Call) -> Tensor:
        """What is cached of each token: [normalised latent | shared key]."""
        row = call.product(x_BTD, self.kv_a_proj_with_mqa.weight)
        latent, shared = row.split([self.latent, self.shared], -1)
        return torch.cat([self.kv_a_layernorm(latent), self._turned(shared, where_BT, call)], -1)

    def _turned(self, x: Tensor, where_BT: Tensor, call: Call) -> Tensor:
        if self.config.mla_rope == "none":
            return x
        return turn(x, where_BT, self.config.mla_rope, self.shared, self._frequencies(self.shared, x), call)

    def _frequencies(self, width: int, like: Tensor) -> Tensor:
        config = self.config
        if width == 0:
            return like.new_zeros(0)
        if config.yarn_factor > 1:
            return yarn_frequencies(
                width, config.rope_theta, config.yarn_factor, config.yarn_original, device=like.device
            )
        return frequencies(width, config.rope_theta, like.device)

    def _learn(
        self,
        view: Index,
        selection: Tensor | None,
        attention: tuple[Tensor, Tensor, Tensor],
        call: Call,
        layer: int,
        span: Span,
    ) -> None:
        """Add this span's share of the indexer's loss to `call.aux`."""
        if call.stage not in ("warmup", "joint"):
            return
        assert view.q is not None and view.w is not None
        some = (span.batch, span.time)
        q_BTHN, q_BTHP, rows_BSR = attention
        with torch.no_grad():
            w_HNC, _ = split_up_projection(self.kv_b_proj.weight, self.heads, self.nope)
            q_BTHR = absorb_queries(q_BTHN, q_BTHP, w_HNC)
        loss = indexer_kl(
            view.q[some], view.see(span), view.w[some], q_BTHR, rows_BSR, self.scale,
            indices_BTK=selection if call.stage == "joint" else None, start=span.start, pool=view.indexer.pooled,
        )  # fmt: skip
        share = q_BTHN.shape[0] * q_BTHN.shape[1] / sum(call.lengths)
        call.aux.indexer_kl[layer] = call.aux.indexer_kl.get(layer, 0.0) + loss * share

    def _attend(
        self, q_BTHN: Tensor, q_BTHP: Tensor, rows_BSR: Tensor, selection_BTK: Tensor | None, start: int
    ) -> Tensor:
        """[B, T, H, V] in the cheapest of four equal forms."""
        w_HNC, w_HVC = split_up_projection(self.kv_b_proj.weight, self.heads, self.nope)
        time, keys = q_BTHN.shape[1], rows_BSR.shape[1]
        if not self._reads_rows(time, keys, selection_BTK):
            mask = None if selection_BTK is None else selection_mask(selection_BTK, keys)
            return expanded_attention(
                q_BTHN, q_BTHP, rows_BSR, w_HNC, w_HVC, scale=self.scale, start=start, mask_BTS=mask
            )
        q_BTHR = absorb_queries(q_BTHN, q_BTHP, w_HNC)
        if selection_BTK is None:
            context = absorbed_attention(q_BTHR, rows_BSR, self.scale, self.latent, start=start)
        else:
            context = sparse_attention(q_BTHR, rows_BSR, selection_BTK, self.scale, self.latent)
        return expand_context(context, w_HVC)

    def _reads_rows(self, time: int, keys: int, selection_BTK: Tensor | None) -> bool:
        """Whether the latent rows are read as they are (absorbed), instead of keys and values made from them.

        Everything attended to: for a few queries behind many keys (measured: 1.2 to 1.5 times faster at 64 queries with
        C 128, 1.8 to 2.5 at 32, 9 to 26 at 2). A selection: where gathering is cheaper than hiding (`GATHER`).
        """
        if time == 1:
            return True
        if selection_BTK is None:
            return 2 * time <= self.latent and 4 * time <= keys
        return keys * (time + self.latent) >= GATHER * selection_BTK.shape[-1] * time
