"""A conversation: what the model is given, what it said, thought and reply apart."""

import re
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from sarashina_grpo import chat
from sarashina_grpo.backend import Messages, Policy
from sarashina_grpo.chat import Conversation, Turn
from sarashina_grpo.recipe import Recipe, Scene
from sarashina_grpo.tags import Parsed, TagFormat

TAGS = TagFormat("think", "response")
ANSWERS = [TAGS.render("rain", "Hello!"), "no tags at all"]
ROLE = "\nYou sell cactuses.\n"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Messages, int]]:
    """What the model was given, turn by turn; it says ANSWERS."""
    calls: list[tuple[Messages, int]] = []

    def stream(policy: Any, messages: Messages, sampling: Any, seed: int) -> str:
        calls.append((deepcopy(messages), seed))
        return ANSWERS[len(calls) - 1]

    monkeypatch.setattr(chat, "stream", stream)
    return calls


def converse(recipe: Recipe, role: str = "", seed: int = 0) -> list[Turn]:
    policy: Any = None
    talk = Conversation(policy, recipe, role=role, seed=seed)
    return [talk.say("How much?"), talk.say("Too much!")]


def test_the_models_own_turn_goes_back_as_the_assistants(
    recipe: Recipe, asked: list[tuple[Messages, int]]
) -> None:
    converse(recipe)
    (first, _), (second, _) = asked
    assert [turn["role"] for turn in first] == ["system", "user"]
    assert second[1:] == [
        {"role": "user", "content": "How much?"},
        {"role": "assistant", "content": ANSWERS[0]},
        {"role": "user", "content": "Too much!"},
    ]


@pytest.mark.parametrize("role", [ROLE, "", " \n"], ids=["role", "none", "blank"])
def test_one_system_message_holds_the_instructions_and_the_role(
    recipe: Recipe, asked: list[tuple[Messages, int]], role: str
) -> None:
    converse(recipe, role)
    for messages, _ in asked:
        systems = [turn["content"] for turn in messages if turn["role"] == "system"]
        added = f"\n{role.strip()}" if role.strip() else ""
        assert systems == [recipe.system_prompt + added]


def test_each_turn_is_drawn_with_a_seed_of_its_own(
    recipe: Recipe, asked: list[tuple[Messages, int]]
) -> None:
    converse(recipe, seed=100)
    first, second = (seed for _, seed in asked)
    assert 100 <= first < second


def test_a_turn_has_the_thought_and_the_reply_apart(
    recipe: Recipe, asked: list[tuple[Messages, int]]
) -> None:
    turn, _ = converse(recipe)
    assert turn == Turn(ANSWERS[0], Parsed("rain", "Hello!"))
    assert str(turn).splitlines() == ["thought: rain", "reply:   Hello!"]


def test_a_text_not_in_the_format_is_said_to_be_so(
    recipe: Recipe, asked: list[tuple[Messages, int]]
) -> None:
    _, turn = converse(recipe)
    assert turn.parsed is None
    assert str(turn) == "(not in the format) no tags at all"


def test_conversations_do_not_share_their_memory(
    recipe: Recipe, asked: list[tuple[Messages, int]]
) -> None:
    policy: Any = None
    Conversation(policy, recipe).say("How much?")
    Conversation(policy, recipe).say("Hello?")
    assert [turn["content"] for turn in asked[1][0][1:]] == ["Hello?"]


def test_what_the_model_says_is_printed_as_it_is_drawn(
    policy: Policy, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    brief = replace(recipe, sampling=replace(recipe.sampling, max_tokens=32))
    talk = Conversation(policy, brief)
    turn = talk.say("雨です。")
    assert turn.text
    assert turn.text.strip() in capsys.readouterr().out
    assert talk.messages[-1] == {"role": "assistant", "content": turn.text}


def test_scenes_are_conversations_of_their_own_with_their_role(
    recipe: Recipe, asked: list[tuple[Messages, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = (Scene(turns=("How much?",), role=ROLE), Scene(turns=("Hello!",)))
    policy: Any = None
    talks = chat.play(policy, replace(recipe, scenes=scenes), recipe.sampling, seed=0)
    assert [len(talk.messages) for talk in talks] == [3, 3]
    (first, _), (second, _) = asked
    assert ROLE.strip() in first[0]["content"]
    assert second[0]["content"] == recipe.system_prompt
    assert re.findall("USER: (.*)", capsys.readouterr().out) == ["How much?", "Hello!"]
