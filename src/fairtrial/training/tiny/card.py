"""The card of a `tiny`: what it is, how it was made, what it can and cannot do. Written beside the weights."""

from __future__ import annotations

from collections.abc import Sequence

from fairtrial.training.tiny.making import Trained
from fairtrial.training.tiny.recipe import Recipe

FILE = "CARD.md"
_CARD = """# tiny

Small language models that share a tokenizer, one for each habit. They act in generated worlds: they make tool calls,
keep or fold their context, plan several calls at once, follow a recipe that stands in the prompt, and answer; one gives
the likelihood of plain texts about such worlds. What they say they copy or work out from the prompt. Worlds, questions,
procedures and names of the tests below were not in their training: a quarter of all names and procedures is kept for
evaluation, and no lesson has one of them.

They cannot do anything else: no English beyond these forms, no facts, no arithmetic, no code. They cannot be told to do
another task, and do not know when they are wrong. Differences between habits are facts about these worlds and models of
this size.

## How it was made

`python -m fairtrial.training.tiny FOLDER --seed {seed}`, from nothing but scripts that know the gold plan, and its own
runs that came out right; every setting is in `recipe.json`. Episodes: those learned from. Own: right ones of the runs
that it played itself. Loss: nats per token that it is to say, at the end.

```text
{made}
```

## What it can do

The most likely token, always. Items: parts of an answer that are right; none: episodes without an answer; rejected:
turns that could not be read, for each episode.

```text
{tested}
```

The same shape without training:

```text
{untrained}
```
"""
_AGAIN = "\n## Trained again from another seed\n"


def card(recipe: Recipe, done: Sequence[Trained], tested: str, untrained: str) -> str:
    """The card, in Markdown.

    Args:
        recipe: What it was made by.
        done: What the training of each habit came to.
        tested: The table of tests.
        untrained: The same for weights of the same shape that were not trained.
    """
    width = max(len(one.habit) for one in done)
    rows = [f"{'habit':<{width}} {'episodes':>8} {'own':>10} {'tokens':>10} {'loss':>7} {'CPU s':>6}"]
    rows += [
        f"{one.habit:<{width}} {one.episodes:>8} {f'{one.own} of {one.own_tried}':>10} {one.tokens:>10,} "
        f"{one.loss:>7.4f} {one.cpu_s:>6.0f}"
        for one in done
    ]
    return _CARD.format(seed=recipe.seed, made="\n".join(rows), tested=tested, untrained=untrained)


def with_again(text: str, table: str) -> str:
    """The card with what the recipes give when a second training drives them; replaces such a table."""
    return f"""{text.split(_AGAIN)[0]}{_AGAIN}
The three recipes, driven by what ships and by a training from another seed; differences with 95 % intervals, paired by
task.

```text
{table}
```
"""
