#!/usr/bin/env python3
"""Times one training epoch of hardneg and of the PyTorch baseline in turn, and prints their ratio.

  benches/peers/compare.py LOG [--loss softmax|sampled] [--rounds 3] [--steps 0] [--device cuda --epochs 2]
                             [--batch 128] [--negatives 256] [--rounding f32|tf32|bf16]

Both train SASRec (dim 64, 2 blocks, 1 head, dropout 0.1, length 200) on the same log with the same order, batches and
number of negatives (uniform, each position's own, for `sampled`). --rounding is our side's; a variant says its own. The
runs alternate because machines are noisy; the ratio is that of the medians. With --steps only the first steps of an epoch
are timed on both sides. The baseline runs in every form given with --variants and the fastest counts; one that fails is
named and left out. Of several --epochs the last is timed: on a GPU the first compiles.
With --graph our side is timed call by call and a second time with steps as CUDA graphs, and the faster form counts.

Needs a built `target/release/hardneg`, and a Python with torch and numpy (PYTHON, default this one).
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent


def ours(a, graph):
    settings = ["model.max_len=200", "model.dropout=0.1", f"train.batch_size={a.batch}", f"train.rounding={a.rounding}",
                "train.eval_every=0", "eval.baselines=false"]
    settings += ["loss.kind=softmax"] if a.loss == "softmax" else [
        "loss.kind=sampled_softmax", "sampler.preset=uniform", f"sampler.negatives={a.negatives}", "sampler.exclude=target"]
    settings += [f"train.graph={graph}"] if a.device != "host" else []
    with tempfile.TemporaryDirectory() as run:
        command = [a.hardneg, "train", a.log, "--out", run, "--epochs", str(a.epochs), "--device", a.device, "--progress", "none"]
        command += ["--threads", str(a.threads)] if a.threads else []
        for s in settings:
            command += ["--set", s]
        command += ["--steps", str(a.steps)] if a.steps else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        records = [json.loads(line) for line in open(os.path.join(run, "metrics.jsonl"))]
        last = [r for r in records if "seconds" in r and r.get("rows")][-1]
        return last["seconds"], last["rows"], last.get("sampling_share", 0.0)


def theirs(a, variant):
    command = [a.python, str(HERE / "sasrec_torch.py"), a.log, "--loss", a.loss, "--epochs", str(a.epochs)]
    command += ["--batch", str(a.batch), "--negatives", str(a.negatives), *variant.split()]
    command += ["--device", "cuda"] if a.device != "host" else []
    command += ["--threads", str(a.threads)] if a.threads else []
    command += ["--steps", str(a.steps)] if a.steps else []
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    last = json.loads(out.strip().splitlines()[-1])
    return last["seconds"], last["rows"]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("log")
    p.add_argument("--loss", choices=["softmax", "sampled"], default="softmax")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=0)
    p.add_argument("--epochs", type=int, default=1)
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--negatives", type=int, default=256)
    p.add_argument("--rounding", choices=["f32", "tf32", "bf16"], default="f32")
    p.add_argument("--device", default="host", help="host or cuda")
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--variants", default="--layout packed;--layout padded")
    p.add_argument("--graph", action="store_true", help="time calls and graphs apart")
    p.add_argument("--hardneg", default=str(HERE.parent.parent / "target/release/hardneg"))
    p.add_argument("--python", default=os.environ.get("PYTHON", sys.executable))
    a = p.parse_args()
    variants = a.variants.split(";")
    forms = {"hardneg": "no", "hardneg, graphs": "yes"} if a.graph else {"hardneg": "auto"}
    seconds, rows = {name: [] for name in [*forms, *variants]}, {}
    for _ in range(a.rounds):
        for name, graph in forms.items():
            s, rows[name], share = ours(a, graph)
            seconds[name].append(s)
        for v in list(variants):
            try:
                s, rows[v] = theirs(a, v)
                seconds[v].append(s)
            except subprocess.CalledProcessError as error:
                print(json.dumps({"failed": v, "said": error.stderr.strip().splitlines()[-1:]}), flush=True)
                variants.remove(v)
                del seconds[v]
                rows.pop(v, None)
        print(json.dumps({"seconds": {k: round(v[-1], 2) for k, v in seconds.items()}, "sampling_share": share}), flush=True)
    if not variants:
        sys.exit("no variant of the baseline runs")
    if len(set(rows.values())) != 1:
        sys.exit(f"the two sides trained on different rows: {rows}")
    median = {k: statistics.median(v) for k, v in seconds.items()}
    best, form = min(variants, key=median.get), min(forms, key=median.get)
    print(json.dumps({
        "loss": a.loss, "batch": a.batch, "negatives": a.negatives if a.loss == "sampled" else None, "rounding": a.rounding,
        "rows": rows["hardneg"], "hardneg_seconds": round(median[form], 2), "hardneg_form": form,
        "seconds": {name: round(s, 3) for name, s in median.items()},
        "torch_seconds": round(median[best], 2), "torch_variant": best, "ratio_hardneg_to_torch": round(median[form] / median[best], 3),
    }))


if __name__ == "__main__":
    main()
