"""Questions in Japanese: the model works in <reasoning>, then answers in <answer>.

The settings are those of the article «QEUR23_BS4RVW6 - Phi-4を使って強化学習Finetuningを
試す(Unsloth-GRPO)»; what it leaves open (temperature, KL penalty, loss) is TRL's default,
written out. Its batch of 1 is written as the 4 that Unsloth makes of it, the completions to
one question. It found replies of 200 tokens useless in practice: the lengths are part of it.
"""

from dataclasses import replace

from sarashina_grpo import DATASETS
from sarashina_grpo.data import Source
from sarashina_grpo.demonstrations import from_solutions
from sarashina_grpo.recipe import Course, Recipe, Sampling, Scene, Settings, TinySettings
from sarashina_grpo.rewards.answer import correctness_reward, int_reward
from sarashina_grpo.rewards.format import (
    soft_format_reward,
    strict_format_reward,
    xmlcount_reward,
)
from sarashina_grpo.rewards.language import distinct_thought_reward, japanese_reward
from sarashina_grpo.tags import TagFormat

TAGS = TagFormat(thought="reasoning", reply="answer", layout="block")

SETTINGS = Settings(
    lora_rank=16,
    lora_alpha=16,
    lora_targets=("gate_proj", "up_proj", "down_proj"),
    learning_rate=7e-6,
    adam_beta1=0.9,
    adam_beta2=0.99,
    weight_decay=0.1,
    warmup_ratio=0.1,
    lr_scheduler_type="cosine",
    optim="paged_adamw_8bit",
    max_grad_norm=0.1,
    num_generations=4,
    temperature=1.0,
    beta=0.0,
    loss_type="dapo",
    per_device_train_batch_size=4,
    gradient_accumulation_steps=1,
    max_seq_length=3584,
    max_prompt_length=1536,
    max_completion_length=1200,
    max_steps=100,
    save_steps=250,
    seed=3442,
)

TINY_SOLUTIONS = DATASETS / "tiny_qa.csv"

RECIPE = Recipe(
    name="qa",
    model_name="unsloth/Phi-4",
    tags=TAGS,
    instructions=f"""
あなたは質問に答える先生です。すぐには答えず、まず筋道を立てて考えます。
考えたことは<{TAGS.thought}>と</{TAGS.thought}>の間に書きます。
答えだけを、そのあとの<{TAGS.reply}>と</{TAGS.reply}>の間に書きます。
囲みの外には何も書きません。書き方の例:
""",
    example=("今日は月曜日。明日は火曜日で、あさっては水曜日。", "水曜日"),
    source=Source(path=DATASETS / "qa.csv", prompt_column="question", answer_column="answer"),
    rewards=(
        xmlcount_reward,
        soft_format_reward,
        strict_format_reward,
        int_reward,
        correctness_reward,
        japanese_reward,
        distinct_thought_reward,
    ),
    # The answer counts most: at 1 each, one of five tiny models got less than 90% right.
    reward_weights={"japanese_reward": 0.1, "distinct_thought_reward": 0.1},
    settings=SETTINGS,
    sampling=Sampling(temperature=0.5, top_p=0.95, max_tokens=2048),
    scenes=(
        Scene(turns=("Which is bigger? 9.11 or 9.9?",)),
        Scene(turns=("日本発、香港の3泊4日の旅行スケジュールを設定してください。",)),
        Scene(turns=("南極で使う冷蔵庫の主な機能は何ですか?３つ挙げてください。",)),
        Scene(
            turns=(
                "アンリはリンゴを3個、ジャックは梨を4個、ジルは本を5冊持っています。"
                "ジャックの梨を5個食べたら、果物は全部で何個になったでしょう？",
            )
        ),
    ),
    tiny=TinySettings(
        # As for small talk, a model of a million parameters needs larger steps. It learns to
        # add and subtract first, and to make mistakes afterwards: with wrong answers from the
        # start it learns neither.
        settings=replace(
            SETTINGS,
            lora_alpha=128,
            learning_rate=3e-4,
            optim="adamw_torch",
            max_grad_norm=1.0,
            num_generations=16,
            per_device_train_batch_size=48,
            max_seq_length=352,
            max_prompt_length=256,
            max_completion_length=64,
            max_steps=100,
            save_steps=50,
            seed=0,
        ),
        source=Source(path=TINY_SOLUTIONS, prompt_column="question", answer_column="answer"),
        courses=(
            Course(
                demonstrate=from_solutions(TINY_SOLUTIONS),
                lessons=850,
                learning_rate=1e-3,
                well_formed=1.0,
            ),
            Course(
                demonstrate=from_solutions(TINY_SOLUTIONS, mistaken=0.7),
                lessons=220,
                learning_rate=7e-4,
                well_formed=0.85,
            ),
        ),
        lesson_batch_size=16,
    ),
)
