"""Pairs to score with any model, and what their scores are when nothing is shared (needs torch)."""

import torch

from fairtrial.models.model import Pair

TEXTS = [
    "Question: How do I boil an egg?\nAnswer: Put it into boiling water for nine minutes.",
    "Question: How do I dry a shirt?\nAnswer: Hang it in the sun and wait until it is dry.",
    "The quick brown fox jumps over the lazy dog, and then it walks back home again.",
    "ඔබට කොහොමද? හොඳයි.",
]
SHOTS = "\n\n".join(TEXTS[:2] * 4) + "\n\n"
PAIRS = [
    Pair(SHOTS + "Question: How do I dry an egg?\nAnswer: ", "Hang it in the sun."),
    Pair(SHOTS + "Question: How do I dry an egg?\nAnswer: ", "Put it into boiling water."),
    Pair(SHOTS + "Question: How do I boil a fox?\nAnswer:", " Wait."),
    Pair(SHOTS + "Question: How do I boil a fox?\nAnswer:", " Wait. Then hang it in the sun."),
    Pair(SHOTS + "Question: How do I boil a fox?\nAnswer: Wait. Then", " hang it in the sun."),
    Pair(SHOTS, "The quick brown dog"),
    Pair("Question:", " x"),
    Pair("Question:", " y"),
    Pair("", "The quick brown fox"),
    Pair("   ", "The quick"),
    Pair("The quick", "er brown fox"),
    Pair("ඔබට ", "කොහොමද?"),
]


def one_by_one(model, encode, start, pairs):
    """Log-probabilities of each pair's tokens, in a pass of its own in which every logit is computed.

    `start`: the token that stands for an empty context.
    """
    out = []
    for pair in pairs:
        text = pair.context.rstrip()
        context = encode(text) if text else [start]
        whole = encode(pair.context + pair.continuation)
        rest = whole[len(context) :] if text else whole
        with torch.no_grad():
            logits = model(torch.tensor([[*context, *rest]])).logits[0].double()
        logprobs = torch.log_softmax(logits, -1)[len(context) - 1 : -1]
        out.append([float(row[token]) for row, token in zip(logprobs, rest, strict=True)])
    return out
