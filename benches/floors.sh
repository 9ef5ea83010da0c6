#!/usr/bin/env bash
# How far real steps are above the floor that `hardneg plan` gives: four configurations in turns, stage by stage.
#
#   benches/floors.sh ROUNDS [SET...]
#
# A round asks for the floor of each configuration and then trains it for six short epochs on the built-in log, of which the first,
# in which memory is allocated, does not count. Printed are milliseconds a step: the floor at the best ceilings of all rounds, the
# fastest epoch, and the median one. On a machine that others use, the first two are the least disturbed and the third says how much
# it was. SET: further settings for all of them, e.g. model.dim=128.
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
log = {"synthetic.users": 1500, "synthetic.items": 10000, "synthetic.events_per_user": 60, "max_len": 50, "epochs": 6, "eval_every": 0}
shared = [word for key, value in log.items() for word in ("--set", f"{key}={value}")] + sys.argv[1:]
configurations = {
    "uniform 1, bce": ["--set", "loss=bce"],
    "popularity 256, sampled softmax": ["--set", "sampler.preset=popularity", "--set", "loss=sampled_softmax"],
    "full softmax": ["--set", "loss=softmax"],
    "dns 1 of 64, bce": ["--set", "sampler.preset=dns", "--set", "loss=bce"],
}
stages = {"forward": ["forward"], "sample": ["propose", "select"], "loss": ["loss"], "backward": ["backward"], "update": ["update"]}

def run(*words):
    return subprocess.run([binary, *words, "--device", "host"], check=True, capture_output=True, text=True).stdout

plans, epochs, reached = {}, {name: [] for name in configurations}, []
for _ in range(rounds):
    for name, words in configurations.items():
        plans[name] = time = json.loads(run("plan", *words, *shared, "--json"))["time"]
        reached.append([time["ceilings"][what]["high"] for what in ("flops", "bytes")])
        with tempfile.TemporaryDirectory() as folder:
            run("train", *words, *shared, "--out", f"{folder}/run", "--quiet")
            records = [json.loads(line) for line in open(f"{folder}/run/metrics.jsonl")]
        for record in records:
            if record.get("epoch", 0) > 1 and "stage_seconds" in record:
                epochs[name].append({**record["stage_seconds"], "step": record["seconds"]})

flops, moved = (max(rates) for rates in zip(*reached))
print(f"{rounds} rounds; best ceilings {flops / 1e9:.0f} GFLOP/s and {moved / 1e9:.1f} GB/s\n")
print("| Configuration | " + " | ".join([*stages, "step", "fastest / floor", "median step"]) + " |")
print("|---" * (len(stages) + 4) + "|")
for name, time in plans.items():
    floor = {part["part"]: max(part["flops"] / flops, part["bytes"] / moved) for part in time["parts"]}
    floors = {stage: sum(floor[part] for part in parts) for stage, parts in stages.items()}
    floors["step"] = sum(floors.values())
    a_step = lambda epoch, stage: epoch[stage] / time["steps_per_epoch"]
    fastest = min(epochs[name], key=lambda epoch: epoch["step"])
    cells = [f"{1e3 * floors[stage]:.2f}, {1e3 * a_step(fastest, stage):.2f}" for stage in [*stages, "step"]]
    median = statistics.median(a_step(epoch, "step") for epoch in epochs[name])
    print(f"| {name} | " + " | ".join(cells) + f" | {a_step(fastest, 'step') / floors['step']:.1f} | {1e3 * median:.1f} |")
PY
