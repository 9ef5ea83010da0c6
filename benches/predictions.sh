#!/usr/bin/env bash
# How far steps are from what `hardneg plan` says of them, its floor and its prediction: many configurations in turns, stage by stage.
#
#   benches/predictions.sh ROUNDS [SET...]
#
# Each round asks for `hardneg plan --measure` of each configuration, which measures ceilings, and then in turns the prices of the
# operations and some real steps on the built-in log. A prediction is of a machine left alone, so what it is held to is the fastest of
# the 32 steps, part by part; the median step of the same run is printed beside it, and says how much the machine was disturbed.
# Printed are milliseconds, predicted and fastest, medians over the rounds; the ratio of the steps in every round; and at the end how
# far off predictions were, in either direction. SET: further settings for all of them, e.g. model.layers=4.
set -euo pipefail
binary=${HARDNEG:-target/release/hardneg}
rounds=$1
shift
export binary rounds
exec python3 - "$@" <<'PY'
import json, os, statistics, subprocess, sys

binary, rounds = os.environ["binary"], int(os.environ["rounds"])
log = ["synthetic.events_per_user=60", "max_len=50", "eval_every=0"]
small = ["synthetic.users=1500", "synthetic.items=10000"]
large = ["synthetic.users=6000", "synthetic.items=50000"]
bce, softmax = "loss=bce", "loss=sampled_softmax"
own = [softmax, "sampler.preset=popularity"]
configurations = {
    "uniform 1, bce": [*small, bce],
    "uniform 256, sampled softmax": [*small, softmax, "sampler.negatives=256"],
    "uniform 64 a sequence, sampled softmax": [*small, softmax, "sampler.negatives=64", "sampler.scope=sequence"],
    "popularity 256, sampled softmax": [*small, *own],
    "dns 1 of 64, bce": [*small, bce, "sampler.preset=dns"],
    "genni 1 of 4096, bce": [*small, bce, "sampler.preset=genni"],
    "cans 98 and a wrong context": [*small, softmax, "sampler.preset=cans", "model.kind=cans"],
    "srns, bce": [*small, bce, "sampler.preset=srns"],
    "mixgcf, sampled softmax": [*small, softmax, "sampler.preset=mixgcf"],
    "full softmax": [*small, "loss=softmax"],
    "uniform 1, bce, dim 32": [*small, bce, "dim=32"],
    "uniform 1, bce, dim 128": [*small, bce, "dim=128"],
    "uniform 1, bce, dim 128, gelu, 2 heads": [*small, bce, "dim=128", "model.activation=gelu", "heads=2"],
    "popularity 256, dim 128": [*small, *own, "dim=128"],
    "uniform 1, bce, batch 32": [*small, bce, "batch_size=32"],
    "popularity 256, batch 512": [*small, *own, "batch_size=512"],
    "uniform 1, bce, 50,000 items": [*large, bce],
    "popularity 256, 50,000 items": [*large, *own],
}
parts = ["forward", "propose", "select", "loss", "backward", "update"]

plans = {name: [] for name in configurations}
for _ in range(rounds):
    for name, words in configurations.items():
        sets = [word for pair in [*log, *words, *sys.argv[1:]] for word in ("--set", pair)]
        out = subprocess.run([binary, "plan", "--measure", "--json", "--device", "host", *sets], check=True, capture_output=True, text=True)
        time = json.loads(out.stdout)["time"]
        of = {part["part"]: part for part in time["parts"]}
        of["step"] = {what: sum(part[what] for part in time["parts"]) for what in ("floor", "predicted", "fastest", "median")}
        plans[name].append((of, [time["ceilings"][what]["high"] for what in ("flops", "bytes")]))

flops, moved = (max(rates) for rates in zip(*(reached for of in plans.values() for _, reached in of)))
print(f"{rounds} rounds; best ceilings {flops / 1e9:.0f} GFLOP/s and {moved / 1e9:.1f} GB/s\n")
print("| Configuration | " + " | ".join([*parts, "step"]) + " | predicted / fastest | in each round | median / fastest | fastest / floor |")
print("|---" * (len(parts) + 6) + "|")
factors = {part: [] for part in [*parts, "step"]}
for name, both in plans.items():
    middle = lambda part, what: statistics.median(of[part][what] for of, _ in both)
    cells = [f"{1e3 * middle(part, 'predicted'):.2f}, {1e3 * middle(part, 'fastest'):.2f}" for part in [*parts, "step"]]
    ratios = [of["step"]["predicted"] / of["step"]["fastest"] for of, _ in both]
    floor = sum(max(both[0][0][part]["flops"] / flops, both[0][0][part]["bytes"] / moved) for part in parts)
    for part in factors:
        # A part of a fiftieth of a step cannot be wrong enough to matter.
        if middle(part, "predicted") > 0 and middle(part, "fastest") > middle("step", "fastest") / 50:
            ratio = statistics.median(of[part]["predicted"] / of[part]["fastest"] for of, _ in both)
            factors[part].append((max(ratio, 1 / ratio), ratio, name))
    disturbed = middle("step", "median") / middle("step", "fastest")
    print(f"| {name} | " + " | ".join(cells) + f" | {statistics.median(ratios):.2f} | {' '.join(f'{r:.2f}' for r in ratios)} | "
          f"{disturbed:.1f} | {middle('step', 'fastest') / floor:.1f} |")
print()
for part, of in factors.items():
    worst = max(of)
    low, high = min(r for _, r, _ in of), max(r for _, r, _ in of)
    print(f"- {part}: off by a factor of {statistics.median(f for f, _, _ in of):.2f} in the median and {worst[0]:.2f} at most "
          f"({worst[2]}); predicted / fastest {low:.2f} to {high:.2f} in {len(of)} configurations")
PY
