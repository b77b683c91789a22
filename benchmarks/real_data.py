"""Train and evaluate a method on the real categories, and write the table of its page in docs/papers.

    python benchmarks/real_data.py --data ROOT [--method metal] [--preset default] [--only mvtec/bottle ...]
                                   [--seeds 0 ...]

ROOT holds mvtec/bottle, mtd/magnetic_tile, head_ct/head_ct and piped/pa_*. Runs go to runs/real/METHOD/;
finished ones are not done again, so the command can be stopped and repeated. The table shows all runs there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from blemish.cli import main as blemish

CATEGORIES = {
    "mvtec/bottle": [0],
    "mtd/magnetic_tile": [0],
    "head_ct/head_ct": [0, 1, 2, 3, 4],
    "piped/pa_brg02_rl": [0],
    "piped/pa_gla01_tl": [0],
    "piped/pa_bft01_tl": [0],
}
MEASURES = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "pixel_auroc_fpr30": "≤ FPR 0.3, area / 0.3",
    "pixel_auroc_fpr30_mcclish": "≤ FPR 0.3, McClish",
    "aupro_fpr30": "AUPRO ≤ 0.3",
}
RESULTS = Path("benchmarks/results")


def train_and_evaluate(data: Path, run: Path, method: str, preset: str, seed: int) -> None:
    """Do what the command line does; a finished part is skipped."""
    data_options = ["--data", str(data)]
    method_options = ["--method", method, "--preset", preset, "--seed", str(seed)]
    if not (run / "model.safetensors").exists():
        code = blemish(["train", *data_options, *method_options, "--out", str(run), "--resume"])
        if code:
            raise SystemExit(code)
    if not (run / "evaluation" / "evaluation.json").exists():
        code = blemish(["evaluate", *data_options, "--model", str(run)])
        if code:
            raise SystemExit(code)


def row_of(run: Path) -> dict[str, object]:
    """Collect what the table shows of a run."""
    evaluation = json.loads((run / "evaluation" / "evaluation.json").read_text())
    about = json.loads((run / "run.json").read_text())
    category, preset, seed = run.name.rsplit("+", 2)
    return {
        "category": category.replace("+", "/"),
        "preset": preset,
        "seed": int(seed),
        **{key: evaluation[key] for key in MEASURES},
        "image_auroc_interval95": evaluation["image_auroc_interval95"],
        "requested_false_alarm_rate": evaluation["requested_false_alarm_rate"],
        "false_alarm_rate": evaluation["false_alarm_rate"],
        "detection_rate": evaluation["detection_rate"],
        "steps": about["result"]["steps"],
        "epochs": about["result"]["epochs"],
        "training_minutes": about["result"]["seconds"] / 60,
        "threads": about["machine"]["threads"],
        "precision": about["machine"]["precision"],
        "versions": about["versions"],
        "fingerprint": about["fingerprint"],
    }


def table(rows: list[dict[str, object]]) -> str:
    """Return the rows as Markdown."""
    heads = ["category", "preset", "seed", *MEASURES.values(), "steps", "minutes"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        measures = ["–" if row[key] is None else f"{row[key]:.3f}" for key in MEASURES]
        cells = [row["category"], row["preset"], row["seed"], *measures, row["steps"]]
        lines.append("| " + " | ".join(map(str, [*cells, f"{row['training_minutes']:.1f}"])) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--method", default="metal")
    parser.add_argument("--runs", type=Path, default=Path("runs/real"))
    parser.add_argument("--preset", default="default")
    parser.add_argument("--only", nargs="+", choices=CATEGORIES, default=list(CATEGORIES))
    parser.add_argument("--seeds", type=int, nargs="+")
    options = parser.parse_args()
    for category in options.only:
        for seed in options.seeds or CATEGORIES[category]:
            name = f"{category.replace('/', '+')}+{options.preset}+{seed}"
            run = options.runs / options.method / name
            train_and_evaluate(options.data / category, run, options.method, options.preset, seed)
    done = sorted((options.runs / options.method).glob("*/evaluation/evaluation.json"))
    rows = [row_of(path.parent.parent) for path in done]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"real_data_{options.method}.json").write_text(json.dumps(rows, indent=2) + "\n")
    (RESULTS / f"real_data_{options.method}.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
