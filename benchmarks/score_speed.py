"""Scoring multiple choice against lm-evaluation-harness: CPU time, largest difference, accuracies.

usage: python benchmarks/score_speed.py --peer PYTHON [--save] [--questions N] [--few N] [--batch 32] [--repeats 2]
PYTHON: of a virtual environment with `lm_eval`, `accelerate`, `torch`, `transformers` (and `pydantic`, for the rows
in which the harness drives a model of fairtrial.nn). Without --peer only our side is measured.

PIQA validation items under ../shared/cases/global_piqa, prompt "Question: {goal}\\nAnswer:", one space before options.
Models have random weights and a BPE of 8,192 tokens learned from the items; one thread, fp32, everything in a folder
that is thrown away. 5 shots: five items of the file's end, the same for every question, or five drawn for each question
(the harness' default), where only the options of a question share much. Both sides include tokenisation.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from machine import machine, save

from fairtrial.models.hf.score import score_hf
from fairtrial.models.model import Pair, Score
from fairtrial.models.native.score import score_native
from fairtrial.nn import hub
from fairtrial.nn.config import ModelConfig
from fairtrial.nn.model import Model
from fairtrial.nn.tokenizer import Tokenizer

CASES = Path(__file__).parents[2] / "shared" / "cases" / "global_piqa"
PEER = Path(__file__).parent / "peers" / "lm_eval_score.py"
SOURCE = Path(__file__).parents[1] / "src"
SHOTS = 5
Items = list[dict]


def questions() -> Items:
    """All items: goal, choices, gold."""
    labels = (CASES / "piqa_valid_first919-labels.lst").read_text().split()
    lines = (CASES / "piqa_valid_first919.jsonl").read_text().splitlines()
    items = []
    for line, label in zip(lines, labels, strict=True):
        item = json.loads(line)
        text = f"Question: {item['goal']}\nAnswer:"
        items.append({"context": text, "choices": [item["sol1"], item["sol2"]], "gold": int(label)})
    return items


def with_shots(items: Items, pool: Items, draw: bool) -> Items:
    """Items behind solved ones: always the same, or drawn for each."""
    g = random.Random(1234)
    out = []
    for item in items:
        shots = g.sample(pool, SHOTS) if draw else pool[:SHOTS]
        solved = "".join(f"{shot['context']} {shot['choices'][shot['gold']]}\n\n" for shot in shots)
        out.append({**item, "context": solved + item["context"]})
    return out


def make_models(folder: Path, texts: list[str]) -> dict[str, Callable[[list[Pair]], list[Score]]]:
    """Both models, saved in folders of their names; what scores with them."""
    tokenizer = Tokenizer.train(texts, vocab_size=8192)
    vocab = tokenizer.vocab_size
    torch.manual_seed(0)
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=vocab, hidden_size=256, intermediate_size=640, num_hidden_layers=4, num_attention_heads=4,
            max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
            initializer_range=0.1,
        )
    ).eval()  # fmt: skip
    llama.save_pretrained(folder / "llama")
    config = ModelConfig(
        vocab=vocab, hidden=192, layers=4, pattern="KKKM", intermediate=512, heads=4, nope_dim=32, rope_dim=16,
        mla_value_dim=32, kv_rank=64, kda_heads=4, kda_key_dim=32, kda_gate_rank=32, experts=4, experts_per_token=2,
        shared_experts=1, expert_intermediate=128, dense_layers=4, init_std=0.1,
    )  # fmt: skip
    native = Model(config, seed=0).eval()
    hub.save(native, folder / "kimi")
    fast = None
    for name in ("llama", "kimi"):
        tokenizer.save(folder / name / "tokenizer.json")
        fast = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(folder / name / "tokenizer.json"), bos_token="<|doc|>", eos_token="<|end|>"
        )
        fast.save_pretrained(folder / name)
    return {
        "llama": lambda pairs: score_hf(llama, fast, pairs),
        "kimi": lambda pairs: score_native(native, tokenizer, pairs),
    }


def ours(score: Callable[[list[Pair]], list[Score]], items: Items, repeats: int) -> dict:
    """Our time, sums and accuracies."""
    pairs = [Pair(item["context"] + " ", choice) for item in items for choice in item["choices"]]
    best = float("inf")
    scores: list[Score] = []
    for _ in range(repeats):
        gc.collect()
        before = time.process_time()
        scores = score(pairs)
        best = min(best, time.process_time() - before)
    rows = iter(scores)
    by_item = [[next(rows) for _ in item["choices"]] for item in items]

    def accuracy(value: Callable[[Score], float]) -> float:
        chosen = [max(range(len(row)), key=lambda i, row=row: value(row[i])) for row in by_item]
        return sum(c == item["gold"] for c, item in zip(chosen, items, strict=True)) / len(items)

    return {
        "seconds": best,
        "logprobs": [[s.logprob for s in row] for row in by_item],
        "greedy": [[s.greedy for s in row] for row in by_item],
        "acc": accuracy(lambda s: s.logprob),
        "acc_norm": accuracy(lambda s: s.per_character),
        "acc_bytes": accuracy(lambda s: s.per_byte),
    }


def peer(python: str, kind: str, model: Path, items: Path, batch: int, repeats: int) -> dict:
    """The harness' time, sums and accuracies."""
    environment = {
        **os.environ, "PYTHONPATH": str(SOURCE), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1",
    }  # fmt: skip
    command = [python, str(PEER), kind, str(model), str(items), str(batch), str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"the peer failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def line(label: str, count: int, mine: dict, other: dict | None) -> str:
    accuracies = "/".join(f"{mine[name]:.4f}" for name in ("acc", "acc_norm", "acc_bytes"))
    start = f"{label:<44}{count:>5}{mine['seconds']:>9.2f}{count / mine['seconds']:>8.0f}"
    if other is None:
        return f"{start}{'-':>9}{'-':>8}{'-':>10}  {accuracies}"
    gap = max(
        abs(a - b)
        for row, theirs in zip(mine["logprobs"], other["logprobs"], strict=True)
        for a, b in zip(row, theirs, strict=True)
    )
    same = all(mine[name] == other[name] for name in ("acc", "acc_norm", "acc_bytes", "greedy"))
    ratio = f"{other['seconds'] / mine['seconds']:.2f}x"
    return f"{start}{other['seconds']:>9.2f}{ratio:>8}{gap:>10.1e}  {accuracies} {'same' if same else 'DIFFERENT'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", metavar="PYTHON")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--few", type=int, default=160)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    every = questions()
    pool, few = every[-40:], every[: options.few]
    sets = {
        "0-shot": every[: options.questions],
        "5-shot": with_shots(few, pool, False),
        "5-shot drawn": with_shots(few, pool, True),
    }
    lines = [
        "Scoring PIQA options, CPU seconds (one thread, fp32, tokenisation included, best of "
        f"{options.repeats}); harness: lm-evaluation-harness, batch {options.batch}",
        f"{'model, set':<44}{'items':>5}{'ours':>9}{'items/s':>8}{'harness':>9}{'ratio':>8}{'largest':>10}"
        "  acc/acc_norm/acc_bytes (of both)",
    ]
    print("\n".join(lines))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        score = make_models(folder, [f"{item['context']} {c}" for item in every for c in item["choices"]])
        for name, how in (("llama", "transformers"), ("kimi", "fairtrial"), ("kimi", "transformers")):
            for label, items in sets.items():
                path = folder / "items.jsonl"
                path.write_text("".join(json.dumps(item) + "\n" for item in items))
                mine = ours(score[name], items, options.repeats)
                other = None
                if options.peer:
                    other = peer(options.peer, how, folder / name, path, options.batch, options.repeats)
                side = "Llama 5M" if name == "llama" else f"native KKKM 5M (harness on {how})"
                lines.append(line(f"{side}, {label}", len(items), mine, other))
                print(lines[-1], flush=True)
    lines += ["", f"torch {torch.__version__}, transformers {transformers.__version__}; {machine()}"]
    print(lines[-1])
    if options.save:
        print(f"saved: {save('score-speed', chr(10).join(lines))}")


if __name__ == "__main__":
    main()
