"""What every caller relies on in the errors."""

from __future__ import annotations

import pickle

import pytest

from manyview.errors import InputError, MissingDependency


@pytest.mark.parametrize("kind", [InputError, MissingDependency])
def test_input_errors_come_back_from_another_process(kind: type[InputError]) -> None:
    error = kind("--size", 0, "expected at least 8")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error) == "--size: 0: expected at least 8"
    assert (again.argument, again.value, again.accepted) == ("--size", 0, "expected at least 8")


def test_the_line_is_one_line() -> None:
    assert str(InputError("--data", "a\nb", "expected\n a folder")) == "--data: a b: expected a folder"
