"""The tree in the docstring is the tree in the code, and every error survives its way over HTTP."""

from __future__ import annotations

import re

import pytest
from roundtable import errors
from roundtable.errors import PROBLEMS, Problem, RoundtableError, error_of, problem_of


def drawn() -> dict[str, str]:
    """Class → parent, from the docstring's drawing."""
    parents: dict[str, str] = {}
    ancestry: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"^((?:│   |    )*(?:├── |└── )?)([A-Z]\w+) {2,}\S", line):
            depth = len(found[1]) // 4
            ancestry[depth:] = [found[2]]
            parents[found[2]] = ancestry[depth - 1] if depth else "Exception"
    return parents


def classes() -> dict[str, type[RoundtableError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, RoundtableError)
    }


class TestTree:
    def test_the_drawing_is_the_code(self) -> None:
        assert drawn() == {name: kind.__bases__[0].__name__ for name, kind in classes().items()}
        assert len(drawn()) > 20


class TestProblems:
    @pytest.mark.parametrize("kind", PROBLEMS, ids=lambda kind: kind.__name__)
    def test_an_error_comes_back_as_itself(self, kind: type[RoundtableError]) -> None:
        problem = problem_of(kind("what happened"))
        again = error_of(problem.type, "what happened")
        assert type(again) is kind
        assert str(again) == "what happened"
        assert 400 <= problem.status < 600

    def test_types_are_told_apart(self) -> None:
        types = [problem.type for problem in PROBLEMS.values()]
        assert len(set(types)) == len(types)
        assert all(re.fullmatch(r"urn:roundtable:[a-z]+(-[a-z]+)*", uri) for uri in types)

    def test_a_type_is_its_class_name(self) -> None:
        for kind, problem in PROBLEMS.items():
            words = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()
            assert problem.type.endswith(words if kind is not RoundtableError else "error")

    @pytest.mark.parametrize("kind", classes().values(), ids=lambda kind: kind.__name__)
    def test_every_class_has_a_problem_of_its_own_or_its_nearest_ancestors(
        self, kind: type[RoundtableError]
    ) -> None:
        nearest = next(ancestor for ancestor in kind.__mro__ if ancestor in PROBLEMS)
        assert problem_of(kind("x")) == PROBLEMS[nearest]

    def test_the_users_mistakes_are_4xx_and_ours_5xx(self) -> None:
        for kind, problem in PROBLEMS.items():
            theirs = issubclass(kind, errors.InvalidInput | errors.Refused)
            assert (problem.status < 500) == theirs

    def test_an_unknown_type_is_still_an_error(self) -> None:
        assert type(error_of("about:blank", "odd")) is RoundtableError
        assert problem_of(errors.IllegalTransition("bug")) == Problem(500, "urn:roundtable:error")
