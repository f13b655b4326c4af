"""One HTML file out of a run: settings, curves, verdict, before and after, samples.

It needs nothing but itself. What the model said is hostile text: the template escapes it, and a
content security policy lets no script run but the report's own.
"""

import base64
import hashlib
import io
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import matplotlib as mpl
import pandas as pd
from markupsafe import Markup

from sarashina_grpo.hardware import Plan, versions
from sarashina_grpo.monitor import plot_rewards, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sarashina_grpo.evaluation import Evaluation
    from sarashina_grpo.tags import Parsed
    from sarashina_grpo.training import Run

REPORT_FILE = "report.html"
SAMPLES = 50
SCRIPT = """
const samples = document.querySelectorAll(".sample");
const place = document.getElementById("place");
let shown = 0;
function show(number) {
  shown = (number + samples.length) % samples.length;
  samples.forEach((sample, index) => { sample.hidden = index !== shown; });
  place.textContent = `${shown + 1} of ${samples.length}`;
}
document.getElementById("previous").onclick = () => show(shown - 1);
document.getElementById("next").onclick = () => show(shown + 1);
show(0);
"""


@dataclass(frozen=True)
class Said:
    """One completion: as drawn, as parsed, and whether it is right (None: nothing to compare)."""

    text: str
    parsed: "Parsed | None"
    correct: bool | None


@dataclass(frozen=True)
class Sample:
    """A held-out prompt with both models' completions."""

    prompt: str
    before: Said
    after: Said


def write_report(
    run: "Run", plan: Plan, history: pd.DataFrame, before: "Evaluation", after: "Evaluation"
) -> Path:
    """Write the report into the run's folder; returns its path."""
    path = run.folder / REPORT_FILE
    # A lone surrogate, which a model can be made to say, is no Unicode: it becomes "?".
    path.write_bytes(render(run, plan, history, before, after).encode("utf-8", "replace"))
    return path


def render(
    run: "Run", plan: Plan, history: pd.DataFrame, before: "Evaluation", after: "Evaluation"
) -> str:
    """The report as HTML."""
    from sarashina_grpo.evaluation import compare, describe_changes, plot_comparison

    loader = jinja2.PackageLoader("sarashina_grpo", ".")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html.jinja").render(
        title=f"{run.recipe.name}: {run.model_name}",
        subtitle=f"{run.name}, {len(history)} steps, written {datetime.now():%Y-%m-%d %H:%M}",
        before=before,
        comparison=compare(before, after),
        sentences=describe_changes(before, after),
        rates=inline_svg(plot_comparison(before, after)),
        findings=verdict(history, run.settings, (_last_rate(before), _last_rate(after))),
        curve=inline_svg(plot_rewards(history)),
        samples=pair(before, after)[:SAMPLES],
        details=_details(run, plan),
        script=Markup(SCRIPT),
        script_hash=_hash(SCRIPT),
    )


def pair(before: "Evaluation", after: "Evaluation") -> list[Sample]:
    """Both evaluations' completions by prompt, those that changed first."""
    columns = ("completions", "parsed", "correct")
    said = [
        [Said(*each) for each in zip(*(getattr(one, name) for name in columns), strict=True)]
        for one in (before, after)
    ]
    samples = [Sample(*each) for each in zip(before.prompts, *said, strict=True)]
    return sorted(samples, key=lambda sample: _mark(sample.before) == _mark(sample.after))


def inline_svg(figure: "Figure") -> Markup:
    """A figure as SVG whose black is the text's colour, so that it is seen on a dark page."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue().replace("#000000", "currentColor")
    return Markup(svg[svg.index("<svg") :])


def _last_rate(evaluation: "Evaluation") -> tuple[int, int]:
    """Right answers where there are any to compare, else what keeps to the format."""
    return list(evaluation.rates.values())[-1]


def _mark(said: Said) -> tuple[bool, bool | None]:
    return said.parsed is not None, said.correct


def _details(run: "Run", plan: Plan) -> list[tuple[str, dict[str, Any]]]:
    settings = {name: json.dumps(value) for name, value in asdict(run.settings).items()}
    prompt = {"system prompt": run.recipe.system_prompt}
    return [
        ("Settings", settings),
        ("Plan", dict(plan.reasons)),
        ("Versions", dict(versions())),
        ("Instructions", prompt),
    ]


def _hash(script: str) -> str:
    """How a content security policy names the one script that may run."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
