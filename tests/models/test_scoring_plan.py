"""The plan of shared prefixes, without a model: every reading is in one row, and what is shared is computed once."""

from hypothesis import given
from hypothesis import strategies as st

from fairtrial.models.scoring import Encoded, batches, plan, rows_of

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple)


@given(st.lists(st.builds(Encoded, TOKENS, TOKENS), max_size=12), st.integers(1, 20), st.integers(1, 40))
def test_every_pair_is_read_once_at_its_place(encoded, least, budget):
    rows = rows_of(encoded)
    root, seen = plan(rows, least), []
    todo = [(root, ())]
    while todo:
        node, before = todo.pop()
        prefix = before + node.trunk
        assert node.depth == len(before)
        for batch in batches(node.rows, node.end, budget):
            width = max(len(row.ids) for row in batch) - node.end
            assert len(batch) == 1 or len(batch) * width <= budget
            for row in batch:
                assert row.ids[: node.end] == prefix
                assert len(row.ids) > node.end
                for reading in row.readings:
                    pair = encoded[reading.pair]
                    assert reading.first >= node.end
                    assert row.ids[: len(pair.inputs)] == pair.inputs
                    assert (reading.first, reading.targets) == (len(pair.context) - 1, pair.continuation)
                    seen.append(reading.pair)
        todo += [(below, prefix) for below in node.nodes]
    assert sorted(seen) == list(range(len(encoded)))
    assert root.tokens <= plan(rows, None).tokens <= sum(len(pair.inputs) for pair in encoded)


def test_shots_and_question_are_computed_once():
    shots = tuple(range(300))
    encoded = [Encoded((*shots, 500 + q, *[7] * 40), (9, option, 11)) for q in range(20) for option in range(2)]
    root = plan(rows_of(encoded), 30)
    assert root.tokens == 300 + 20 * (40 + 2 * 3)
    assert plan(rows_of(encoded), None).tokens == 40 * (341 + 2)


def test_long_chains_of_nested_contexts_do_not_recurse():
    encoded = [Encoded(tuple(range(n)), (5000, 1)) for n in range(1, 3000)]
    assert len(rows_of(encoded)) == 2999
    assert plan(rows_of(encoded), 1).tokens < 4 * 3000
