"""A conversation with a model: several turns, streaming, the thought and the reply apart."""

from dataclasses import dataclass

from sarashina_grpo.backend import Messages, Policy, stream
from sarashina_grpo.recipe import Recipe, Sampling
from sarashina_grpo.tags import Parsed


@dataclass(frozen=True)
class Turn:
    """What the model said, as drawn and as parsed (None: it does not keep to the format)."""

    text: str
    parsed: Parsed | None

    def __str__(self) -> str:
        """The thought and the reply apart, or the text as it is."""
        if self.parsed is None:
            return f"(not in the format) {self.text}"
        return f"thought: {self.parsed.thought}\nreply:   {self.parsed.reply}"


class Conversation:
    """Turns with one model, in memory. A role is added to the recipe's own instructions.

    >>> talk = Conversation(policy, recipe, role="You sell cactuses.")
    >>> print(talk.say("How much is this one?"))
    """

    def __init__(
        self,
        policy: Policy,
        recipe: Recipe,
        role: str = "",
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> None:
        system = "\n".join(filter(None, [recipe.system_prompt, role.strip()]))
        self.policy = policy
        self.recipe = recipe
        self.sampling = sampling or recipe.sampling
        self.seed = seed
        self.messages: Messages = [{"role": "system", "content": system}]

    def say(self, text: str) -> Turn:
        """Say something, print the answer as it is drawn, and remember both."""
        messages = [*self.messages, {"role": "user", "content": text}]
        answer = stream(self.policy, messages, self.sampling, self.seed + len(messages))
        self.messages = [*messages, {"role": "assistant", "content": answer}]
        return Turn(answer, self.recipe.tags.parse(answer))


def play(policy: Policy, recipe: Recipe, sampling: Sampling, seed: int) -> list[Conversation]:
    """Play the recipe's scenes, printing both sides; returns the conversations."""
    conversations = []
    for scene in recipe.scenes:
        talk = Conversation(policy, recipe, scene.role, sampling, seed)
        for line in scene.turns:
            print(f"USER: {line}\n")
            talk.say(line)
            print()
        conversations.append(talk)
    return conversations
