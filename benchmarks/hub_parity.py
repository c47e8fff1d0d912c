"""Logits of our models against transformers' own classes on tiny random checkpoints, and where top-k ties part them.

    python benchmarks/hub_parity.py [--save] [--fla PYTHON]

transformers builds and saves each model and computes its logits with eager attention in fp32 (whole prompts, padded
prompts, cached decoding). Our package loads what it saved, in a process of its own, and is compared row by row. With
`--fla` our side runs a second time under another Python that has flash-linear-attention, where transformers' Kimi
Linear cannot run on a CPU at all: its attention is then fla's Triton kernel.

Where DSA's indexer gives several keys the same score at the border of the top k (products that ReLU sets to zero),
which of them is chosen is a matter of convention: ours takes the lower position, torch.topk says nothing. Such rows,
and rows that read them in a later layer, are counted and left out of `max |diff|`; `replayed` runs our model on
transformers' selection instead and leaves nothing out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

TOLERANCE = 1e-4
TOPK = 16
VOCAB = 96

_BASE = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 80, "moe_intermediate_size": 24,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 32,
    "qk_rope_head_dim": 8, "v_head_dim": 12, "qk_nope_head_dim": 16, "num_experts_per_tok": 2,
    "initializer_range": 0.1, "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1,
    "attn_implementation": "eager",
}  # fmt: skip
_KIMI = {**_BASE, "num_local_experts": 8, "linear_head_dim": 16, "linear_num_heads": 3}
_DSA = {
    **_BASE, "q_lora_rank": 24, "n_routed_experts": 8, "index_n_heads": 8, "index_head_dim": 16,
    "index_topk": TOPK, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
_YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32,
    "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
}  # fmt: skip

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "kimi KKKM": ("KimiLinear", {**_KIMI, "layer_types": ["linear_attention"] * 3 + ["full_attention"]}),
    "kimi default layers": ("KimiLinear", {**_KIMI, "num_hidden_layers": 5, "n_group": 2, "q_lora_rank": 24}),
    "deepseek-v3.2": ("DeepseekV32", {**_DSA, "n_group": 4, "topk_group": 2}),
    "deepseek-v3.2 yarn": ("DeepseekV32", {**_DSA, "rope_parameters": _YARN}),
    "glm-5": ("GlmMoeDsa", {**_DSA, "index_n_heads": 4}),
    "glm-5.2 shared": ("GlmMoeDsa", {**_DSA, "index_topk_freq": 2}),
}
CASES: dict[str, tuple[int, list[int]]] = {
    "T=1": (1, [0]),
    "T=15": (15, [0, 0]),
    "T=17": (17, [0, 0]),
    "T=70": (70, [0, 0]),
    "T=130": (130, [0]),
    "left-padded": (60, [0, 7, 41]),
    "right-padded": (60, [0, -7, -41]),
}
"""Name -> tokens per row, and how many of them are padding (negative: behind the text)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One model on one kind of prompt."""

    model: str
    case: str
    rows: int
    ties: int
    """Rows whose selection is the first to differ, between keys of one score."""
    untied: int
    """The same between keys of different scores: an error of one side."""
    excluded: int
    """Rows that such a row can reach in later layers, itself included."""
    diff: float
    """Largest difference of a logit, prompt at once, outside excluded rows."""
    cached: float
    """The same for our token-by-token decoding against their prompt at once."""
    replayed: float
    """Largest difference with their selection replayed, no row excluded (equal to diff without DSA)."""

    @property
    def ok(self) -> bool:
        """Within tolerance, and every difference of selection explained."""
        return max(self.diff, self.cached, self.replayed) < TOLERANCE and not self.untied


def write_oracle(folder: Path, names: list[str] | None = None) -> None:
    """Build, save and run transformers' models; one sub-folder for each, with the prompts and logits beside it."""
    transformers = quiet_transformers()
    torch.set_num_threads(1)
    for seed, name in enumerate(names or MODELS):
        family, fields = MODELS[name]
        torch.manual_seed(seed)
        config = getattr(transformers, f"{family}Config")(**fields)
        model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
        place = folder / name.replace(" ", "_")
        model.save_pretrained(place)
        out: dict[str, Tensor] = {}
        for case, (time, pads) in CASES.items():
            generator = torch.Generator().manual_seed(1000 * seed + time)
            tokens = torch.randint(2, VOCAB, (len(pads), time), generator=generator)
            out |= {f"{case}/{key}": value for key, value in _run(model, tokens, pads).items()}
        save_file({key: value.contiguous() for key, value in out.items()}, place / "cases.oracle")


def quiet_transformers() -> Any:
    """transformers without its notices, and without fla, which it would call on a CPU."""
    if importlib.util.find_spec("fla") is not None:
        sys.modules["fla"] = None  # type: ignore[assignment]
    logging.disable(logging.WARNING)
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


@torch.no_grad()
def _run(model: Any, tokens: Tensor, pads: list[int]) -> dict[str, Tensor]:
    """Logits and selections of one case."""
    time = tokens.shape[1]
    mask = torch.ones_like(tokens)
    for row, pad in enumerate(pads):
        mask[row, : max(pad, 0)] = 0
        mask[row, time + min(pad, 0) :] = 0
    chosen: dict[str, Tensor] = {}

    def keep(layer: int) -> Callable[[Any, Any, Tensor], None]:
        return lambda _module, _inputs, output: chosen.update({f"chosen.{layer}": output.clone()})

    indexers = [(n, layer.self_attn.indexer) for n, layer in enumerate(model.model.layers) if _has_indexer(layer)]
    hooks = [indexer.register_forward_hook(keep(n)) for n, indexer in indexers]
    logits = model(tokens, attention_mask=mask, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return {"tokens": tokens, "logits": logits, **chosen}


def _has_indexer(layer: Any) -> bool:
    return getattr(layer.self_attn, "indexer", None) is not None


def compare(folder: Path) -> list[Row]:
    """Our side: load every model that `write_oracle` left and compare."""
    from fairtrial.nn.hub import load

    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in MODELS:
        place = folder / name.replace(" ", "_")
        if not place.is_dir():
            continue
        model, oracle = load(place), load_file(place / "cases.oracle")
        for case, (time, pads) in CASES.items():
            parts = []
            for row, pad in enumerate(pads):
                span = slice(max(pad, 0), time + min(pad, 0))
                parts.append(_prompt(model, {k: v[row : row + 1] for k, v in _of(oracle, case).items()}, span))
            rows.append(_joined(name, case, parts))
    return rows


def _of(oracle: dict[str, Tensor], case: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{case}/"): value for key, value in oracle.items() if key.startswith(f"{case}/")}


@torch.no_grad()
def _prompt(model: Any, oracle: dict[str, Tensor], span: slice) -> Row:
    """One prompt of one row, the padding cut off."""
    tokens, theirs = oracle["tokens"][:, span], oracle["logits"][0, span]
    time = tokens.shape[1]
    chosen = {
        int(key.split(".")[1]): _allowed(value[:, span].long() - span.start, time)
        for key, value in oracle.items()
        if key.startswith("chosen.")
    }
    record: dict[int, Tensor] = {}
    scores, hooks = _scores(model, chosen)
    whole = model(tokens, record=record).logits[0]
    for hook in hooks:
        hook.remove()
    ties, untied, reached = _differences(record, chosen, scores, time, model.config.layers)
    state, steps = model.init_state(1), []
    for start in [0, *range((time + 1) // 2, time)]:
        stop = (time + 1) // 2 if start == 0 else start + 1
        output = model(tokens[:, start:stop], state)
        state = output.state
        steps.append(output.logits[0])
    replayed = model(tokens, replay=chosen).logits[0] if chosen else whole
    kept = ~reached
    return Row(
        "", "", time, int(ties.sum()), int(untied.sum()), int(reached.sum()),
        _largest(whole[kept], theirs[kept]), _largest(torch.cat(steps)[kept], theirs[kept]),
        _largest(replayed, theirs),
    )  # fmt: skip


def _largest(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max()) if ours.numel() else 0.0


def _allowed(chosen: Tensor, time: int) -> Tensor:
    """Their selection without what the causal mask takes back (they fill up with any keys while t < k)."""
    query = torch.arange(time)[:, None]
    return chosen.where((chosen >= 0) & (chosen <= query), -1)


def _scores(model: Any, chosen: dict[int, Tensor]) -> tuple[dict[int, Tensor], list[Any]]:
    """Hooks that keep each indexer's scores [T, S] of the next pass."""
    from fairtrial.nn.ops.dsa import index_scores

    scores: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[Any, Any, Any], None]:
        def hook(_module: Any, _inputs: Any, index: Any) -> None:
            scores[layer] = index_scores(index.q, index.k, index.w, 0)[0]

        return hook

    return scores, [model.model.layers[n].self_attn.indexer.register_forward_hook(keep(n)) for n in chosen]


def _differences(
    ours: dict[int, Tensor], theirs: dict[int, Tensor], scores: dict[int, Tensor], time: int, layers: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [T] whose selection differs at a tie, those where it differs otherwise, and all rows either can reach."""
    ties, untied, reached = (torch.zeros(time, dtype=torch.bool) for _ in range(3))
    for layer, selection in sorted(theirs.items()):
        settled = reached.clone()  # rows whose inputs differ already: nothing to learn from their selection
        for t in range(time):
            if settled[t]:
                continue
            mine, other = (set(s[0, t].tolist()) - {-1} for s in (ours[layer], selection))
            if mine == other:
                continue
            values = scores[layer][t, sorted(mine ^ other)]
            (ties if len(mine) == len(other) and len(values.unique()) == 1 else untied)[t] = True
            reached[t] = True
            if layer < layers - 1:
                reached[t:] = True
    return ties, untied, reached


def _joined(name: str, case: str, parts: list[Row]) -> Row:
    """The prompts of one case as one row of the table."""
    return Row(
        name, case, *(sum(getattr(p, key) for p in parts) for key in ("rows", "ties", "untied", "excluded")),
        *(max(getattr(p, key) for p in parts) for key in ("diff", "cached", "replayed")),
    )  # fmt: skip


def table(rows: list[Row], title: str) -> str:
    """The rows as text."""
    lines = [
        title,
        f"{'model':21}{'prompts':14}{'rows':>5}{'tied':>6}{'other':>6}{'left out':>9}"
        f"{'max |diff|':>12}{'cached':>10}{'replayed':>10}",
    ]
    for row in rows:
        lines.append(
            f"{row.model:21}{row.case:14}{row.rows:5}{row.ties:6}{row.untied:6}{row.excluded:9}"
            f"{row.diff:12.1e}{row.cached:10.1e}{row.replayed:10.1e}{'' if row.ok else '  FAILS'}"
        )
    worst = max(max(row.diff, row.cached, row.replayed) for row in rows)
    total, tied = sum(row.rows for row in rows), sum(row.ties for row in rows)
    lines.append(f"largest {worst:.1e}, tolerance {TOLERANCE:.0e}; {tied} of {total} rows have a tie at the border")
    return "\n".join(lines)


def _ours_in(python: str, folder: Path) -> tuple[list[Row], str]:
    """Our side under a Python, and a line about fla there."""
    command = [python, __file__, "--ours", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python}: {done.stderr.strip()}")
    found = json.loads(done.stdout.splitlines()[-1])
    return [Row(**row) for row in found["rows"]], found["fla"]


def _theirs_in(python: str, folder: Path) -> str:
    """What transformers' Kimi Linear does under a Python, nothing hidden."""
    program = (
        "import sys, torch, transformers\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "print(model(torch.ones(1, 4, dtype=torch.long)).logits.shape)\n"
    )
    place = str(folder / "kimi_KKKM")
    done = subprocess.run([python, "-c", program, place], capture_output=True, text=True, check=False)
    last = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1]
    return f"transformers' own Kimi Linear there: {'runs' if done.returncode == 0 else 'fails'} ({last})"


def main() -> None:
    """Run both sides and print the tables."""
    parser = argparse.ArgumentParser(description="our logits against transformers' on tiny random checkpoints")
    parser.add_argument("--save", action="store_true", help="also write the tables to benchmarks/results")
    parser.add_argument("--fla", metavar="PYTHON", help="a Python that has flash-linear-attention, for a second run")
    parser.add_argument("--ours", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours:
        rows = compare(Path(arguments.ours))
        present = importlib.util.find_spec("fla") is not None
        fla = "fla is absent" if not present else "fla can be imported and was not"
        fla = "fla was imported" if "fla" in sys.modules else fla
        print(json.dumps({"rows": [asdict(row) for row in rows], "fla": fla}))
        return
    from machine import machine, save

    with tempfile.TemporaryDirectory() as folder:
        write_oracle(Path(folder))
        rows, fla = _ours_in(sys.executable, Path(folder))
        text = table(rows, f"Parity with transformers {quiet_transformers().__version__}; {fla}")
        if arguments.fla:
            again, fla = _ours_in(arguments.fla, Path(folder))
            text += "\n\n" + table(again, f"The same where {fla}") + "\n" + _theirs_in(arguments.fla, Path(folder))
            rows += again
    text += f"\n\n{machine()}, torch {torch.__version__}"
    print(text)
    if arguments.save:
        save("hub-parity", text)
    if not all(row.ok for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
