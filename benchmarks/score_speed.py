"""Scoring multiple choice against lm-evaluation-harness: CPU time, largest differences, accuracies.

usage: python benchmarks/score_speed.py --peer PYTHON [--save] [--questions N] [--few N] [--batch 32] [--repeats 2]
    [--exact 20] [--steps 150]
PYTHON: of a virtual environment with `lm_eval`, `accelerate`, `torch`, `transformers` (and `pydantic`, for the rows
in which the harness drives a model of fairtrial.nn). Without --peer only our side is measured.

PIQA validation items under ../shared/cases/global_piqa, prompt "Question: {goal}\\nAnswer:", one space before options.
Models have a BPE of 8,192 tokens learned from the items and learn for `--steps` steps from items that are not asked, so
that likelihoods are of the size that models give; one thread, fp32, everything in a folder that is thrown away.
5 shots: five items of the file's end, the same for every question, or five drawn for each question (the harness'
default), where only the options of a question share much. Both sides include tokenisation.

Who is nearer to the truth: the first `--exact` items of each set are computed again in fp64, one option at a time, each
in a pass of its own. Of our distance nearly all is the layers' fp32 (fp64 in the head and the softmax takes none of it
away); sums over tokens are fp64 here and fp32 in the harness, where a sum of 1,000 nats is a multiple of 6.1e-5.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Side:
    """A model and how we score with it."""

    model: torch.nn.Module
    encode: Callable[[str], list[int]]
    score: Callable[[list[Pair]], list[Score]]

    def truth(self, items: Items) -> list[list[float]]:
        """What the sums are in fp64, each option in a pass of its own and every logit computed."""
        model = copy.deepcopy(self.model).double()
        out = []
        for item in items:
            context = self.encode(item["context"])
            sums = []
            for choice in item["choices"]:
                ids = torch.tensor([self.encode(f"{item['context']} {choice}")])
                with torch.inference_mode():
                    logprobs = torch.log_softmax(model(ids[:, :-1]).logits[0, len(context) - 1 :], -1)
                sums.append(float(logprobs.gather(1, ids[0, len(context) :, None]).sum()))
            out.append(sums)
        return out


def learn(model: torch.nn.Module, tokenizer: Tokenizer, texts: list[str], steps: int) -> None:
    """A little: rows of 128 tokens, eight at a time."""
    ids = torch.tensor([index for text in texts for index in tokenizer.encode(f"{text}\n\n")])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    g = torch.Generator().manual_seed(0)
    model.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 20, (steps - step) / (steps / 3))
        starts = torch.randint(0, len(ids) - 129, (8,), generator=g).tolist()
        rows = torch.stack([ids[start : start + 129] for start in starts])
        logits = model(rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def make_models(folder: Path, corpus: list[str], texts: list[str], steps: int) -> dict[str, Side]:
    """Both models, saved in folders of their names: a vocabulary from `corpus`, weights from `texts`."""
    tokenizer = Tokenizer.train(corpus, vocab_size=8192)
    vocab = tokenizer.vocab_size
    torch.manual_seed(0)
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=vocab, hidden_size=256, intermediate_size=640, num_hidden_layers=4, num_attention_heads=4,
            max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip
    learn(llama, tokenizer, texts, steps)
    llama.save_pretrained(folder / "llama")
    config = ModelConfig(
        vocab=vocab, hidden=192, layers=4, pattern="KKKM", intermediate=512, heads=4, nope_dim=32, rope_dim=16,
        mla_value_dim=32, kv_rank=64, kda_heads=4, kda_key_dim=32, kda_gate_rank=32, experts=4, experts_per_token=2,
        shared_experts=1, expert_intermediate=128, dense_layers=4,
    )  # fmt: skip
    native = Model(config, seed=0)
    learn(native, tokenizer, texts, steps)
    hub.save(native, folder / "kimi")
    fast = None
    for name in ("llama", "kimi"):
        tokenizer.save(folder / name / "tokenizer.json")
        fast = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(folder / name / "tokenizer.json"), bos_token="<|doc|>", eos_token="<|end|>"
        )
        fast.save_pretrained(folder / name)
    return {
        "llama": Side(llama, fast.encode, lambda pairs: score_hf(llama, fast, pairs)),
        "kimi": Side(native, tokenizer.encode, lambda pairs: score_native(native, tokenizer, pairs)),
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


def gap(one: list[list[float]], other: list[list[float]]) -> str:
    """The largest difference, over the items that both have."""
    pairs = zip(one, other, strict=False)
    return f"{max((abs(a - b) for row, also in pairs for a, b in zip(row, also, strict=True)), default=0):.1e}"


def line(label: str, count: int, mine: dict, other: dict | None, truth: list[list[float]]) -> str:
    accuracies = "/".join(f"{mine[name]:.4f}" for name in ("acc", "acc_norm", "acc_bytes"))
    start = f"{label:<44}{count:>5}{mine['seconds']:>9.2f}{count / mine['seconds']:>8.0f}"
    near = gap(mine["logprobs"], truth) if truth else "-"
    if other is None:
        return f"{start}{'-':>9}{'-':>8}{'-':>10}{near:>9}{'-':>9}  {accuracies}"
    same = all(mine[name] == other[name] for name in ("acc", "acc_norm", "acc_bytes", "greedy"))
    ratio = f"{other['seconds'] / mine['seconds']:.2f}x"
    gaps = f"{gap(mine['logprobs'], other['logprobs']):>10}{near:>9}"
    gaps += f"{gap(other['logprobs'], truth) if truth else '-':>9}"
    return f"{start}{other['seconds']:>9.2f}{ratio:>8}{gaps}  {accuracies} {'same' if same else 'DIFFERENT'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", metavar="PYTHON")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--few", type=int, default=160)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=150, help="that the models learn; 0: random weights")
    parser.add_argument("--exact", type=int, default=20, help="items of each set that fp64 checks; 0: none")
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
        f"{options.repeats}); harness: lm-evaluation-harness, batch {options.batch}. Largest difference of a sum: of "
        f"both, and of each from fp64 (first {options.exact} items)",
        f"{'model, set':<44}{'items':>5}{'ours':>9}{'items/s':>8}{'harness':>9}{'ratio':>8}{'of both':>10}"
        f"{'ours-64':>9}{'harn-64':>9}  acc/acc_norm/acc_bytes (of both)",
    ]
    print("\n".join(lines))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        corpus = [f"{item['context']} {c}" for item in every for c in item["choices"]]
        solved = [f"{item['context']} {item['choices'][item['gold']]}" for item in every[options.questions : -40]]
        sides = make_models(folder, corpus, solved, options.steps)
        truths: dict[tuple[str, str], list[list[float]]] = {}
        for name, how in (("llama", "transformers"), ("kimi", "fairtrial"), ("kimi", "transformers")):
            for label, items in sets.items():
                path = folder / "items.jsonl"
                path.write_text("".join(json.dumps(item) + "\n" for item in items))
                mine = ours(sides[name].score, items, options.repeats)
                other = None
                if options.peer:
                    other = peer(options.peer, how, folder / name, path, options.batch, options.repeats)
                side = "Llama 5M" if name == "llama" else f"native KKKM 5M (harness on {how})"
                if (name, label) not in truths:
                    truths[name, label] = sides[name].truth(items[: options.exact])
                lines.append(line(f"{side}, {label}", len(items), mine, other, truths[name, label]))
                print(lines[-1], flush=True)
    lines += ["", f"torch {torch.__version__}, transformers {transformers.__version__}; {machine()}"]
    print(lines[-1])
    if options.save:
        print(f"saved: {save('score-speed', chr(10).join(lines))}")


if __name__ == "__main__":
    main()
