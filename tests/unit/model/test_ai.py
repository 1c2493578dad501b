"""Requests to models as tasks: what can be asked, what is refused, what tells one from another."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from rhapsody import AITask, ComputeTask, Policy, SpecError, State
from rhapsody.model.ai import Usage, prompts_of
from rhapsody.model.fingerprint import Codes, inputs_of
from rhapsody.model.service import Gate
from rhapsody.scheduling.graph import dependencies_of

CHAT = [{"role": "user", "content": "Hi"}]


class Served:
    """What a session returns of a service."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gate = Gate(name)


def make_prompt(*parts: object) -> str:
    return " ".join(map(str, parts))


def make_another(*parts: object) -> str:
    return "-".join(map(str, parts))


def fingerprint(task: AITask) -> tuple[bytes, bytes]:
    return Codes().of(task), inputs_of(task, dependencies_of(task))


class TestPrompts:
    @pytest.mark.parametrize(
        ("given", "prompts", "is_batch"),
        [
            ("a text", ["a text"], False),
            ("", [""], False),
            (CHAT, [CHAT], False),
            (["one", "two"], ["one", "two"], True),
            (["one"], ["one"], True),
            ([CHAT, "two"], [CHAT, "two"], True),
        ],
    )
    def test_what_a_prompt_is_decides_how_it_is_asked(
        self, given: object, prompts: list[object], *, is_batch: bool
    ) -> None:
        assert prompts_of(given) == (prompts, is_batch)

    @pytest.mark.parametrize("given", [None, 5, [], [[]], {"role": "user"}, b"bytes", ["one", 2], [CHAT[0], "two"]])
    def test_what_is_no_prompt_is_refused(self, given: Any) -> None:  # noqa: ANN401 - what users write
        with pytest.raises(SpecError, match="prompt"):
            AITask(given)

    @pytest.mark.parametrize("given", [[{"content": "Hi"}], [[{"role": 1}]], [["Hi"]]])
    def test_a_message_without_a_role_is_refused(self, given: Any) -> None:  # noqa: ANN401 - what users write
        with pytest.raises(SpecError, match="it needs a role"):
            AITask(given)

    def test_tasks_inside_are_dependencies(self) -> None:
        first, second, third = (ComputeTask(abs, args=(-number,)) for number in range(3))

        assert dependencies_of(AITask(first)) == [first]
        assert dependencies_of(AITask([first, "plain", second])) == [first, second]
        assert dependencies_of(AITask([{"role": "user", "content": third}], after=[first])) == [third, first]
        assert dependencies_of(AITask(make_prompt, args=[1, {"x": second}])) == [second]


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"args": [1]}, "args"),
            ({"model": ""}, "model=''"),
            ({"model": 5}, "model=5"),
            ({"system": 5}, "system=5"),
            ({"service": "llm"}, "is no service; give what session.start returns"),
            ({"parameters": {"prompt": "x"}}, "use the prompt"),
            ({"parameters": {"stream": True}}, "as a whole"),
            ({"parameters": {"n": 2}}, "a list of prompts"),
            ({"parameters": {"max_tokens": 2}, "max_tokens": 3}, "given twice"),
            ({"parameters": {"logit_bias": object()}}, "as JSON"),
            ({"parameters": [1]}, "no dict"),
            ({"embed": True, "max_tokens": 3}, "asks for no text"),
            ({"embed": True, "system": "Be brief"}, "asks for no text"),
            ({"timeout_s": 0}, "timeout_s=0"),
            ({"retry": 0}, "retry=0"),
            ({"after": [1]}, "only tasks"),
            ({"uid": "ai.7"}, "RHAPSODY gives itself"),
        ],
    )
    def test_a_wrong_value_is_refused_at_once(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(SpecError, match=words):
            AITask("a text", **options)

    def test_messages_go_neither_with_system_nor_with_embeddings(self) -> None:
        with pytest.raises(SpecError, match="make it the first one"):
            AITask(CHAT, system="Be brief")
        with pytest.raises(SpecError, match="takes texts"):
            AITask([CHAT, CHAT], embed=True)


class TestDescription:
    def test_it_is_labelled_by_whom_it_asks(self) -> None:
        service = Served("llm")

        assert AITask("a", model="llama").label == "llama"
        assert AITask("a", service=service).label == "llm"
        assert AITask("a", service=service, model="llama").label == "llama"

    def test_it_waits_for_its_service(self) -> None:
        service = Served("llm")

        task = AITask("a", service=service)

        assert task.gate is service.gate
        assert task.options.needs == (service.gate,)
        assert AITask("a").gate is None

    def test_it_may_be_asked_twice_unless_said_otherwise(self) -> None:
        assert AITask("a").options.idempotent
        assert not AITask("a", idempotent=False).options.idempotent
        assert AITask("a").options is AITask("b").options

    def test_sampling_and_other_parameters_are_one_set_of_fields(self) -> None:
        task = AITask("a", max_tokens=5, temperature=0, stop=["\n"], parameters={"top_k": 3})

        assert task.fields == {"max_tokens": 5, "temperature": 0, "stop": ["\n"], "top_k": 3}

    def test_it_has_no_answer_before_it_is_done(self) -> None:
        task = AITask("a", policy=Policy(priority=1))

        assert (task.state, task.response, task.usage) == (State.NEW, None, None)
        assert (task.kind, task.uid.split(".")[0]) == ("ai", "ai")

    def test_what_an_answer_has_cost_pickles(self) -> None:
        assert pickle.loads(pickle.dumps(Usage(3, 4))) == (3, 4)  # noqa: S301 - of this line


class TestFingerprint:
    def test_equal_requests_have_equal_fingerprints(self) -> None:
        options: dict[str, Any] = {"model": "m", "max_tokens": 5}

        assert fingerprint(AITask("a", **options)) == fingerprint(AITask("a", **options))
        assert fingerprint(AITask(make_prompt, args=[1])) == fingerprint(AITask(make_prompt, args=[1]))
        assert all(fingerprint(AITask("a")))

    @pytest.mark.parametrize(
        "other",
        [
            AITask("b", model="m"),
            AITask(["a"], model="m"),
            AITask("a", model="other"),
            AITask("a", model="m", system="Be brief"),
            AITask("a", model="m", temperature=1),
            AITask("a", model="m", embed=True),
            AITask(lambda: "a", model="m"),
        ],
    )
    def test_what_is_asked_otherwise_has_another(self, other: AITask) -> None:
        assert fingerprint(other) != fingerprint(AITask("a", model="m"))

    def test_the_code_of_a_function_counts(self) -> None:
        one, other = AITask(make_prompt, args=[1]), AITask(make_another, args=[1])

        assert Codes().of(one) != Codes().of(other)
        assert inputs_of(one, []) == inputs_of(other, [])
        assert inputs_of(one, []) != inputs_of(AITask(make_prompt, args=[2]), [])
