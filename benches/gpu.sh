#!/usr/bin/env bash
# Everything that needs a GPU, in one command of under nine minutes.
#
#   benches/gpu.sh OUT [DATA]
#
# OUT      folder of results: results.jsonl (one line per part: name, seconds, exit status, what it printed) and log.txt
# DATA     folder with ml-1m/ml-1m_sas.txt.gz for the comparison with PyTorch (not part of this repository)
# HARDNEG  the program (default target/release/hardneg); PYTHON a Python with torch and numpy (default python3)
# VARIANTS variants of the baseline, separated by semicolons, where not all can be run in the time there is
#
# Correctness comes first: what fails there makes the speed after it worthless, and the last line says so. A part whose
# tool is missing is recorded as such and the rest goes on.
set -u
cd "$(dirname "$0")/.."
out=$1 data=${2:-}
hardneg=${HARDNEG:-target/release/hardneg} python=${PYTHON:-python3}
mkdir -p "$out"
log=$out/log.txt results=$out/results.jsonl work=$(mktemp -d)
: >"$log" && : >"$results"
trap 'rm -rf "$work"' EXIT

# part NAME SECONDS COMMAND...: runs it with a time limit, which ends when nine minutes do; its last line of output, JSON where it is,
# becomes the result.
part() {
  local name=$1 limit=$2 started status
  shift 2
  if [ $((530 - SECONDS)) -lt "$limit" ]; then limit=$((530 - SECONDS)); fi
  if [ "$limit" -lt 5 ]; then
    echo "{\"part\": \"$name\", \"status\": \"no time left\"}" >>"$results"
    echo "$name: no time left"
    return 1
  fi
  echo "== $name: $*" >>"$log"
  started=$(date +%s.%N)
  timeout "$limit" "$@" >"$work/out" 2>"$work/err"
  status=$?
  cat "$work/out" "$work/err" >>"$log"
  # What was said goes by a file: the table of all cases is too long for an argument.
  tail -n 1 "$work/out" >"$work/last"
  "$python" - "$name" "$status" "$started" "$work/last" <<'EOF' >>"$results" || echo "{\"part\": \"$name\", \"status\": $status}" >>"$results"
import json, sys, time
name, status, started, last = sys.argv[1:]
last = open(last).read().strip()
try:
    said = json.loads(last)
except ValueError:
    said = last
print(json.dumps({"part": name, "status": int(status), "seconds": round(time.time() - float(started), 2), "said": said}))
EOF
  echo "$name: status $status"
  return "$status"
}

correct=yes
part machine 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader || true
part version 10 "$hardneg" --version
part doctor 90 "$hardneg" doctor --json || correct=no
part check 170 "$hardneg" check --device cuda --repeat 100 --json || correct=no
if command -v compute-sanitizer >/dev/null; then
  part memcheck 60 compute-sanitizer --error-exitcode 9 "$hardneg" check --device cuda --only attention || correct=no
  part racecheck 60 compute-sanitizer --tool racecheck --error-exitcode 9 "$hardneg" check --device cuda --only layer_norm || correct=no
else
  echo '{"part": "compute-sanitizer", "status": "missing"}' >>"$results"
fi

# One training on both, and with steps as graphs: the same ids are drawn, the losses follow each other.
small=(--steps 100 --progress none --set eval.baselines=false)
part train-cuda 60 "$hardneg" train --out "$work/cuda" --device cuda "${small[@]}" || correct=no
part train-graph 60 "$hardneg" train --out "$work/graph" --device cuda --set train.graph=true "${small[@]}" || correct=no
part train-host 60 "$hardneg" train --out "$work/host" --device host "${small[@]}" || correct=no
if ! command -v "$python" >/dev/null; then
  echo '{"part": "curves", "status": "missing", "said": "needs a Python"}' >>"$results"
else
part curves 20 "$python" - "$work" <<'EOF' || correct=no
import json, sys
def losses(device):
    with open(f"{sys.argv[1]}/{device}/metrics.jsonl") as lines:
        return [r["loss"] for r in map(json.loads, lines) if "loss" in r]
gpu, graph, host = losses("cuda"), losses("graph"), losses("host")
worst = [max(abs(a - b) / abs(b) for a, b in zip(of, host)) for of in (gpu, graph)]
steps = json.load(open(f"{sys.argv[1]}/graph/manifest.json"))["graph"]
print(json.dumps({"intervals": len(gpu), "worst_relative_difference": worst[0], "of_graphs": worst[1], "steps": steps}))
sys.exit(0 if len(gpu) == len(graph) == len(host) and max(worst) < 1e-3 and steps["replayed"] > 0 else 1)
EOF
fi

# Every call of a step: MovieLens-1M's size with the whole catalogue and with own negatives, and a million items.
middle=(--set dim=64 --set max_len=200 --set batch_size=256 --items 3700)
for rounding in f32 bf16; do
  part "kernels-softmax-$rounding" 30 "$hardneg" profile --kernels --json --device cuda --rounds 9 "${middle[@]}" \
    --set loss=softmax --set train.rounding=$rounding || true
done
part kernels-sampled 30 "$hardneg" profile --kernels --json --device cuda --rounds 9 "${middle[@]}" --set loss=sampled_softmax \
  --samplers uniform,dns --negatives 128 || true
part kernels-million 60 "$hardneg" profile --kernels --json --device cuda --rounds 5 --set dim=128 --set max_len=200 \
  --set batch_size=256 --items 1e6 --set loss=sampled_softmax --set optim.tables=lazy --samplers uniform --negatives 128 || true

log_file=$data/ml-1m/ml-1m_sas.txt.gz
if [ -f "$log_file" ] && "$python" -c 'import torch; assert torch.cuda.is_available()' 2>>"$log"; then
  eager="--layout packed;--layout padded;--layout padded --precision tf32;--layout padded --precision bf16"
  variants=${VARIANTS:-$eager;--layout padded --precision bf16 --compile}
  for loss in softmax sampled; do
    part "compare-$loss" 170 "$python" benches/peers/compare.py "$log_file" --loss "$loss" --device cuda --epochs 2 \
      --graph --rounds 2 --hardneg "$hardneg" --python "$python" --variants "$variants" || true
  done
else
  echo '{"part": "compare", "status": "missing", "said": "needs DATA and torch with CUDA"}' >>"$results"
fi
echo "{\"part\": \"verdict\", \"correct\": \"$correct\"}" >>"$results"
echo "correct: $correct"
[ "$correct" = yes ]
