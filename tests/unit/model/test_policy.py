"""Policies: retries, and a task's over the session's."""

from __future__ import annotations

from typing import Any

import pytest

from rhapsody.errors import SpecError
from rhapsody.model.outcome import Cause, Failure
from rhapsody.model.policy import Policy, Retry

BOOM = Failure(Cause.EXCEPTION, "boom")


class TestRetry:
    def test_delays_grow_by_the_factor(self) -> None:
        retry = Retry(attempts=5, delay_s=1.5, factor=2)

        assert [retry.delay_before_next(attempt, BOOM) for attempt in range(1, 6)] == [1.5, 3.0, 6.0, 12.0, None]

    def test_only_listed_causes_are_tried_again(self) -> None:
        retry = Retry(causes=frozenset({Cause.SIGNAL}))

        assert retry.delay_before_next(1, BOOM) is None
        assert retry.delay_before_next(1, Failure(Cause.SIGNAL, "SIGKILL")) == 0

    @pytest.mark.parametrize("cause", [Cause.ARGUMENTS, Cause.RESULT, Cause.LAUNCH, Cause.DEPENDENCY, Cause.CANCELED])
    def test_what_another_try_cannot_mend_is_not_tried_by_default(self, cause: Cause) -> None:
        assert Retry().delay_before_next(1, Failure(cause, "")) is None

    def test_causes_may_be_given_as_words(self) -> None:
        retry = Retry(causes=frozenset({"exception"}))  # type: ignore[arg-type]

        assert retry.delay_before_next(1, BOOM) == 0

    @pytest.mark.parametrize("values", [{"attempts": 0}, {"delay_s": -1}, {"factor": 0}])
    def test_nonsense_is_refused(self, values: dict[str, Any]) -> None:
        with pytest.raises(SpecError, match="makes no sense"):
            Retry(**values)


class TestOver:
    def test_a_field_that_is_set_wins_and_the_rest_comes_from_the_default(self) -> None:
        default = Policy(placement="spread", backend="local", retry=3, priority=1)

        policy = Policy(placement="pack", oversubscribe=True).over(default)

        assert policy == Policy(placement="pack", backend="local", retry=3, priority=1, oversubscribe=True)

    def test_an_empty_policy_changes_nothing(self) -> None:
        default = Policy(placement="spread", retry=Retry(attempts=9))

        assert Policy().over(default) == default
