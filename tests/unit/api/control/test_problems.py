from __future__ import annotations

import re

import pytest

from trunkline import errors
from trunkline.api.control import problems
from trunkline.control_errors import FieldError, ValidationFailed
from trunkline.errors import TrunklineError, Unavailable

URL = "https://trunkline.example"


def kinds() -> list[type[TrunklineError]]:
    found, waiting = [], [TrunklineError]
    while waiting:
        found.append(waiting.pop())
        waiting += found[-1].__subclasses__()
    return found


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_slug_a_title_and_a_sentence(kind: type[TrunklineError]) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.problem)
    assert re.fullmatch(r"[A-Z][^.]+", kind.title)
    assert (kind.__doc__ or "").strip().endswith(".")


def test_errors_of_one_slug_have_one_status_and_title() -> None:
    by_slug: dict[str, set[tuple[int, str]]] = {}
    for kind in kinds():
        by_slug.setdefault(kind.problem, set()).add((kind.status, kind.title))
    assert {slug for slug, found in by_slug.items() if len(found) > 1} <= {"error"}


def test_a_problem_names_what_is_wrong_where_and_nothing_more() -> None:
    error = ValidationFailed("Two things.", [FieldError("/name", "Field required")])
    problem = problems.problem_of(error, URL, "an-id")
    assert problem.type == f"{URL}/docs/problems#invalid-request"
    assert problem.instance == "urn:uuid:an-id"
    assert b'"errors":[{"pointer":"/name","detail":"Field required"}]' in problems.body_of(problem)
    assert b"errors" not in problems.body_of(problems.problem_of(errors.NotFound(), URL, "x"))


def test_the_headers_say_when_to_come_again_and_how_to_say_who_one_is() -> None:
    assert problems.headers_of(Unavailable(retry_after=0.2))["retry-after"] == "1"
    assert problems.headers_of(errors.Unauthorized())["www-authenticate"].startswith("Bearer")
    assert problems.headers_of(errors.MethodNotAllowed("GET"))["allow"] == "GET"


def test_a_route_lists_the_usual_answers_with_examples() -> None:
    found = problems.responses(409)
    assert list(found) == [401, 403, 404, 409, 422, 429, 503]
    for answer in found.values():
        assert answer["content"]["application/problem+json"]["example"]["detail"]
