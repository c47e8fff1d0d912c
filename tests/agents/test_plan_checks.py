"""Checks of a plan before anything runs: schemas of arguments, with and without what is not known yet, and cycles."""

from typing import Any

import pytest

from fairtrial.agents.planners.checks import ArgumentError, check, validate, validator
from fairtrial.agents.planners.plan import Node, Plan, Ref, Template
from fairtrial.agents.planners.planner import RejectedTurn
from fairtrial.core.errors import UserError


def schema(**parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "book", "description": "", "parameters": parameters}}


BOOK = schema(
    type="object",
    properties={
        "city": {"type": "string", "minLength": 2},
        "nights": {"type": "integer", "minimum": 1},
        "guests": {"type": "array", "items": {"$ref": "#/$defs/guest"}},
        "span": {
            "type": "array",
            "prefixItems": [{"type": "string"}, {"type": "integer"}],
            "minItems": 2,
            "items": False,
        },
    },
    required=["city"],
    additionalProperties=False,
    **{"$defs": {"guest": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}}},
)
FIRST = Node("a", "book", {"city": "Rome"})


def second(**args: Any) -> Plan:
    return Plan((FIRST, Node("b", "book", args, ("a",))))


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({}, '"book" needs the argument "city" (given: none)'),
        ({"city": "Rome", "night": 2}, '"book" has no argument "night"; did you mean "nights"?'),
        ({"city": "Rome", "nights": "two"}, "\"book\": nights must be integer (got 'two')"),
        ({"city": "Rome", "nights": 0}, '"book": nights must be bigger than or equal to 1 (got 0)'),
        ({"city": "Rome", "guests": [{}]}, "\"book\": guests[0] must contain ['name'] properties (got {})"),
        (
            {"city": "Rome", "span": ["May", 1, 2]},
            "\"book\": span must contain only specified items (got ['May', 1, 2])",
        ),
        ({"city": "Rome", "span": ["May", "June"]}, "\"book\": span[1] must be integer (got 'June')"),
    ],
)
def test_arguments_that_do_not_fit_are_told_in_one_line(args: dict[str, Any], told: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        validate(BOOK, args)
    assert str(caught.value) == told
    with pytest.raises(RejectedTurn) as rejected:
        check(Plan((Node("a", "book", args),)), [BOOK])
    assert rejected.value.code == "schema"


def test_what_is_not_known_yet_is_not_refused_and_what_is_known_is_checked() -> None:
    check(second(city=Ref("a"), nights=Ref("a", ("nights",))), [BOOK])
    check(second(city=Template((Ref("a"),)), guests=[Ref("a"), {"name": Template(("Mr ", Ref("a")))}]), [BOOK])
    for bad in (
        {"city": Ref("a"), "nights": "two"},
        {"city": "Rome", "nights": Template((Ref("a"),))},
        {"city": Ref("a"), "night": Ref("a")},
        {"nights": Ref("a")},
    ):
        with pytest.raises(RejectedTurn) as caught:
            check(second(**bad), [BOOK])
        assert caught.value.code == "schema"


def test_arguments_are_left_as_they_are() -> None:
    args = {"x": {"deep": 1}}
    fits = validator(
        schema(type="object", properties={"x": {"type": "object"}, "y": {"type": "integer", "default": 3}})
    )
    fits(args)
    assert args == {"x": {"deep": 1}}


def test_a_schema_that_is_none_is_the_users_mistake() -> None:
    for bad in (
        schema(type="objekt"),
        schema(type="object", properties={"x": {"$ref": "http://127.0.0.1:9/schema.json"}}),
    ):
        with pytest.raises(UserError, match='tool "book": its parameters are no JSON schema'):
            validate(bad, {})


def test_a_cycle_names_its_nodes_and_only_those() -> None:
    def node(name: str, *deps: str) -> Node:
        return Node(name, "book", {"city": "Rome"}, deps)

    with pytest.raises(RejectedTurn, match=r"none can start: (b -> c|c -> b) -> \w$") as caught:
        check(Plan((node("a"), node("d", "c"), node("b", "a", "c"), node("c", "b"))), [BOOK])
    assert caught.value.code == "cycle"
    ring = [node(str(n), str((n + 1) % 50_000)) for n in range(50_000)]
    with pytest.raises(RejectedTurn) as caught:
        check(Plan(tuple(ring)), [BOOK])
    assert len(str(caught.value)) < 200
    check(Plan(tuple(node(str(n), *([str(n - 1)] if n else [])) for n in range(100_000))), [BOOK])


def test_the_nearest_known_tool_is_named() -> None:
    with pytest.raises(RejectedTurn, match='there is no tool "boook"; did you mean "book"'):
        check(Plan((Node("a", "boook", {}),)), [BOOK])
    with pytest.raises(RejectedTurn, match="no JSON object") as caught:
        check(Plan((Node("a", "book", malformed="{'city': "),)), [BOOK])
    assert caught.value.code == "malformed"
