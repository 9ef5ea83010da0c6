#!/usr/bin/env bash
# Trains every sampler preset on one log with the same model and budget, and prints one table of what each bought and cost.
#
#   benches/presets.sh LOG OUT [SET...]
#
# LOG   a log `hardneg train` reads, e.g. u.data of MovieLens 100K (not part of this repository)
# OUT   folder of results; a run per preset stays there, with presets.tsv, the table
# SET   further settings for all runs, e.g. train.epochs=20 data.items_path=ml-100k.item data.graph_path=ml-100k.kg.gz data.link_path=ml-100k.link
#
# PRESETS="dns genni" limits the presets, SEED=2 sets the seed. A preset that names a loss trains with it, the others with bce; a
# preset that pairs items with wrong contexts trains a model that sees context; `softmax` is the full softmax without any
# sampler. A preset that the log cannot serve is reported with the reason and does not stop the rest.
set -euo pipefail
log=$1 out=$2
shift 2
binary=${HARDNEG:-target/release/hardneg}
mkdir -p "$out"
sets=()
for pair in "$@"; do sets+=(--set "$pair"); done
export binary log out
exec python3 - "${sets[@]}" <<'PY'
import json, os, pathlib, subprocess, sys

binary, log, out = os.environ["binary"], os.environ["log"], pathlib.Path(os.environ["out"])
chosen = os.environ.get("PRESETS", "").split()
seed = os.environ.get("SEED", "1")

def ask(*words):
    return json.loads(subprocess.run([binary, *words, "--json"], check=True, capture_output=True, text=True).stdout)

names = chosen or ["softmax"] + [p["name"] for p in ask("samplers", "list")["presets"]]
columns = ["preset", "loss", "ndcg@10", "hr@10", "coverage@10", "gini@10", "tail_share@10", "epochs", "s/epoch", "sampling", "ns/negative",
           "false negatives", "hardness", "first loss", "last loss"]
rows = []
for name in names:
    run = out / f"{name}-seed{seed}"
    words = [binary, "train", log, "--out", str(run), "--seed", seed, "--quiet", "--device", "host"]
    loss = "softmax"
    if name != "softmax":
        shown = ask("samplers", "show", name)
        made_for = shown.get("loss") or {"kind": "bce"}
        loss = made_for["kind"]
        words += ["--sampler", name]
        if "wrong_context" in json.dumps(shown):
            words += ["--set", "model.kind=cans"]
        for key, value in made_for.items():
            words += ["--set", f"loss.{key}={value}"]
    done = subprocess.run(words + sys.argv[1:], capture_output=True, text=True)
    if done.returncode:
        print(f"{name}: status {done.returncode}: {done.stderr.strip().splitlines()[0]}", flush=True)
        continue
    report = json.loads((run / "report.json").read_text())
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [r for r in records if r["kind"] == "epoch"]
    drawn = sum(e["rows"] * e["negatives"]["per_positive"] for e in epochs if "negatives" in e)
    sampling = sum(e["stage_seconds"]["sample"] for e in epochs)
    facts = epochs[-1].get("negatives", {})
    model = report["model"]
    row = [name, loss] + [f"{model[k]:.4f}" for k in columns[2:7]] + [
        str(len(epochs)), f"{sum(e['seconds'] for e in epochs) / len(epochs):.2f}",
        f"{100 * sampling / sum(e['seconds'] for e in epochs):.0f}%", f"{1e9 * sampling / drawn:.0f}" if drawn else "-",
        f"{100 * facts['false_negatives']:.2f}%" if facts else "-", f"{facts['hardness']:.2f}" if facts else "-",
        f"{epochs[0]['loss']:.4f}", f"{epochs[-1]['loss']:.4f}"]
    rows.append(row)
    if len(rows) == 1:
        baselines = {b["model"]: b for b in report.get("baselines", [])}
        for b in baselines.values():
            print(f"{b['model']}: ndcg@10 {b['ndcg@10']:.4f}, coverage@10 {b['coverage@10']:.4f}", flush=True)
    print("  ".join(row), flush=True)
table = ["\t".join(columns)] + ["\t".join(row) for row in rows]
(out / f"presets-seed{seed}.tsv").write_text("\n".join(table) + "\n")
PY
