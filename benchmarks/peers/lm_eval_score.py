"""Multiple choice through lm-evaluation-harness; prints one JSON line. Run by benchmarks/score_speed.py.

usage: python lm_eval_score.py transformers|fairtrial FOLDER ITEMS.jsonl BATCH REPEATS
  transformers  the folder's model as the harness loads it
  fairtrial     the harness' own code around a model of fairtrial.nn (fairtrial must be importable)
ITEMS: lines with context, choices, gold. The time is that of `loglikelihood` alone, without the harness' start, its
task and its metrics; the accuracies are those of its own multiple-choice task.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import torch
from lm_eval import simple_evaluate
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM

KIND, FOLDER, ITEMS, BATCH, REPEATS = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
METRICS = ("acc", "acc_norm", "acc_bytes")


class Timed(HFLM):
    """The harness' model with the CPU time of its scoring."""

    seconds = float("inf")

    def loglikelihood(self, requests, disable_tqdm=False):
        for _ in range(REPEATS):
            before = time.process_time()
            answer = super().loglikelihood(requests, disable_tqdm=True)
            self.seconds = min(self.seconds, time.process_time() - before)
        return answer


class Ours(Timed):
    """The same with the logits of a model of fairtrial.nn."""

    ours = None

    def _model_call(self, inps, attn_mask=None, labels=None):
        with torch.inference_mode():
            return self.ours(inps).logits


def task() -> ConfigurableTask:
    return ConfigurableTask(
        config={
            "task": "items",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": ITEMS}, "cache_dir": tempfile.mkdtemp()},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{context}}",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in METRICS],
        }
    )


def main() -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    model = (Timed if KIND == "transformers" else Ours)(
        pretrained=FOLDER, device="cpu", dtype="float32", batch_size=BATCH
    )
    if KIND == "fairtrial":
        from fairtrial.nn.hub import load

        model.ours = load(Path(FOLDER))
    result = simple_evaluate(model=model, tasks=[task()], bootstrap_iters=0, verbosity="ERROR")
    samples = sorted(result["samples"]["items"], key=lambda sample: sample["doc_id"])
    answer = {
        "seconds": model.seconds,
        "logprobs": [[float(choice[0]) for choice in sample["filtered_resps"]] for sample in samples],
        "greedy": [[bool(choice[1]) for choice in sample["filtered_resps"]] for sample in samples],
        **{name: result["results"]["items"][f"{name},none"] for name in METRICS},
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
