#!/usr/bin/env bash
# How far real steps are above the floor that `hardneg plan` gives: four configurations in turns, part by part.
#
#   benches/floors.sh ROUNDS [SET...]
#
# A round asks for the floor of each configuration and then trains it for two epochs on the built-in log; the second epoch counts, so
# nothing is allocated in it. Printed are medians over the rounds, in milliseconds a step. SET: further settings for all of them,
# e.g. model.dim=128.
set -euo pipefail
binary=${HARDNEG:-target/release/hardneg}
rounds=$1
shift
sets=()
for pair in "$@"; do sets+=(--set "$pair"); done
export binary rounds
exec python3 - "${sets[@]}" <<'PY'
import json, os, statistics, subprocess, sys, tempfile

binary, rounds = os.environ["binary"], int(os.environ["rounds"])
log = {"synthetic.users": 4000, "synthetic.items": 10000, "synthetic.events_per_user": 60, "max_len": 50, "epochs": 2, "eval_every": 0}
shared = [word for key, value in log.items() for word in ("--set", f"{key}={value}")] + sys.argv[1:]
configurations = {
    "uniform, bce": ["--set", "loss=bce"],
    "popularity 256, sampled softmax": ["--set", "sampler.preset=popularity", "--set", "negatives=256", "--set", "loss=sampled_softmax"],
    "full softmax": ["--set", "loss=softmax"],
    "dns, bce": ["--set", "sampler.preset=dns", "--set", "loss=bce"],
}
stages = {"forward": ["forward"], "sample": ["propose", "select"], "loss": ["loss"], "backward": ["backward"], "update": ["update"]}

def run(*words):
    return subprocess.run([binary, *words, "--device", "host"], check=True, capture_output=True, text=True).stdout

measured = {name: {stage: [] for stage in [*stages, "step"]} for name in configurations}
floors = {name: {stage: [] for stage in [*stages, "step"]} for name in configurations}
reached = []
for _ in range(rounds):
    for name, words in configurations.items():
        time = json.loads(run("plan", *words, *shared, "--json"))["time"]
        floor = {part["part"]: part["floor"] for part in time["parts"]}
        reached.append([time["ceilings"][what]["median"] / 1e9 for what in ("flops", "bytes")])
        with tempfile.TemporaryDirectory() as folder:
            run("train", *words, *shared, "--out", f"{folder}/run", "--quiet")
            records = [json.loads(line) for line in open(f"{folder}/run/metrics.jsonl")]
        epoch = [record for record in records if record.get("epoch") == 2 and "stage_seconds" in record][-1]
        steps = time["steps_per_epoch"]
        for stage, parts in stages.items():
            floors[name][stage].append(sum(floor[part] for part in parts))
            measured[name][stage].append(epoch["stage_seconds"][stage] / steps)
        floors[name]["step"].append(time["step_floor"])
        measured[name]["step"].append(epoch["seconds"] / steps)

flops, moved = (statistics.median(rates) for rates in zip(*reached))
print(f"{rounds} rounds; ceilings {flops:.1f} GFLOP/s ({min(r[0] for r in reached):.1f} .. {max(r[0] for r in reached):.1f}), "
      f"{moved:.1f} GB/s ({min(r[1] for r in reached):.1f} .. {max(r[1] for r in reached):.1f})\n")
print("| Configuration | " + " | ".join(f"{stage}: floor, measured" for stage in [*stages, "step"]) + " | measured / floor |")
print("|---" * (len(stages) + 3) + "|")
for name in configurations:
    pairs = [(statistics.median(floors[name][s]), statistics.median(measured[name][s])) for s in [*stages, "step"]]
    ratio = statistics.median(m / f for f, m in zip(floors[name]["step"], measured[name]["step"]))
    print(f"| {name} | " + " | ".join(f"{1e3 * f:.2f}, {1e3 * m:.2f}" for f, m in pairs) + f" | {ratio:.2f} |")
PY
