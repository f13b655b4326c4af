"""Are a million prompts read within seconds and memory that a laptop has?

    uv run python benchmarks/million_rows.py [ROWS]

Writes a CSV for each recipe into a temporary folder, reads it as the notebook does, in a process
of its own, and checks that every row is a prompt or told as left out. Prints a line each:

    recipe      rows     file    read in  peak memory   a row

The memory is that of the whole process, its libraries included. Exits with 1 above the bounds.
"""

import csv
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROWS = 1_000_000
MOST_SECONDS = 45.0
MOST_MEMORY = 3_300
"""For `ROWS` rows, in seconds and MB: twice what two shared cores take, see LOG.md."""
PLACES = ("東京", "公園", "駅前の喫茶店", "海の見える町", "祖母の家", "図書館", "北海道の小さな村")
DOINGS = ("雨に降られました", "友達と会う約束です", "本を読んで過ごしました", "道に迷いました")
ASKING = ("どう思いますか?", "あなたならどうしますか?", "おすすめはありますか?", "話を聞いて。")


def rows(recipe: str, count: int) -> Iterator[list[str]]:
    """The header, and rows of which a hundredth is said twice and, in small talk, is English."""
    yield ["question", "answer"] if recipe == "qa" else ["prompt", "lang"]
    for number in range(count):
        said = number - 1 if number % 100 == 99 else number
        place, doing = PLACES[said % len(PLACES)], DOINGS[said % len(DOINGS)]
        if recipe == "qa":
            price = said % 900 + 100
            text = f"{place}で、1個{price}円のりんごを{said}個買いました。全部で何円ですか?"
            yield [text, f"1個{price}円が{said}個で、{price}×{said}円。\n#### {price * said}"]
        else:
            asking = ASKING[said % len(ASKING)]
            text = f"{said}日前のことですが、{place}で{doing}。「困ったなあ」と思って、\n{asking}"
            yield [text, "en" if number % 100 == 50 else "ja"]


def read(recipe: str, path: Path) -> tuple[int, int, float, float]:
    """Prompts, rows left out, seconds, and the most memory in MB."""
    import datasets  # noqa: F401

    from sarashina_grpo.recipes import get_recipe

    start = time.perf_counter()
    prompts, left_out = get_recipe(recipe).read_prompts(path)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return len(prompts), len(left_out), seconds, memory


def measure(recipe: str, count: int, folder: Path) -> bool:
    """Print a line; whether nothing is lost and the bounds are kept."""
    path = folder / f"{recipe}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows(recipe, count))
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=fresh) as process:
        prompts, left_out, seconds, memory = process.submit(read, recipe, path).result()
    size = path.stat().st_size / 1e6
    print(
        f"{recipe:<10}{count:>9,}{size:>6.0f} MB{seconds:>9.1f} s{memory:>10,.0f} MB"
        f"{memory * 1024**2 / count:>6,.0f} B   {prompts:,} prompts, {left_out:,} left out"
    )
    return prompts + left_out == count and seconds <= MOST_SECONDS and memory <= MOST_MEMORY


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    print("recipe      rows     file    read in  peak memory   a row")
    with tempfile.TemporaryDirectory() as folder:
        kept = [measure(recipe, count, Path(folder)) for recipe in ("smalltalk", "qa")]
    if not all(kept):
        sys.exit(f"more than {MOST_SECONDS} s or {MOST_MEMORY} MB, or a row is lost")


if __name__ == "__main__":
    main()
