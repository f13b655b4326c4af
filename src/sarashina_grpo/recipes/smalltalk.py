"""Small talk in Japanese: the model thinks in <think>, then answers in <response>.

The settings are those of the article «日本語LLMのSarashinaをGRPOでトレーニングして
Reasoning Modelを作る» and its repository ryomo/sarashina-grpo; what it leaves open
(temperature, KL penalty, loss) is TRL's default, written out.
"""

from dataclasses import replace

from sarashina_grpo import DATASETS
from sarashina_grpo.data import Source
from sarashina_grpo.demonstrations import from_phrases
from sarashina_grpo.recipe import Course, Recipe, Sampling, Scene, Settings, TinySettings
from sarashina_grpo.rewards.format import (
    soft_format_reward,
    strict_format_reward,
    xmlcount_reward,
)
from sarashina_grpo.rewards.language import distinct_thought_reward, japanese_reward
from sarashina_grpo.tags import TagFormat

TAGS = TagFormat(thought="think", reply="response")

SETTINGS = Settings(
    lora_rank=32,
    lora_alpha=32,
    lora_targets=(
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ),
    learning_rate=5e-6,
    adam_beta1=0.9,
    adam_beta2=0.99,
    weight_decay=0.1,
    warmup_ratio=0.1,
    lr_scheduler_type="cosine",
    optim="paged_adamw_8bit",
    max_grad_norm=0.1,
    num_generations=6,
    temperature=1.0,
    beta=0.0,
    loss_type="dapo",
    per_device_train_batch_size=6,
    gradient_accumulation_steps=1,
    max_seq_length=1536,
    max_prompt_length=1024,
    max_completion_length=512,
    max_steps=500,
    save_steps=250,
    seed=0,
)

RECIPE = Recipe(
    name="smalltalk",
    model_name="sbintuitions/sarashina2.2-3b-instruct-v0.1",
    tags=TAGS,
    instructions=f"""
あなたは日本語でおしゃべりをする相手です。すぐには答えず、まず考えてから返事をします。
心の中で考えたことは<{TAGS.thought}>と</{TAGS.thought}>で囲んで書きます。
相手に伝える返事は、そのあとに<{TAGS.reply}>と</{TAGS.reply}>で囲んで書きます。
どちらも日本語で書き、囲みの外には何も書きません。書き方の例:
""",
    example=("晴れてうれしそうだ。一緒に喜ぼう。", "本当に気持ちのいい天気ですね。"),
    source=Source(path=DATASETS / "smalltalk.csv", lang_column="lang", language="ja"),
    rewards=(
        xmlcount_reward,
        soft_format_reward,
        strict_format_reward,
        japanese_reward,
        distinct_thought_reward,
    ),
    settings=SETTINGS,
    sampling=Sampling(temperature=0.7, top_p=0.95, max_tokens=512),
    scenes=(
        Scene(
            role="""
役割: あなたは、ありふれた安い品を高く売る、口のうまい商人です。
どこにでもあるサボテンを、お客さんに三万円で買わせようとしています。
本当は安物だということは、心の中だけにしまっておいてください。
""",
            turns=(
                "このサボテン、かわいいですね。おいくらですか？",
                "三万円は高いですよ。ほかの店ではもっと安かったです。",
            ),
        ),
    ),
    tiny=TinySettings(
        # A model of a million parameters needs larger steps than one of three billion: at 5e-6
        # it does not move in 100 steps, nor with gradients clipped at 0.1. Its adapter counts
        # more, for the same reason, and its prompts and replies are short.
        settings=replace(
            SETTINGS,
            lora_alpha=128,
            learning_rate=5e-4,
            optim="adamw_torch",
            max_grad_norm=1.0,
            num_generations=8,
            per_device_train_batch_size=32,
            max_seq_length=352,
            max_prompt_length=256,
            max_completion_length=96,
            max_steps=100,
            save_steps=50,
        ),
        courses=(
            Course(
                demonstrate=from_phrases(DATASETS / "tiny_smalltalk.csv"),
                lessons=320,
                learning_rate=6e-3,
                well_formed=0.2,
            ),
        ),
        lesson_batch_size=16,
    ),
)
