import pytest

from fairtrial.tasks.worlds.answers import exact_match, f1, normalise, within


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Beatles!", "beatles"),
        ("a.m.", "am"),
        ("An Officer and a Gentleman", "officer and gentleman"),
        ("U.S.A", "usa"),
        ("the", ""),
        ("Theatre", "theatre"),
        ("São Paulo", "são paulo"),
        ("twenty-one", "twentyone"),
        ("“quoted”", "“quoted”"),
        ("Paris|Rome", "parisrome"),
    ],
)
def test_trap_13_normalisation_is_squads(text, normal):
    assert normalise(text) == normal


GOLDS = ("Paris", "City of Light", "Rome")


@pytest.mark.parametrize(
    ("answer", "whole", "every", "first"),
    [
        ("Paris", 1, 1, 1),
        ("the paris.", 1, 1, 1),
        ("Paris|Rome", 0, 1, 1),
        ("Paris|Berlin", 0, 0, 1),
        ("Berlin|Paris", 0, 0, 0),
        ("Paris|", 1, 1, 1),
        ("|Paris", 1, 1, 1),
        ("|", 0, 0, 0),
        ("City of Light | Paris", 0, 1, 1),
        ("Paris, France", 0, 0, 0),
        ("", 0, 0, 0),
        (None, 0, 0, 0),
    ],
)
def test_trap_13_exact_match_under_the_three_conventions(answer, whole, every, first):
    assert exact_match(answer, GOLDS) == whole
    assert exact_match(answer, GOLDS, "every") == every
    assert exact_match(answer, GOLDS, "first") == first


@pytest.mark.parametrize(
    ("answer", "golds", "score"),
    [
        ("Paris", ("Paris",), 1.0),
        ("Paris, France", ("Paris",), 2 / 3),
        ("Paris, France", ("Lyon", "Paris France"), 1.0),
        ("the dog the dog", ("dog",), 2 / 3),
        ("cat", ("dog",), 0.0),
        ("", ("dog",), 0.0),
        ("", ("the",), 1.0),
        ("yes it is", ("yes",), 0.5),
        (None, ("dog",), 0.0),
    ],
)
def test_trap_13_f1_is_squads(answer, golds, score):
    assert f1(answer, golds) == pytest.approx(score)


def test_trap_13_hotpot_gives_no_partial_credit_for_yes_and_no():
    assert f1("yes it is", ("yes",), yes_no=True) == 0.0
    assert f1("yes", ("Yes.",), yes_no=True) == 1.0
    assert f1("Paris France", ("Paris",), yes_no=True) == pytest.approx(2 / 3)


def test_f1_of_several_parts_is_their_mean():
    assert f1("Paris|Berlin", GOLDS, "every") == 0.5
    assert f1("Paris|Berlin", GOLDS, "first") == 1.0


@pytest.mark.parametrize(
    ("answer", "label", "right"),
    [
        ("201.9 m", "201.9", 1),
        ("about 220", "201.9", 1),
        ("230", "201.9", 0),
        ("-105", "-100", 1),
        ("-100", "-100", 1),
        ("100", "-100", 0),
        ("0", "0", 1),
        ("0.01", "0", 0),
        ("1,234,567", 1234567, 1),
        ("\u22123", "-3", 1),
        ("between 10 and 20", "10", 0),
        ("none", "10", 0),
        (None, "10", 0),
    ],
)
def test_trap_13_a_margin_holds_for_negative_and_zero_labels(answer, label, right):
    assert within(answer, label) == right
