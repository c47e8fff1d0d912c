"""Scores of continuations by a Hugging Face causal model: trunks once through its cache, logits where they are read.

The output head is given only the positions that are read, by a hook before it, so that whatever the model does to its
logits behind the head (soft caps, scales) still happens. A cache that is not plain keys and values is tried out before
it is trusted: some models forget a recurrent state when more than one token follows it.
Legend: B batch, T time, D model width, N positions read, V vocabulary.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fairtrial.core.errors import UserError
from fairtrial.models.model import Pair, Score
from fairtrial.models.reading import batch_tokens, pass_tokens, places, write_scores
from fairtrial.models.scoring import Node, Row, Sheet, batches, encode_pairs, plan, rows_of

TOLERANCE = 1e-3
"""How far a continuation's score may be from the one without a cache for the cache to be used, in nats per token."""


@torch.inference_mode()
def score_hf(model: Any, tokenizer: Any, pairs: Sequence[Pair], *, budget: int = 8192) -> list[Score]:
    """Score every pair: log p(continuation | context), in order.

    Args:
        model: A causal language model of transformers, in evaluation mode (with a PEFT adapter or without).
        tokenizer: Its tokenizer. A context gets what the tokenizer puts in front of a text; an empty one is the token
            that starts a text, or the one that ends it where there is no other.
        pairs: What is scored.
        budget: Most tokens in a pass, padding included.

    Raises:
        UserError: An empty continuation, or a tokenizer that is not the model's.
        ContextTooLongError: A pair is longer than the model's context.
    """
    config = model.config.get_text_config(decoder=True)
    start = next((t for t in (tokenizer.bos_token_id, tokenizer.eos_token_id) if t is not None), None)
    vocab, name = model.get_input_embeddings().weight.shape[0], str(getattr(config, "_name_or_path", "") or "model")
    encoded = encode_pairs(
        pairs,
        lambda texts: _encode(tokenizer, texts, start),
        start,
        encode_bare=lambda texts: tokenizer(list(texts), add_special_tokens=False)["input_ids"],
        context=context_of(config),
        vocab=vocab,
        name=name,
    )
    rows = rows_of(encoded)
    budget = pass_tokens(budget, model.get_input_embeddings().weight.device)
    tree, sheet = plan(rows), Sheet.of(len(pairs))
    with _Head(model) as head:
        if tree.nodes and not _continues(head, tree):
            tree = plan(rows, None)
        todo: list[tuple[Node, Any]] = [(tree, None)]
        while todo:
            node, cache = todo.pop()
            cache = _extended(head, cache, node, budget)
            for some in batches(node.rows, node.end, budget):
                _read(head, some, node.end, cache, sheet)
            todo += [(below, cache) for below in node.nodes]
    return sheet.scores(pairs)


def context_of(config: Any) -> int | None:
    """Tokens that a model takes by its config; None where it does not say."""
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        value = getattr(config, name, None)
        if type(value) is int and value > 0:
            return value
    return None


def _encode(tokenizer: Any, texts: Sequence[str], start: int | None) -> list[list[int]]:
    """Ids with what the tokenizer puts in front, unless the text spells it itself."""
    mark = "" if start is None else tokenizer.decode([start])
    spelled = [bool(mark) and text.startswith(mark) for text in texts]
    out: list[list[int]] = [[]] * len(texts)
    for special in (True, False):
        where = [index for index, has in enumerate(spelled) if has is not special]
        if where:
            ids = tokenizer([texts[index] for index in where], add_special_tokens=special)["input_ids"]
            for index, some in zip(where, ids, strict=True):
                out[index] = some
    return out


class _Head:
    """A model whose output head sees only chosen positions, on this thread, while the context is open."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.module = model.get_output_embeddings()
        if self.module is None:
            raise UserError(f"{type(model).__name__} has no output head; open a causal language model")
        self._thread = threading.get_ident()
        self._chosen: Tensor | None = None

    def __enter__(self) -> _Head:
        self._handle = self.module.register_forward_pre_hook(self._choose)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _choose(self, _module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._chosen is None or threading.get_ident() != self._thread:
            return None
        return (inputs[0].flatten(0, 1)[self._chosen][None], *inputs[1:])

    def __call__(self, tokens_BT: Tensor, cache: Any, chosen_N: Tensor | None = None) -> Any:
        """A forward pass; its logits are [1, N, V] (one position where none is chosen)."""
        device = self.model.get_input_embeddings().weight.device
        self._chosen = (torch.zeros(1, dtype=torch.long) if chosen_N is None else chosen_N).to(device)
        try:
            use = {} if cache is None else {"past_key_values": cache}
            return self.model(input_ids=tokens_BT.to(device), use_cache=cache is not None, **use)
        finally:
            self._chosen = None


def _extended(head: _Head, cache: Any, node: Node, budget: int) -> Any:
    """The cache behind a node's trunk; the given one is not changed."""
    if not node.trunk:
        return cache
    cache = _new_cache(head.model) if cache is None else _repeated(cache, 1)
    for first in range(0, len(node.trunk), budget):
        out = head(torch.tensor([node.trunk[first : first + budget]]), cache)
        cache = out.past_key_values
    return cache


def _new_cache(model: Any) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


def _repeated(cache: Any, batch: int) -> Any:
    """A cache of `batch` sequences like the one in `cache`, which is not changed."""
    from transformers.cache_utils import DynamicLayer

    if all(type(layer) is DynamicLayer for layer in cache.layers):
        new = copy.copy(cache)
        new.layers = [copy.copy(layer) for layer in cache.layers]
        for layer in new.layers:  # a view: the layer's update copies it anyway
            if layer.is_initialized:
                layer.keys, layer.values = (x.expand(batch, -1, -1, -1) for x in (layer.keys, layer.values))
        return new
    new = copy.deepcopy(cache)
    new.batch_repeat_interleave(batch)
    return new


def _read(head: _Head, rows: list[Row], depth: int, cache: Any, sheet: Sheet) -> None:
    """One pass over the rows behind `depth` tokens.

    Padding is at the right, where no token before it sees it, so no mask is needed and positions are what they are.
    """
    tokens_BT, chosen_N = batch_tokens(rows, depth), places(rows, depth)
    out = head(tokens_BT, None if cache is None else _repeated(cache, len(rows)), chosen_N)
    write_scores(out.logits[0], lambda x: x, out.logits.shape[-1], rows, sheet)


def _continues(head: _Head, tree: Node) -> bool:
    """Whether the model reads on behind a cache as it would without one, tried on the shortest row below a trunk."""
    from transformers.cache_utils import DynamicLayer

    if all(type(layer) is DynamicLayer for layer in _new_cache(head.model).layers):
        return True
    node = tree.nodes[0]
    while not node.rows:
        node = node.nodes[0]
    row = min(node.rows, key=lambda row: len(row.ids))
    count = 1 + max(reading.pair for reading in row.readings)
    with_cache, without = Sheet.of(count), Sheet.of(count)
    trunk = Node(0, row.ids[: node.end])
    try:
        cache = _extended(head, None, trunk, len(row.ids))
        _read(head, [row, row], node.end, cache, with_cache)
    except (AttributeError, NotImplementedError, TypeError, ValueError):  # this cache cannot be repeated
        return False
    _read(head, [row], 0, None, without)
    return all(
        abs(a - b) <= TOLERANCE
        for reading in row.readings
        for a, b in zip(with_cache.logprobs[reading.pair], without.logprobs[reading.pair], strict=True)
    )
