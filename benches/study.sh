#!/usr/bin/env bash
# One model, one loss, one budget, many samplers: what does each buy? Prints a table per log, keeps a run per row and seed.
#
#   benches/study.sh LOG OUT SEEDS [SET...]
#
# LOG    a log `hardneg train` reads (not part of this repository)
# OUT    folder of results: a run per row and seed, and study.tsv; finished ones are not trained again, begun ones continue
# SEEDS  e.g. "1 2"
# SET    settings of all runs, e.g. train.epochs=30 model.max_len=50
#
# Every row trains SASRec with the sampled softmax over the positive and 16 negatives per position; `softmax` sums over the
# whole catalogue instead. Negatives from a known static law are corrected by its log-probability where that is part of the
# method (popularity, in-batch, mns). `uniform+context` is the control of `cans`: the same model of contexts (cosine scores, to which the
# item under a wrong context matters), without its negatives. ROWS="dns genni" limits the rows.
set -euo pipefail
log=$1 out=$2 seeds=$3
shift 3
binary=${HARDNEG:-target/release/hardneg}
mkdir -p "$out"
common=(loss.kind=sampled_softmax sampler.negatives=16)
corrected=(sampler.weight.kind=log_q loss.log_q=classic)

settings() {
  case $1 in
  softmax) echo loss.kind=softmax ;;
  uniform) echo "${common[@]}" sampler.preset=uniform ;;
  popularity) echo "${common[@]}" sampler.preset=popularity "${corrected[@]}" ;;
  in-batch) echo "${common[@]}" sampler.preset=in-batch "${corrected[@]}" ;;
  mns) echo "${common[@]}" sampler.preset=mns "${corrected[@]}" ;;
  dns) echo "${common[@]}" sampler.preset=dns sampler.select.candidates=128 ;;
  genni) echo "${common[@]}" sampler.preset=genni ;;
  srns) echo "${common[@]}" sampler.preset=srns sampler.select.size=32 sampler.select.candidates=128 ;;
  mixgcf) echo "${common[@]}" sampler.preset=mixgcf sampler.select.candidates=128 ;;
  amns) echo "${common[@]}" sampler.preset=amns sampler.select.candidates=128 ;;
  cans-items) echo "${common[@]}" sampler.preset=cans-items ;;
  uniform+context) echo "${common[@]}" sampler.preset=uniform model.kind=cans ;;
  cans) echo "${common[@]}" sampler.preset=cans sampler.negatives=15 model.kind=cans ;;
  *) echo "no row $1" >&2 && exit 2 ;;
  esac
}

rows=${ROWS:-softmax uniform popularity in-batch mns dns genni srns mixgcf amns cans-items uniform+context cans}
for seed in $seeds; do
  for row in $rows; do
    run=$out/$row-seed$seed
    [ -f "$run/report.json" ] && continue
    sets=()
    for pair in $(settings "$row") "$@"; do sets+=(--set "$pair"); done
    "$binary" train "$log" --out "$run" --seed "$seed" --quiet --device host "${sets[@]}" >"$out/$row-seed$seed.log" 2>&1 ||
      echo "$row, seed $seed: $(head -1 "$out/$row-seed$seed.log")" >&2
  done
done

OUT=$out python3 - <<'PY' | tee "$out/study.tsv"
import json, os, pathlib

out = pathlib.Path(os.environ["OUT"])
keys = ["ndcg@10", "hr@10", "coverage@10", "gini@10", "tail_share@10"]
print("\t".join(["row", "seeds", *keys, "spread of ndcg@10", "best step", "false negatives", "hardness", "s/epoch"]))
for row in dict.fromkeys(p.parent.name.rsplit("-seed", 1)[0] for p in sorted(out.glob("*-seed*/report.json"))):
    runs = sorted(out.glob(f"{row}-seed*/report.json"))
    reports = [json.loads(r.read_text()) for r in runs]
    records = [[json.loads(x) for x in (r.parent / "metrics.jsonl").read_text().splitlines()] for r in runs]
    mean = lambda values: sum(values) / len(values)
    epochs = [[x for x in r if x["kind"] == "epoch"] for r in records]
    facts = [e[-1]["negatives"] for e in epochs if "negatives" in e[-1]]
    ndcg = [r["model"]["ndcg@10"] for r in reports]
    cells = [row, str(len(runs))] + [f"{mean([r['model'][k] for r in reports]):.4f}" for k in keys]
    cells += [f"{max(ndcg) - min(ndcg):.4f}", ", ".join(str(r["best"]["step"]) for r in reports)]
    cells += [f"{100 * mean([f['false_negatives'] for f in facts]):.2f}%" if facts else "-", f"{mean([f['hardness'] for f in facts]):.2f}" if facts else "-"]
    cells += [f"{mean([mean([x['seconds'] for x in e]) for e in epochs]):.2f}"]
    print("\t".join(cells))
PY
