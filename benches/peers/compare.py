#!/usr/bin/env python3
"""Times training epochs of hardneg and of the PyTorch baseline in turn, and prints their ratio.

  benches/peers/compare.py LOG [--loss softmax|sampled] [--rounds 3] [--steps 0] [--device cuda --epochs 5]
                             [--batch 128] [--negatives 256] [--rounding f32|tf32|bf16] [--limit 600] [--seconds 0]

Both train SASRec (dim 64, 2 blocks, 1 head, dropout 0.1, length 200) on the same log with the same order, batches and
number of negatives (uniform, each position's own, for `sampled`). --rounding is our side's; a variant says its own. The
rounds alternate because machines are noisy; the ratio is that of the medians. With --steps only the first steps of an epoch
are timed on both sides. The baseline runs in every form given with --variants and the fastest counts. Of several --epochs the
median of those after the first counts: on a GPU the first compiles.
With --graph our side is timed call by call and a second time with steps as CUDA graphs, and the faster form counts.

Prints a JSON line per form as soon as its time is known, and a summary last. A form that fails, on either side, or takes more than
--limit seconds is named and left out; so is what does not fit into --seconds (0: all the time there is). The exit status is 1
where a side has no time at all or both trained on different rows.

Needs a built `target/release/hardneg`, and a Python with torch and numpy (PYTHON, default this one).
"""
import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

STARTED = time.monotonic()
HERE = pathlib.Path(__file__).parent


def said(command, limit):
    """What a command printed; raises ValueError with the reason, TimeoutExpired where it takes longer."""
    # Files, not pipes: what a killed command leaves behind may hold those open.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        status = subprocess.run(command, stdout=out, stderr=err, timeout=limit).returncode
        out.seek(0)
        err.seek(0)
        if status:
            lines = [line.strip() for line in err if line.strip(" ^~\n")]
            raise ValueError("; ".join(lines[-4:])[-400:] or f"status {status}")
        return out.read()


def epochs(records):
    """Seconds and rows of an epoch, and the seconds of all."""
    if not records:
        raise ValueError("it has written down no epoch")
    counting = records[1:] or records
    return dict(seconds=statistics.median(r["seconds"] for r in counting), rows=counting[-1]["rows"],
                epochs=[round(r["seconds"], 4) for r in records])


def ours(a, graph, limit):
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
        said(command, limit)
        with open(os.path.join(run, "metrics.jsonl")) as lines:
            records = [r for r in map(json.loads, lines) if "seconds" in r and r.get("rows")]
    return {**epochs(records), "sampling_share": records[-1].get("sampling_share", 0.0)}


def theirs(a, variant, limit):
    command = [a.python, str(HERE / "sasrec_torch.py"), a.log, "--loss", a.loss, "--epochs", str(a.epochs)]
    command += ["--batch", str(a.batch), "--negatives", str(a.negatives), *variant.split()]
    command += ["--device", "cuda"] if a.device != "host" else []
    command += ["--threads", str(a.threads)] if a.threads else []
    command += ["--steps", str(a.steps)] if a.steps else []
    return epochs([json.loads(line) for line in said(command, limit).strip().splitlines()])


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
    p.add_argument("--limit", type=float, default=600, help="seconds for a form in a round")
    p.add_argument("--seconds", type=float, default=0, help="for everything; 0: as many as it takes")
    p.add_argument("--hardneg", default=str(HERE.parent.parent / "target/release/hardneg"))
    p.add_argument("--python", default=os.environ.get("PYTHON", sys.executable))
    a = p.parse_args()
    own = {"hardneg": "no", "hardneg, graphs": "yes"} if a.graph else {"hardneg": "auto"}
    sys.exit(compare(a, own, a.variants.split(";")))


def compare(a, own, variants):
    times, rows, failed, left_out = {name: [] for name in [*own, *variants]}, {}, {}, []
    for number in range(a.rounds):
        for name in list(times):
            left = STARTED + a.seconds - time.monotonic() if a.seconds else math.inf
            if left < 5:
                left_out.append(f"{name}, round {number + 1}")
                continue
            limit = min(a.limit, left)
            try:
                one = ours(a, own[name], limit) if name in own else theirs(a, name, limit)
                print(json.dumps({"form": name, **one}), flush=True)
                times[name].append(one["seconds"])
                rows[name] = one["rows"]
            except (subprocess.TimeoutExpired, OSError, ValueError, KeyError) as error:
                late = isinstance(error, subprocess.TimeoutExpired)
                if late and limit < a.limit:
                    left_out.append(f"{name}, round {number + 1}")
                    continue
                failed[name] = f"no answer within {limit:.0f} s" if late else str(error)
                print(json.dumps({"failed": name, "said": failed[name]}), flush=True)
                del times[name]
                rows.pop(name, None)
    median = {name: statistics.median(all_) for name, all_ in times.items() if all_}
    form, best = (min((name for name in names if name in median), key=median.get, default=None) for names in (own, variants))
    result = {"loss": a.loss, "batch": a.batch, "negatives": a.negatives if a.loss == "sampled" else None, "rounding": a.rounding,
              "rows": rows.get(form), "hardneg_seconds": None, "hardneg_form": form,
              "seconds": {name: round(s, 4) for name, s in median.items()}, "torch_seconds": None, "torch_variant": best}
    if form:
        result["hardneg_seconds"] = round(median[form], 4)
    if best:
        result["torch_seconds"] = round(median[best], 4)
    alike = len(set(rows.values())) == 1
    if form and best and alike:
        result["ratio_hardneg_to_torch"] = round(median[form] / median[best], 3)
    result |= {"failed": failed, "left_out": left_out} | ({} if alike else {"rows_of_forms": rows})
    print(json.dumps(result))
    return 0 if form and best and alike else 1


if __name__ == "__main__":
    main()
