#!/usr/bin/env bash
# Everything that needs a GPU, in one command of nine minutes.
#
#   benches/gpu.sh OUT [DATA]
#
# OUT      folder of results: results.jsonl (one line per part: name, seconds, exit status, what it printed, and what it said of a
#          failure), operations.jsonl, log.txt; three files, whatever happens
# DATA     folder with ml-1m/ml-1m_sas.txt.gz for the comparison with PyTorch (not part of this repository)
# HARDNEG  the program (default target/release/hardneg)
# PYTHON   a Python with torch and numpy (default python3)
# DEVICE   where to run (default cuda); emulator: a trial of this script, whose times mean nothing
# VARIANTS variants of the baseline's epochs, separated by semicolons, and CONFIGURATIONS those of operations.py, separated by commas,
#          where not all can be run in the time there is
# ONLY     names of parts, separated by spaces: the others are left out, and the verdict is of these alone
#
# On a machine of its own it needs this script, benches/peers and two things beside them: a program built elsewhere, which carries its
# kernels and works without its symbols (`strip -o PROGRAM target/release/hardneg` leaves 15 MB of 105), and the log in DATA. It needs
# no cargo, no compiler and no CUDA toolkit; where libraries of CUDA are missing, `hardneg doctor` says which.
#
# Correctness comes first: what fails there makes the speed after it worthless, and the last line says so. A part whose
# tool is missing is recorded as such and the rest goes on. Every group of parts has an end, so that none takes the time of those after
# it; time that a group leaves goes to the next. benches/peers/tests.py tries this script without a GPU.
set -u
if [ $# -lt 1 ]; then
  echo "usage: benches/gpu.sh OUT [DATA]" >&2
  exit 2
fi
# As they were meant where the script was called.
out=$(realpath -m -- "$1") data=${2:+$(realpath -m -- "$2")} hardneg=${HARDNEG:+$(realpath -m -- "$HARDNEG")} python=${PYTHON:-python3}
if [[ $python == */* ]]; then python=$(realpath -ms -- "$python"); fi # where a virtual environment has it, not where it links to
cd "$(dirname "$0")/.." || exit
hardneg=${hardneg:-$PWD/target/release/hardneg} device=${DEVICE:-cuda}
if [ ! -x "$hardneg" ]; then
  echo "no program at $hardneg: build it, or name it with HARDNEG" >&2
  exit 2
fi
mkdir -p "$out" || exit
log=$out/log.txt results=$out/results.jsonl work=$(mktemp -d)
: >"$log" && : >"$results" && rm -f "$out/operations.jsonl"
trap 'rm -rf "$work"' EXIT

# Seconds until the group of parts must have ended; `until` is the second of the script at which it must.
left() {
  echo $((until - SECONDS))
}

late=75
# part NAME SECONDS COMMAND...: runs it with a time limit, at most what is left to its group, and returns its status, $late where nothing
# is left; its last line of output, JSON where it is, becomes the result. What it said of an error stays in $work/NAME.err.
part() {
  local name=$1 limit=$2 started status
  shift 2
  if [[ -n ${ONLY:-} && " $ONLY " != *" $name "* ]]; then
    echo "{\"part\": \"$name\", \"status\": \"not asked for\"}" >>"$results"
    return 0
  fi
  if [ "$(left)" -lt "$limit" ]; then limit=$(left); fi
  if [ "$limit" -lt 5 ]; then
    echo "{\"part\": \"$name\", \"status\": \"no time left\"}" >>"$results"
    echo "$name: no time left"
    return $late
  fi
  echo "== $name: $*" >>"$log"
  started=$(date +%s.%N)
  # A program that only notes the signal while it waits is ended all the same.
  timeout -k 5 "$limit" "$@" >"$work/out" 2>"$work/$name.err"
  status=$?
  cat "$work/out" "$work/$name.err" >>"$log"
  # What was said goes by a file: the table of all cases is too long for an argument.
  tail -n 1 "$work/out" >"$work/last"
  "$python" - "$name" "$status" "$started" "$work/last" "$work/$name.err" <<'EOF' >>"$results" ||
import json, sys, time
name, status, started, last, err = sys.argv[1:]
last = open(last).read().strip()
try:
    said = json.loads(last)
except ValueError:
    said = last
line = {"part": name, "status": int(status), "seconds": round(time.time() - float(started), 2), "said": said}
if line["status"]:
    line["error"] = open(err, errors="replace").read().strip()[-500:]
print(json.dumps(line))
EOF
    echo "{\"part\": \"$name\", \"status\": $status}" >>"$results"
  echo "$name: status $status"
  return "$status"
}

# sanitize NAME SECONDS TOOL ONLY: one of compute-sanitizer's tools, which must find nothing in some cases. A tool that cannot run here
# says nothing of the kernels: only the status that it was given for errors counts.
sanitize() {
  local status
  part "$1" "$2" compute-sanitizer --tool "$3" --error-exitcode 9 "$hardneg" check --device "$device" --only "$4"
  status=$?
  if [ $status = 9 ]; then
    correct=no
  elif [ $status != 0 ] && [ $status != $late ]; then
    echo "{\"part\": \"$1\", \"status\": \"unusable\"}" >>"$results"
    echo "$1: unusable"
  fi
}

correct=yes until=240
part machine 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader || true
part version 5 "$hardneg" --version
# Kernels are compiled on the way, each once: most of the time of these and of the checks where there is no cache yet.
part doctor 150 "$hardneg" doctor --json || correct=no

# One training on the plain path, and on the GPU with its steps call by call, as graphs, whichever is faster, and rounded: the losses
# lie inside the envelope that the README publishes.
steps=100
if [ "$device" = emulator ]; then steps=20; fi # one takes it a second
small=(--steps $steps --progress none --set eval.baselines=false)
part train-host 60 "$hardneg" train --out "$work/host" --device host "${small[@]}" || correct=no
for form in calls=train.graph=no graphs=train.graph=yes auto=train.graph=auto tf32=train.rounding=tf32 bf16=train.rounding=bf16; do
  part "train-${form%%=*}" 60 "$hardneg" train --out "$work/${form%%=*}" --device "$device" --set "${form#*=}" "${small[@]}" || correct=no
done
until=250 # whatever the trainings took
if ! command -v "$python" >/dev/null; then
  echo '{"part": "curves", "status": "missing", "said": "needs a Python"}' >>"$results"
elif ! part curves 20 "$python" - "$work" <<'EOF'
import json, math, sys
ENVELOPE = {"calls": 1e-4, "graphs": 1e-4, "auto": 1e-4, "tf32": 2e-3, "bf16": 1e-2}
work, losses, manifests, failed, worst = sys.argv[1], {}, {}, {}, {}
def read(name):
    with open(f"{work}/{name}", errors="replace") as file:
        return file.read()
for form in ["host", *ENVELOPE]:
    try:
        losses[form] = [r["loss"] for r in map(json.loads, read(f"{form}/metrics.jsonl").splitlines()) if "loss" in r]
        manifests[form] = json.loads(read(f"{form}/manifest.json"))
        if form != "host":
            differences = [abs(a - b) / abs(b) for a, b in zip(losses[form], losses["host"], strict=True)]
            if not differences or not all(map(math.isfinite, differences)):
                raise ValueError(f"losses that cannot be compared: {losses[form][:8]}")
            worst[form] = max(differences)
    except Exception as error:
        try:
            said = read(f"train-{form}.err").strip()[-300:]
        except OSError:
            said = ""
        failed[form] = f"{said} ({type(error).__name__}: {error})".strip()
graphs = {form: manifests.get(form, {}).get("graph") for form in ("graphs", "auto")}
print(json.dumps({"intervals": len(losses.get("host", [])), "worst_relative_difference": worst, "envelope": ENVELOPE, "failed": failed,
                  "graphs": graphs}))
inside = not failed and all(worst[form] < ENVELOPE[form] for form in ENVELOPE)
# The same calls one way and the other, so the same bits.
same = inside and manifests["graphs"]["state_hash"] == manifests["auto"]["state_hash"]
sys.exit(0 if same and graphs["graphs"] and graphs["graphs"]["replayed"] > 0 else 1)
EOF
then
  correct=no
  # The runs themselves are removed at the end.
  for file in "$work"/*/metrics.jsonl "$work"/*/manifest.json; do
    if [ -f "$file" ]; then { echo "== ${file#"$work"/}" && cat "$file" && echo; } >>"$log"; fi
  done
fi
until=240
part check 220 "$hardneg" check --device "$device" --repeat 100 --json || correct=no
until=260
if command -v compute-sanitizer >/dev/null; then
  sanitize memcheck 30 memcheck attention
  sanitize racecheck 30 racecheck layer_norm
else
  echo '{"part": "compute-sanitizer", "status": "missing"}' >>"$results"
fi

# Speed: every operation and every call of a step beside PyTorch's, at MovieLens-1M's size (dim 64, length 200, batch 256) with the whole
# catalogue and with 128 own negatives; then whole epochs.
torch=no log_file=$data/ml-1m/ml-1m_sas.txt.gz
timeout -k 5 60 "$python" -c 'import torch; assert torch.cuda.is_available()' 2>>"$log" && torch=yes
until=540
if [ $torch = yes ] && [ -f "$log_file" ]; then until=350; fi
if [ $torch = yes ]; then
  # Its summary is its last line, so it ends by itself.
  part operations 300 "$python" benches/peers/operations.py --hardneg "$hardneg" --out "$out/operations.jsonl" \
    --seconds $(($(left) < 300 ? $(left) - 10 : 290)) --compile \
    --configurations "${CONFIGURATIONS:-softmax,softmax-bf16,sampled,sampled-bf16}" || true
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
if [ $torch = yes ] && [ -f "$log_file" ]; then
  # The likely fastest first, for what there is no time for is left out. Scoring the whole catalogue is one product, where the negatives of
  # every row have to be gathered.
  for loss in sampled softmax; do
    dense="" until=540
    if [ $loss = sampled ]; then dense=" --sampled dense" until=445; fi
    variants="--layout packed --precision bf16 --attention flash$dense;--layout packed"
    variants="$variants;--layout padded --precision bf16 --compile-mode reduce-overhead --compile-loss$dense"
    variants="$variants;--layout padded --precision tf32$dense"
    part "compare-$loss" 300 "$python" benches/peers/compare.py "$log_file" --loss $loss --device cuda --epochs 6 --batch 256 \
      --negatives 128 --graph --rounds 1 --hardneg "$hardneg" --python "$python" --variants "${VARIANTS:-$variants}" \
      --limit 75 --seconds $(($(left) < 300 ? $(left) - 5 : 295)) || true
  done
else
  echo '{"part": "compare", "status": "missing", "said": "needs DATA and torch with CUDA"}' >>"$results"
fi
echo "{\"part\": \"verdict\", \"correct\": \"$correct\"}" >>"$results"
echo "correct: $correct"
[ "$correct" = yes ]
