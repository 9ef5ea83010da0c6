#!/usr/bin/env bash
# Everything that needs a GPU, in one command of under nine minutes.
#
#   benches/gpu.sh OUT [DATA]
#
# OUT      folder of results: results.jsonl (one line per part: name, seconds, exit status, what it printed), operations.jsonl, log.txt
# DATA     folder with ml-1m/ml-1m_sas.txt.gz for the comparison with PyTorch (not part of this repository)
# HARDNEG  the program (default target/release/hardneg); PYTHON a Python with torch and numpy (default python3)
# DEVICE   where to run (default cuda); emulator: a trial of this script, whose times mean nothing
# VARIANTS variants of the baseline's epochs, separated by semicolons, and CONFIGURATIONS those of operations.py, separated by commas,
#          where not all can be run in the time there is
# ONLY     names of parts, separated by spaces: the others are left out, and the verdict is of these alone
#
# Correctness comes first: what fails there makes the speed after it worthless, and the last line says so. A part whose
# tool is missing is recorded as such and the rest goes on.
set -u
cd "$(dirname "$0")/.."
out=$1 data=${2:-}
hardneg=${HARDNEG:-target/release/hardneg} python=${PYTHON:-python3} device=${DEVICE:-cuda}
mkdir -p "$out"
log=$out/log.txt results=$out/results.jsonl work=$(mktemp -d)
: >"$log" && : >"$results"
trap 'rm -rf "$work"' EXIT

# part NAME SECONDS COMMAND...: runs it with a time limit, which ends when nine minutes do; its last line of output, JSON where it is,
# becomes the result.
part() {
  local name=$1 limit=$2 started status
  shift 2
  if [[ -n ${ONLY:-} && " $ONLY " != *" $name "* ]]; then
    echo "{\"part\": \"$name\", \"status\": \"not asked for\"}" >>"$results"
    return 0
  fi
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
# Kernels are compiled on the way, each once: most of the time of both where there is no cache yet.
part doctor 150 "$hardneg" doctor --json || correct=no
part check 220 "$hardneg" check --device "$device" --repeat 100 --json || correct=no
if command -v compute-sanitizer >/dev/null; then
  part memcheck 60 compute-sanitizer --error-exitcode 9 "$hardneg" check --device cuda --only attention || correct=no
  part racecheck 60 compute-sanitizer --tool racecheck --error-exitcode 9 "$hardneg" check --device cuda --only layer_norm || correct=no
else
  echo '{"part": "compute-sanitizer", "status": "missing"}' >>"$results"
fi

# One training on the plain path, and on the GPU with its steps call by call, as graphs, whichever is faster, and rounded: the losses
# lie inside the envelope that the README publishes.
small=(--steps 100 --progress none --set eval.baselines=false)
part train-host 60 "$hardneg" train --out "$work/host" --device host "${small[@]}" || correct=no
for form in calls=train.graph=no graphs=train.graph=yes auto=train.graph=auto tf32=train.rounding=tf32 bf16=train.rounding=bf16; do
  part "train-${form%%=*}" 60 "$hardneg" train --out "$work/${form%%=*}" --device "$device" --set "${form#*=}" "${small[@]}" || correct=no
done
if ! command -v "$python" >/dev/null; then
  echo '{"part": "curves", "status": "missing", "said": "needs a Python"}' >>"$results"
else
part curves 20 "$python" - "$work" <<'EOF' || correct=no
import json, sys
ENVELOPE = {"calls": 1e-4, "graphs": 1e-4, "auto": 1e-4, "tf32": 2e-3, "bf16": 1e-2}
def read(form, name):
    return open(f"{sys.argv[1]}/{form}/{name}").read()
def losses(form):
    return [r["loss"] for r in map(json.loads, read(form, "metrics.jsonl").splitlines()) if "loss" in r]
host = losses("host")
worst = {form: max(abs(a - b) / abs(b) for a, b in zip(losses(form), host, strict=True)) for form in ENVELOPE}
manifests = {form: json.loads(read(form, "manifest.json")) for form in ENVELOPE}
print(json.dumps({"intervals": len(host), "worst_relative_difference": worst, "envelope": ENVELOPE,
                  "graphs": {form: manifests[form].get("graph") for form in ("graphs", "auto")}}))
inside = len(host) > 0 and all(worst[form] < ENVELOPE[form] for form in ENVELOPE)
# The same calls one way and the other, so the same bits.
same = manifests["graphs"]["state_hash"] == manifests["auto"]["state_hash"]
sys.exit(0 if inside and same and manifests["graphs"]["graph"]["replayed"] > 0 else 1)
EOF
fi

# Speed: every operation and every call of a step beside PyTorch's, at MovieLens-1M's size (dim 64, length 200, batch 256) with the whole
# catalogue and with 128 own negatives; then whole epochs.
torch=no
"$python" -c 'import torch; assert torch.cuda.is_available()' 2>>"$log" && torch=yes
if [ $torch = yes ]; then
  part operations 150 "$python" benches/peers/operations.py --hardneg "$hardneg" --out "$out/operations.jsonl" --seconds 130 \
    --configurations "${CONFIGURATIONS:-softmax,softmax-bf16,sampled}" || true
else
  echo '{"part": "operations", "status": "missing", "said": "needs torch with CUDA"}' >>"$results"
  middle=(--set dim=64 --set max_len=200 --set batch_size=256 --set layers=2 --items 3700)
  for rounding in f32 bf16; do
    part "kernels-softmax-$rounding" 30 "$hardneg" profile --kernels --json --device "$device" --rounds 9 "${middle[@]}" \
      --set loss=softmax --set train.rounding=$rounding || true
    part "kernels-sampled-$rounding" 30 "$hardneg" profile --kernels --json --device "$device" --rounds 9 "${middle[@]}" \
      --set loss=sampled_softmax --samplers uniform,dns --negatives 128 --set train.rounding=$rounding || true
  done
  part kernels-million 60 "$hardneg" profile --kernels --json --device "$device" --rounds 5 --set dim=128 --set max_len=200 \
    --set batch_size=256 --items 1e6 --set loss=sampled_softmax --set optim.tables=lazy --samplers uniform --negatives 128 || true
fi
log_file=$data/ml-1m/ml-1m_sas.txt.gz
if [ $torch = yes ] && [ -f "$log_file" ]; then
  bf16="--layout padded --precision bf16"
  variants="--layout padded --precision tf32;$bf16 --attention flash;$bf16 --compile-mode reduce-overhead --compile-loss"
  for loss in softmax sampled; do
    [ $loss = sampled ] && variants="$variants;--layout padded --precision tf32 --sampled dense"
    part "compare-$loss" 130 "$python" benches/peers/compare.py "$log_file" --loss $loss --device cuda --epochs 2 --batch 256 \
      --negatives 128 --graph --rounds 2 --hardneg "$hardneg" --python "$python" --variants "${VARIANTS:-$variants}" || true
  done
else
  echo '{"part": "compare", "status": "missing", "said": "needs DATA and torch with CUDA"}' >>"$results"
fi
echo "{\"part\": \"verdict\", \"correct\": \"$correct\"}" >>"$results"
echo "correct: $correct"
[ "$correct" = yes ]
