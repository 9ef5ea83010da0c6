#!/usr/bin/env python3
"""Times every operation of a training step in PyTorch beside hardneg's own kernels of the same sizes, on the same device.

  benches/peers/operations.py [--seconds 300] [--out FILE] [--compile] [--modes default,max-autotune]
  benches/peers/operations.py --device cpu --hardneg-device emulator --small        a trial without a GPU: its ratios mean nothing

Ours: one `hardneg profile --kernels --json` per configuration; its calls are put into operations, all of them, so that the
operations add up to the step's calls (what no operation claims is `other`, and named). Each call is timed between two marks of
its own within real steps; what two marks alone take is measured too (`mark_seconds`) and not taken off.

PyTorch: the operation alone, forward and backward, at the same sizes with full sequences, in many variants, of which the
fastest counts. For every variant:

  check     its results against f64 at the timed size, without dropout, and the share it drops; a wrong or failing variant is
            reported with the reason and not timed
  inputs    random, several sets that together exceed the L2 cache twice, so no call finds its inputs there
  time      median of replays of one CUDA graph of a call per set, of eight and more where they are short (`timed: graph`), so
            neither the host nor a launch of a graph counts; calls one after another between two events where a variant cannot be
            recorded (`timed: calls`)

Within a step our calls do find in the cache what the call before left there. So each variant is timed on one set over and over as
well (`repeated`), and the line has both ratios. Work that is left out on their side only favours them: sequences have no gaps,
attention takes q, k and v as tensors of their own, the optimizer clips nothing, drawing knows no history.

Precision: an f32 line is held to the fastest f32 variant and, apart, to the fastest of f32 and tf32; a bf16 or tf32 line to the
fastest of all, tensors of bf16 included (we keep activations in f32 and round operands). Of the modes of torch.compile,
`max-autotune` runs without graphs of its own, for we record it ourselves; recorded, `default` is `reduce-overhead` without its
copies of the inputs.

Prints a JSON line per operation as soon as it is known: first eager variants everywhere, then with --compile once more with the
compiled ones added, those that a compiler can fuse first, which replaces the earlier line (`compiled` says which of both it is).
The last line is a summary; what --seconds were too few for, the import of PyTorch included, is `left_out` there. PyTorch runs in
a process of its own that is started again after an error that a GPU does not recover from, or after --limit seconds without an
answer.

Needs a built `target/release/hardneg`, and a Python with torch and numpy.
"""
import argparse
import functools
import itertools
import json
import math
import multiprocessing
import pathlib
import re
import statistics
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

STARTED = time.monotonic()  # what follows takes seconds

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

HERE = pathlib.Path(__file__).parent
TOLERANCE = {"f32": 1e-4, "tf32": 1e-2, "bf16": 5e-2, "autocast": 5e-2}
MODES = {"default": "default", "reduce-overhead": "reduce-overhead", "max-autotune": "max-autotune-no-cudagraphs"}

MIDDLE = ["--items", "3700", "--set", "model.dim=64"]
MILLION = ["--items", "1e6", "--set", "model.dim=128"]
OWN = ["--set", "loss=sampled_softmax", "--samplers", "uniform", "--negatives", "128"]
# SCE fills its buckets with the best rows and items of the whole batch and catalogue for every direction: an exact top-k.
BUCKETS = ["--set", "loss=sampled_softmax", "--samplers", "sce", "--negatives", "128"]
CONFIGURATIONS = {
    "softmax": MIDDLE + ["--set", "loss=softmax"],
    "softmax-bf16": MIDDLE + ["--set", "loss=softmax", "--set", "train.rounding=bf16"],
    "sampled": MIDDLE + OWN,
    "sampled-bf16": MIDDLE + OWN + ["--set", "train.rounding=bf16"],
    "million": MILLION + OWN + ["--set", "optim.tables=lazy"],
    "topk-bf16": MILLION + BUCKETS + ["--set", "train.rounding=bf16"],
    "topk": MILLION + BUCKETS,
}
FULL = ["--set", "model.max_len=200", "--set", "train.batch_size=256", "--set", "model.layers=2"]
SMALL = ["--set", "model.max_len=16", "--set", "train.batch_size=8", "--set", "model.layers=2"]

# Which operation a call belongs to, the first that fits. `of the loss` and `of lists` depend on the configuration.
CALLS = [
    ("attention", r"attention_"),
    ("layer_norm", r"layer_norm_|residual_norm_"),
    ("products", r"product |column_sum|linear_bias"),
    ("loss", r"full_softmax_|sampled_loss|rows_round|parts_add|loss_total"),
    ("lists", r"group_|table_gradient_"),
    ("embedding", r"input_|embedding_|segments_|rows_add|rows_restore"),
    ("optimizer", r"adamw_|adagrad_|clip_|touched_"),
    ("top_k", r"topk_"),
    ("passes", r"dropout_|activation_"),
    ("drawing", r"propose|softmax_draw_|score_"),
    ("batch", r"batch_|contexts_"),
    ("copies", r"copy |fill$|rows_fill"),
]
ORDER = ["loss", "attention", "top_k", "embedding", "optimizer", "layer_norm", "passes", "norms_and_passes", "products", "drawing"]
# What a compiler can fuse comes first where it is compiled, for that takes long.
FUSED = ["norms_and_passes", "layer_norm", "passes", "embedding"]
COMPILED = FUSED + [name for name in ORDER if name not in FUSED]


# What is timed: inputs by name, bodies that compute with them, and what their results are held to.

def real(*shape, std=1.0):
    return "real", shape, std


def skewed(high, *shape):
    """Numbers below `high`, low ones more often, with density 1 / (2 sqrt(x)) as in the log of `hardneg profile`."""
    return "skewed", shape, high


def uniform(high, *shape):
    return "uniform", shape, high


def operation(spec, bodies, **more):
    """`wants`: inputs to differentiate by; `upstream`: gradients of the outputs; `by_hand`: bodies with a backward pass of their
    own; `plain`: bodies that no graph can hold; `silent`: bodies that are timed and do not count; `drops`: whether dropout has a
    part; `dropped`: inputs to replace, and the share of dropped elements and their number from the outputs then."""
    defaults = dict(wants=(), upstream=(), by_hand=(), plain=(), silent=(), wrapping=(), dropped=None, count=1, flops=0,
                    products=True, truth=next(iter(bodies.values())), check=None, prepare=None, compiles=(), autocast=False,
                    drops=False)
    return SimpleNamespace(spec=spec, bodies=bodies, **{**defaults, **more})


def attention(c):
    b, h, n, e, p = c["batch"], c["heads"], c["length"], c["dim"] // c["heads"], c["dropout"]
    shape, mask = real(b, h, n, e), []

    def exact(q, k, v, **_):
        s = (q @ k.mT / e ** 0.5).masked_fill(torch.ones(n, n, device=q.device, dtype=torch.bool).triu(1), -math.inf)
        return s.softmax(-1) @ v

    def sdpa(backend):
        def body(q, k, v, **_):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p)
        return body

    def flex(wrap):
        attend = wrap(flex_attention)

        def body(q, k, v, **_):
            if not mask:
                mask.append(create_block_mask(lambda b, h, i, j: i >= j, None, None, n, n, device=q.device))
            return attend(q, k, v, block_mask=mask[0])
        return body

    def share(out):  # of equal scores and values of 1: row i is the mean of its i + 1 factors, 0 or 1 / (1 - p)
        kept = (out[0].double()[..., 0] * torch.arange(1, n + 1, device=out[0].device)).sum().item() * (1 - p)
        pairs = b * h * n * (n + 1) / 2
        return 1 - kept / pairs, pairs

    zero, one = lambda x: torch.zeros_like(x), lambda x: torch.ones_like(x)
    bodies = {"cudnn": sdpa(SDPBackend.CUDNN_ATTENTION), "flash": sdpa(SDPBackend.FLASH_ATTENTION),
              "efficient": sdpa(SDPBackend.EFFICIENT_ATTENTION), "math": sdpa(SDPBackend.MATH), "flex, no dropout": flex}
    return operation(dict(q=shape, k=shape, v=shape, dout=shape), bodies, wants="qkv", upstream=["dout"], truth=exact, drops=True,
                     wrapping=["flex, no dropout"], compiles=["flex, no dropout"], count=c["layers"],
                     dropped=(dict(q=zero, k=zero, v=one), share), flops=7 * 2 * e * b * h * n * (n + 1) // 2)


def layer_norm(c):
    r, d = c["rows"], c["dim"]

    def whole(x, gain, bias, **_):
        return F.layer_norm(x, (d,), gain, bias)

    return operation(dict(x=real(r, d), gain=real(d), bias=real(d), dout=real(r, d)), dict(whole=whole), compiles=["whole"],
                     wants=["x", "gain", "bias"], upstream=["dout"], count=2 * c["layers"] + 1, products=False)


def active(c):
    return F.gelu if c["activation"] == "gelu" else F.relu


def passes(c):
    """Between the products of a block: two dropouts with a residual connection each, and the activation."""
    r, d, f, p, act = c["rows"], c["dim"], c["ffn"], c["dropout"], active(c)

    def whole(x, a, e, y, b, **_):
        return x + F.dropout(a, p), act(e), y + F.dropout(b, p)

    rows, wide = real(r, d), real(r, f)
    zero, one = lambda x: torch.zeros_like(x), lambda x: torch.ones_like(x)
    return operation(dict(x=rows, a=rows, e=wide, y=rows, b=rows, dx=rows, de=wide, dy=rows), dict(whole=whole), wants="xaeyb",
                     upstream=["dx", "de", "dy"], compiles=["whole"], count=c["layers"], products=False, drops=True,
                     dropped=(dict(x=zero, a=one), lambda out: ((out[0] == 0).double().mean().item(), out[0].numel())))


def norms_and_passes(c):
    """Both of the above for all blocks in a chain, as a compiler may fuse them; the products between are left out."""
    r, d, f, p, act, layers = c["rows"], c["dim"], c["ffn"], c["dropout"], active(c), c["layers"]

    def whole(x, gain, bias, **t):
        seen = []
        for i in range(layers):
            seen.append(F.layer_norm(x, (d,), gain[2 * i], bias[2 * i]))
            x = x + F.dropout(t[f"a{i}"], p)
            seen.append(F.layer_norm(x, (d,), gain[2 * i + 1], bias[2 * i + 1]))
            seen.append(act(t[f"e{i}"]))
            x = x + F.dropout(t[f"b{i}"], p)
        return *seen, F.layer_norm(x, (d,), gain[-1], bias[-1])

    spec = dict(x=real(r, d), gain=real(2 * layers + 1, d), bias=real(2 * layers + 1, d))
    for i in range(layers):
        spec.update({f"a{i}": real(r, d), f"e{i}": real(r, f), f"b{i}": real(r, d)})
    wants, upstream = list(spec), [f"d{i}" for i in range(3 * layers + 1)]
    spec.update({f"d{i}": real(r, f if i % 3 == 2 else d) for i in range(3 * layers + 1)})
    return operation(spec, dict(whole=whole), wants=wants, upstream=upstream, compiles=["whole"], products=False, drops=True)


def products(c):
    """The four linear layers of a block, biases and their gradients included."""
    r, d, f = c["rows"], c["dim"], c["ffn"]
    shapes = [(d, 3 * d), (d, d), (d, f), (f, d)]

    def whole(**t):
        return tuple(F.linear(t[f"x{i}"], t[f"w{i}"], t[f"b{i}"]) for i in range(4))

    spec = {}
    for i, (n, m) in enumerate(shapes):
        spec.update({f"x{i}": real(r, n), f"w{i}": real(m, n, std=n ** -0.5), f"b{i}": real(m)})
    wants = list(spec)
    spec.update({f"d{i}": real(r, m) for i, (_, m) in enumerate(shapes)})
    return operation(spec, dict(whole=whole), wants=wants, upstream=[f"d{i}" for i in range(4)], compiles=["whole"], autocast=True,
                     count=c["layers"], flops=3 * sum(2 * r * n * m for n, m in shapes))


def full_softmax(c):
    r, d, v = c["rows"], c["dim"], c["items"]

    def whole(h, table, y, **_):
        return F.cross_entropy(h @ table.mT, y)

    def by_hand(h, table, y, rows=r, **_):
        p = torch.log_softmax(h @ table.mT, 1)
        loss = -p.gather(1, y[:, None]).float().sum() / rows
        p = p.exp_().scatter_add_(1, y[:, None], p.new_full((len(y), 1), -1.0)).div_(rows)
        return loss, p @ table, p.mT @ h

    def in_chunks(n):
        def body(h, table, y, **_):
            parts = [by_hand(h, table, y, rows=r) for h, y in zip(h.chunk(n), y.chunk(n))]
            dtable = parts[0][2].float()
            for part in parts[1:]:
                dtable += part[2]
            return sum(part[0] for part in parts), torch.cat([part[1] for part in parts]), dtable
        return body

    bodies = {"whole": whole, "by hand": by_hand, "by hand, 8 chunks": in_chunks(8), "by hand, 32 chunks": in_chunks(32)}
    if hasattr(F, "linear_cross_entropy"):
        bodies["linear_cross_entropy"] = lambda h, table, y, **_: F.linear_cross_entropy(h, table, y)
    return operation(dict(h=real(r, d), table=real(v, d, std=0.1), y=skewed(v, r)), bodies, wants=["h", "table"], autocast=True,
                     by_hand=[name for name in bodies if "by hand" in name], compiles=["by hand", "whole", "by hand, 8 chunks"],
                     flops=6 * r * v * d)


def sampled_loss(c):
    """Softmax over the target and n own negatives a row, with the table's gradient: dense, or sorted by item and summed."""
    r, d, v, n = c["rows"], c["dim"], c["items"], c["negatives"]

    def total(s):
        return F.cross_entropy(s, s.new_zeros(len(s), dtype=torch.long))

    def gathered(look_up):
        def body(h, table, y, drawn, **_):
            ids = torch.cat([y[:, None], drawn], 1)
            return total(torch.bmm(look_up(table, ids), h[:, :, None]).squeeze(2))
        return body

    def selected(table, ids):  # its gradient adds atomically where that of an embedding sorts
        return table.index_select(0, ids.flatten()).view(*ids.shape, d)

    def multiplied(h, table, y, drawn, **_):
        return total((selected(table, torch.cat([y[:, None], drawn], 1)) * h[:, None, :]).sum(2))

    def dense(h, table, y, drawn, **_):
        return total((h @ table.mT).gather(1, torch.cat([y[:, None], drawn], 1)))

    def weights(s):
        p = torch.log_softmax(s, 1)
        loss = -p[:, 0].float().sum() / r
        p = p.exp_()
        p[:, 0] -= 1
        return loss, p.div_(r)

    def dense_by_hand(h, table, y, drawn, **_):
        ids = torch.cat([y[:, None], drawn], 1)
        s = h @ table.mT
        loss, p = weights(s.gather(1, ids))
        p = s.zero_().scatter_add_(1, ids, p)
        return loss, p @ table, p.mT @ h

    def gathered_by_hand(chunks):
        def body(h, table, y, drawn, **_):
            loss, dh, dtable = 0.0, [], torch.zeros_like(table, dtype=torch.float32)
            for h, y, drawn in zip(h.chunk(chunks), y.chunk(chunks), drawn.chunk(chunks)):
                ids = torch.cat([y[:, None], drawn], 1)
                e = selected(table, ids)
                part, p = weights(torch.bmm(e, h[:, :, None]).squeeze(2))
                loss = loss + part
                dh.append(torch.bmm(p[:, None, :], e).squeeze(1))
                dtable.index_add_(0, ids.flatten(), (p[:, :, None] * h[:, None, :]).float().view(-1, d))
            return loss, torch.cat(dh), dtable
        return body

    bodies = {"gather": gathered(lambda table, ids: F.embedding(ids, table)), "select": gathered(selected),
              "select by hand": gathered_by_hand(1), "select by hand, 8 chunks": gathered_by_hand(8), "multiply": multiplied}
    if v <= 20000:  # beyond it all scores are more work than gathered ones, and more memory than there is
        bodies = {"dense by hand": dense_by_hand, "dense": dense, **bodies}
    if c["lazy"]:
        bodies["sparse"] = gathered(lambda table, ids: F.embedding(ids, table, sparse=True))
    spec = dict(h=real(r, d), table=real(v, d, std=0.1), y=skewed(v, r), drawn=uniform(v, r, n))
    return operation(spec, bodies, wants=["h", "table"], autocast=True, plain=["sparse"], truth=gathered(selected),
                     by_hand=[name for name in bodies if "by hand" in name], flops=6 * r * (1 + n) * d,
                     compiles=[name for name in ("dense by hand", "multiply", "select by hand", "gather") if name in bodies])


def embedding(c):
    r, b, n, d, v, p = c["rows"], c["batch"], c["length"], c["dim"], c["items"], c["dropout"]
    scale = c["scale"]

    def body(look_up, place):
        def forward(table, positions, ids, ages, **_):
            return F.dropout(place(look_up(table, ids) * scale, positions, ages), p)
        return forward

    def chosen(x, positions, ages):
        return x + F.embedding(ages, positions)

    def broadcast(x, positions, ages):  # full sequences: the last row of each has age 0
        return (x.view(b, n, d) + positions.flip(0)).view(r, d)

    def select(table, ids):
        return table.index_select(0, ids)

    bodies = {"select, broadcast": body(select, broadcast), "select": body(select, chosen),
              "embedding, broadcast": body(lambda table, ids: F.embedding(ids, table), broadcast),
              "embedding": body(lambda table, ids: F.embedding(ids, table), chosen)}
    if c["lazy"]:
        bodies["sparse, broadcast"] = body(lambda table, ids: F.embedding(ids, table, sparse=True), broadcast)
    zero, one = lambda x: torch.zeros_like(x), lambda x: torch.ones_like(x)
    spec = dict(table=real(v, d, std=0.1), positions=real(n, d), ids=skewed(v, r), ages=("ages", (b, n), n), dout=real(r, d))
    return operation(spec, bodies, wants=["table", "positions"], upstream=["dout"], plain=["sparse, broadcast"],
                     compiles=["select, broadcast", "embedding, broadcast"], products=False, drops=True, truth=body(select, chosen),
                     dropped=(dict(table=one, positions=zero), lambda out: ((out[0] == 0).double().mean().item(), r * d)))


def optimizer(c):
    """AdamW of all parameters; lazily of the rows of the item table that a step touches."""
    v, n, d, f, lr, betas = c["items"], c["length"], c["dim"], c["ffn"], 1e-3, (0.9, 0.98)
    shapes = [(v, d), (n, d), (d,), (d,)]
    for _ in range(c["layers"]):
        shapes += [(d,), (d,), (3 * d, d), (3 * d,), (d, d), (d,), (d,), (d,), (f, d), (f,), (d, f), (d,)]
    lazy = c["lazy"]
    spec = {f"p{i}": real(*shape) for i, shape in enumerate(shapes)} | {f"g{i}": real(*shape) for i, shape in enumerate(shapes)}
    if lazy:
        spec |= dict(ids=skewed(v, 2 * c["rows"]), drawn=uniform(v, c["rows"] * c["negatives"]))

    def prepare(t, body):
        """The optimizers of a set; its gradients stay as they are, for ours are cleared by the optimizer itself."""
        gpu, params, t["steps"] = t["p0"].is_cuda, [], []
        for i in range(len(shapes)):
            p, g = torch.nn.Parameter(t[f"p{i}"]), t[f"g{i}"]
            t[f"p{i}"] = p
            if lazy and i == 0:
                touched = torch.cat([t["ids"], t["drawn"]]).unique()
                keep = g[touched]
                g.zero_()[touched] = keep
                if body == "sparse":
                    g = torch.sparse_coo_tensor(touched[None], keep, g.shape, is_coalesced=True)
                    t["steps"].append(torch.optim.SparseAdam([p], lr=lr, betas=betas).step)
            p.grad = g
            params.append(p)
        dense = params[1:] if body == "sparse" else params
        if "clipped" in body:
            t["steps"].append(lambda: torch.nn.utils.clip_grad_norm_(params, 1e9, foreach=True))
        options = dict(foreach=True) if "foreach" in body else dict(fused=True)
        step = torch.optim.AdamW(dense, lr=lr, betas=betas, weight_decay=0.0, capturable=gpu, **options).step
        t["steps"].append(step)

    def step(steps, **_):
        for each in steps:
            each()
        return ()

    def check(run, t):
        """Two steps with different gradients against the formulas in f64."""
        want, state = [t[f"p{i}"].detach().double() for i in range(len(shapes))], [[0.0, 0.0] for _ in shapes]
        for number in (1, 2):
            for i, moments in enumerate(state):
                p = t[f"p{i}"]
                if number == 2:
                    p.grad.mul_(-0.3)
                g = (p.grad.to_dense() if p.grad.is_sparse else p.grad).double()
                for k, x in enumerate((g, g * g)):
                    moments[k] = betas[k] * moments[k] + (1 - betas[k]) * x
                m, rest = moments[0] / (1 - betas[0] ** number), 1 - betas[1] ** number
                eps = 1e-8 / rest ** 0.5 if p.grad.is_sparse else 1e-8  # SparseAdam adds it before the correction
                want[i] -= lr * m / ((moments[1] / rest).sqrt() + eps)
            run(t)
        # Steps are small beside the parameters: it is they that must agree.
        return max(((t[f"p{i}"].detach().double() - w).abs().max() / lr).item() for i, w in enumerate(want)) / 10

    bodies = dict.fromkeys(["fused", "foreach", "fused, clipped"] + ["sparse"] * lazy, step)
    return operation(spec, bodies, by_hand=list(bodies), plain=["sparse"], silent=["fused, clipped"], prepare=prepare, check=check,
                     products=False)


def top_k(c):
    """The best items, and the best of the batch's rows, for as many directions as twice the root of the rows."""
    r, d, v, k = c["rows"], c["dim"], c["items"], c["negatives"]
    q = math.ceil(2 * r ** 0.5)
    width = min(q, r)

    def whole(queries, table, rows, **_):
        return (queries @ table.mT).topk(k, sorted=False)[1], (queries @ rows.mT).topk(width, sorted=False)[1]

    def by_queries(n):
        def body(queries, table, rows, **_):
            parts = [whole(part, table, rows) for part in queries.chunk(n)]
            return tuple(torch.cat(part) for part in zip(*parts))
        return body

    def by_items(n):
        def best(queries, table, k):
            scores, places, first = [], [], 0
            for part in table.chunk(n):
                s, i = (queries @ part.mT).topk(min(k, len(part)), sorted=False)
                scores.append(s)
                places.append(i + first)
                first += len(part)
            return torch.cat(places, 1).gather(1, torch.cat(scores, 1).topk(k, sorted=False)[1])

        def body(queries, table, rows, **_):
            return best(queries, table, k), best(queries, rows, width)
        return body

    def check(run, t):
        worst, out = 0.0, run(t)
        for chosen, table, k_ in zip(out, (t["table"], t["rows"]), (k, width)):
            s = t["queries"].double() @ table.double().mT
            if (chosen.sort(1)[0].diff(dim=1) == 0).any():
                return math.inf
            best = s.topk(k_)[0]
            worst = max(worst, ((s.gather(1, chosen).sort(1, descending=True)[0] - best).abs().max() / best.abs().max()).item())
        return worst

    bodies = {"whole": whole, "16 chunks of items": by_items(16), "4 chunks of queries": by_queries(4),
              "16 chunks of queries": by_queries(16)}
    spec = dict(queries=real(q, d), table=real(v, d, std=0.1), rows=real(r, d))
    return operation(spec, bodies, by_hand=list(bodies), check=check, compiles=["whole", "16 chunks of items"],
                     flops=2 * q * (v + r) * d)


def drawing(c):
    """Uniform negatives other than the target."""
    r, n, v = c["rows"], c["negatives"], c["items"]

    def whole(y, **_):
        drawn = torch.randint(v - 1, (r, n), device=y.device)
        return drawn + (drawn >= y[:, None])

    def check(run, t):
        drawn = run(t)
        bad = drawn.shape != (r, n) or (drawn == t["y"][:, None]).any() or drawn.min() < 0 or drawn.max() >= v
        return math.inf if bad else 0.0

    return operation(dict(y=skewed(v, r)), dict(whole=whole), by_hand=["whole"], compiles=["whole"], check=check, products=False)


BUILD = dict(attention=attention, layer_norm=layer_norm, passes=passes, norms_and_passes=norms_and_passes, products=products,
             full_softmax=full_softmax, sampled_loss=sampled_loss, embedding=embedding, optimizer=optimizer, top_k=top_k,
             drawing=drawing)


def variants(name, c, modes):
    """(body, precision, mode): eager ones, or those of the modes; what is likely fastest first."""
    o, f32 = BUILD[name](c), c["rounding"] == "f32"
    precisions = ["f32"]
    if o.products:
        precisions = ["tf32", "f32"]
    if not f32 and name not in ("optimizer", "drawing"):
        precisions = ["bf16", *precisions] + ["autocast"] * o.autocast
    if modes:
        precisions = precisions if f32 else precisions[:1]
        return [(body, precision, mode) for mode in modes for body in o.compiles for precision in precisions]
    return [(body, precision, None) for precision in precisions for body in o.bodies if body not in o.wrapping]


# The process that runs PyTorch.

def tensors(o, seed, device, precision):
    """One set of inputs."""
    generator, t = torch.Generator(device).manual_seed(seed), {}
    for name, (kind, shape, of) in o.spec.items():
        if kind == "real":
            x = torch.randn(shape, generator=generator, device=device) * of
            if precision == "bf16" or precision == "autocast" and name in o.upstream:
                x = x.bfloat16()
            t[name] = x
        elif kind == "ages":
            t[name] = torch.arange(of - 1, -1, -1, device=device).repeat(shape[0])
        else:
            u = torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
            t[name] = ((u * u if kind == "skewed" else u) * of).long().clamp_(max=of - 1)
    for name in o.wants:
        t[name].requires_grad_()
    return t


def runner(o, body, precision, mode, device):
    """A function of a set that runs a variant forward and backward."""
    def wrap(f):
        return f if mode is None else torch.compile(f, mode=MODES[mode], dynamic=False, fullgraph=True)

    forward = o.bodies[body](wrap) if body in o.wrapping else wrap(o.bodies[body])

    def run(t):
        if mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        if body in o.by_hand:
            with torch.no_grad():
                return forward(**t)
        # A cache of casts would belong to the graph that is recorded first.
        with torch.autocast(device, torch.bfloat16, enabled=precision == "autocast", cache_enabled=False):
            out = forward(**t)
        out = out if isinstance(out, tuple) else (out,)
        grads = torch.autograd.grad(out, [t[w] for w in o.wants], [t[u] for u in o.upstream] or None)
        return *out, *(g.coalesce() if g.is_sparse else g for g in grads)
    return run


def exact(o, t):
    """What all results must be, from the same inputs in f64."""
    t = {name: x.detach().double() if x.is_floating_point() else x for name, x in t.items()}
    for name in o.wants:
        t[name].requires_grad_()
    out = o.truth(**t)
    out = out if isinstance(out, tuple) else (out,)
    return *(x.detach() for x in out), *torch.autograd.grad(out, [t[w] for w in o.wants], [t[u] for u in o.upstream] or None)


def apart(got, want):
    """The largest relative distance of a result, as vectors."""
    worst = 0.0
    for x, y in zip(got, want, strict=True):
        x = (x.to_dense() if x.is_sparse else x).detach().double()
        distance = ((x - y).norm() / y.norm()).item()
        worst = max(worst, distance if math.isfinite(distance) and x.shape == y.shape else math.inf)
    return worst


TRUTHS = {}  # of the operation and precision that was asked for last


def wrong(name, c, variant, device, timed):
    """Why the variant does not count, or None. `timed` runs it as it will be timed."""
    still, (body, precision, _) = {**c, "dropout": 0.0}, variant
    o = BUILD[name](still)
    t = tensors(o, 0, device, precision)
    if o.prepare:
        o.prepare(t, body)
    run = runner(o, *variant, device) if o.drops and c["dropout"] > 0 else timed
    if o.check:
        off = o.check(run, t)
    else:
        key = (name, json.dumps(still), precision in ("bf16", "autocast") and precision)
        if key not in TRUTHS:
            TRUTHS.clear()
            TRUTHS[key] = exact(o, t)
        off = apart(run(t), TRUTHS[key])
    if not off <= TOLERANCE[precision]:
        return f"differs from f64 by {off:.2g}"
    if c["dropout"] > 0 and o.dropped and body not in o.wrapping:
        o = BUILD[name](c)
        t, (replaced, share) = tensors(o, 0, device, precision), o.dropped
        for key, value in replaced.items():
            t[key] = value(t[key].detach()).requires_grad_(key in o.wants)
        found, of = share(timed(t))
        if abs(found - c["dropout"]) > 5 * (c["dropout"] * (1 - c["dropout"]) / of) ** 0.5 + 4e-3:  # some draw 8 bits
            return f"drops a share of {found:.3g}, not {c['dropout']}"
    return None


SHORT, CALLS_AT_LEAST = 5e-3, 8  # seconds of a call, the host's included, below which a graph holds so many


@functools.cache
def side_stream():
    return torch.cuda.Stream()  # one for all, for libraries keep memory for every stream


class NotRecorded(Exception):
    pass


def measured(run, sets, device, graph, seconds):
    """Seconds of a call: median and quartiles over rounds of as many calls for every set."""
    calls = sets

    def round_():
        for t in calls:
            run(t)

    if device == "cpu":
        times = []
        while len(times) < 3 or sum(times) * len(calls) < seconds and len(times) < 100:
            started = time.perf_counter()
            round_()
            times.append((time.perf_counter() - started) / len(calls))
        return spread(times)
    # What is set up in first calls must not be timed: by libraries and compilers, which keep it for a stream, and by optimizers,
    # for every set. The second time shows whether calls are so short that the launch of a graph would count in a few.
    stream = side_stream() if graph else torch.cuda.current_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        round_()
        torch.cuda.synchronize()
        started = time.perf_counter()
        round_()
        torch.cuda.synchronize()
    torch.cuda.current_stream().wait_stream(stream)
    if (time.perf_counter() - started) / len(sets) < SHORT:
        calls = sets * -(-CALLS_AT_LEAST // len(sets))
    go = round_
    if graph:
        recorded = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(recorded, stream=stream):
                round_()
        except Exception as error:
            raise NotRecorded(reason(error)) from error
        go = recorded.replay

    def once():
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        marks[0].record()
        go()
        marks[1].record()
        return marks

    for _ in range(3):
        go()
    marks = once()
    torch.cuda.synchronize()
    rounds = max(7, min(200, int(seconds * 1e3 / max(marks[0].elapsed_time(marks[1]), 1e-3))))
    all_ = [once() for _ in range(rounds)]
    torch.cuda.synchronize()
    return spread([a.elapsed_time(b) / 1e3 / len(calls) for a, b in all_])


def spread(times):
    low, middle, high = statistics.quantiles(times, n=4)
    return dict(seconds=middle, low=low, high=high)


def reason(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def timed(task, device):
    """Checks and times a variant."""
    name, c, (body, precision, mode) = task["operation"], task["case"], task["variant"]
    torch._dynamo.reset()
    torch.backends.cuda.matmul.allow_tf32 = precision != "f32"
    o = BUILD[name](c)
    run = runner(o, body, precision, mode, device)
    if why := wrong(name, c, (body, precision, mode), device, run):
        return dict(failed=why)
    sets, gpu = [], device != "cpu"
    cache = 2 * torch.cuda.get_device_properties(0).L2_cache_size if gpu else 0
    held = 0
    while len(sets) < 2 or held < cache and len(sets) < 32:
        t = tensors(o, len(sets), device, precision)
        if o.prepare:
            o.prepare(t, body)
        held += sum(x.numel() * x.element_size() for x in t.values() if torch.is_tensor(x))
        sets.append(t)
    run(sets[0])
    peak = None
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(sets[0])
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
    for _ in range(3 if mode else 0):
        run(sets[-1])
    graph = gpu and task["graph"] and mode != "reduce-overhead" and body not in o.plain
    result = measured(run, sets, device, graph, task["seconds"])
    repeated = measured(run, sets[:1] * len(sets), device, graph, task["seconds"] / 2)
    return dict(**result, repeated=repeated["seconds"], timed="graph" if graph else "calls", sets=len(sets), peak_bytes=peak)


def machine(device):
    """What the libraries' own product and copy reach here, and what two marks with nothing between them take."""
    def fastest(precision, n):
        torch.backends.cuda.matmul.allow_tf32 = precision != "f32"
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        sets = [tuple(torch.randn(n, n, device=device).to(kind) for _ in range(2)) for _ in range(3)]
        return 2 * n ** 3 / measured(lambda s: s[0] @ s[1], sets, device, gpu, 0.2)["seconds"]

    gpu = device != "cpu"
    n = 1 << 28 if gpu else 1 << 22
    x, y = (torch.randn(n, device=device) for _ in range(2))
    copied = measured(lambda s: s[0].copy_(s[1]), [(x, y), (y, x)], device, gpu, 0.2)["seconds"]
    product = {p: fastest(p, size if gpu else 512) for p, size in (("f32", 4096), ("tf32", 8192), ("bf16", 8192))}
    facts = dict(torch=torch.__version__, device=torch.cuda.get_device_name(0) if gpu else "cpu",
                 copy_bytes_per_second=8 * n / copied, product_flops_per_second=product)
    if gpu:
        facts["mark_seconds"] = mark_seconds()
    return facts


def mark_seconds(marks=401, cycles=10 ** 8):
    """What lies between two marks with nothing between them, or None where the device waited for the host."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(marks)]
    for event in events:  # an event is made when it is first recorded
        event.record()
    torch.cuda.synchronize()
    # With work ahead all marks are there before the device comes to them: else it is the host's pace that is measured.
    torch.cuda._sleep(cycles)
    for event in events:
        event.record()
    ahead = not events[0].query()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) / 1e3 for a, b in zip(events, events[1:])) if ahead else None


def work(pipe, device):
    """Answers tasks until there are no more; ends after an error that may have broken the device or its recording."""
    while (task := pipe.recv()) is not None:
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                answer = machine(device) if task["operation"] == "machine" else timed(task, device)
        except NotRecorded as error:
            return pipe.send(dict(not_recorded=str(error)))
        except Exception as error:
            # Why a backend is not available comes as warnings.
            why = [str(w.message).split(" (Triggered")[0].splitlines()[0][:160] for w in said if task["operation"] == "attention"]
            answer = dict(failed="; ".join([reason(error), *dict.fromkeys(why)][:6]))
        if device != "cpu":
            try:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
                torch.rand(1, device=device).item()
            except Exception as error:
                return pipe.send({**answer, "ended": reason(error)})
        pipe.send(answer)


class Worker:
    """The process, started when there is something to do."""

    def __init__(self, device):
        self.device, self.process = device, None

    def ask(self, task, limit, ends, until=None):
        """The answer, within `limit` seconds (or before `until`) and before `ends`, after which the task is left out and has not failed."""
        until = until or min(time.monotonic() + limit, ends)
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=work, args=(theirs, self.device))
            self.process.start()
            theirs.close()
        try:
            self.pipe.send(task)
            if not self.pipe.poll(max(0, until - time.monotonic())):
                self.end()
                return dict(failed="no time left", left_out=True) if until == ends else dict(failed=f"no answer within {limit:.0f} s")
            answer = self.pipe.recv()
        except (EOFError, OSError) as error:
            self.end()
            return dict(failed=f"the process ended: {reason(error)}")
        if "not_recorded" in answer:
            self.end()
            if not task["graph"]:
                return dict(failed=answer["not_recorded"])
            return {**self.ask({**task, "graph": False}, limit, ends, until), **answer}
        if "ended" in answer:
            self.end()
        return answer

    def end(self):
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


# Our side, and what is printed.

def profile(a, configuration, limit):
    """What `hardneg profile --kernels` says of a configuration; raises ValueError with the reason where it says nothing."""
    arguments = CONFIGURATIONS[configuration] + (SMALL if a.small else FULL)
    if a.small:
        small = {"3700": "300", "1e6": "2000", "128": "8", "model.dim=64": "model.dim=32", "model.dim=128": "model.dim=32"}
        arguments = [small.get(word, word) for word in arguments]
    # Filling buckets is for the most part the host's work, of seconds a step.
    rounds = 1 if a.small else min(a.rounds, 3) if "sce" in arguments else a.rounds
    command = [a.hardneg, "profile", "--kernels", "--json", "--device", a.hardneg_device, "--rounds", str(rounds), "--warmup", "1"]
    try:
        done = subprocess.run(command + arguments, capture_output=True, text=True, timeout=limit)
        if done.returncode:
            raise ValueError(" ".join((done.stderr or done.stdout).split())[:400] or f"status {done.returncode}")
        return json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(reason(error)) from error


def case_of(said):
    """The sizes both sides share."""
    line, settings = said["lines"][0], said["settings"]
    model, joined = settings["model"], line["sampler"] is not None
    return dict(rows=line["rows"], items=line["items"], negatives=line["negatives"] or 0, batch=settings["batch_size"],
                length=model["max_len"], dim=model["dim"], heads=model["heads"], layers=model["layers"],
                ffn=model["dim"] * model["ffn_mult"], dropout=model["dropout"], activation=model["activation"],
                scale=model["dim"] ** 0.5 if model["scale_embeddings"] else 1.0, rounding=settings["rounding"],
                loss="sampled_loss" if joined else "full_softmax",
                lazy=any(kind["call"].startswith("touched_") for kind in line["kinds"]))


def grouped(kinds, c):
    """The calls of every operation. Lists sorted by item are of the loss where it samples, else of the embedding."""
    groups = {}
    for kind in kinds:
        name = next((name for name, pattern in CALLS if re.match(pattern, kind["call"])), "other")
        if name == "lists":
            name = "loss" if c["loss"] == "sampled_loss" else "embedding"
        groups.setdefault(name, []).append(kind)
    assert sum(len(group) for group in groups.values()) == len(kinds)
    whole, parts = math.fsum(median(kind) for kind in kinds), math.fsum(math.fsum(map(median, group)) for group in groups.values())
    assert math.isclose(whole, parts, rel_tol=1e-9), (whole, parts)
    return groups


def median(kind):
    return kind["seconds"]["median"]


def ours(group, flops, facts, rounding):
    seconds, moved = math.fsum(map(median, group)), sum(kind["bytes"] for kind in group)
    floor = math.fsum(kind["floor"] for kind in group)
    result = dict(seconds=seconds, low=math.fsum(kind["seconds"]["low"] for kind in group),
                  high=math.fsum(kind["seconds"]["high"] for kind in group), calls=sum(kind["count"] for kind in group),
                  bytes=moved, bytes_at_most=any(kind["at_most"] for kind in group), floor=floor, of_floor=ratio(floor, seconds),
                  gb_per_second=ratio(moved / 1e9, seconds), kinds={kind["call"]: median(kind) for kind in group})
    if facts and moved:
        result["of_copy"] = ratio(moved / seconds if seconds else 0, facts["copy_bytes_per_second"])
    return {**result, **rates(flops, seconds, facts, rounding)}


def rates(flops, seconds, facts, precision):
    if not flops or not seconds:
        return {}
    of = facts and facts["product_flops_per_second"].get("bf16" if precision == "autocast" else precision)
    return dict(gflop_per_second=flops / seconds / 1e9, of_product=ratio(flops / seconds, of))


def ratio(a, b):
    return float(f"{a / b:.4g}") if b else None


def line_of(configuration, name, group, c, tried, facts, a):
    """The line of an operation: our calls, the fastest of theirs, and every variant that was tried."""
    built = c["loss"] if name == "loss" else name
    o = BUILD[built](c) if built in BUILD else None
    count, flops = (o.count, o.flops * o.count) if o else (1, 0)
    flops = flops or sum(kind["flops"] for kind in group)
    mine = ours(group, flops, facts, c["rounding"])
    times = [{**v, **{key: v[key] * count for key in ("seconds", "low", "high", "repeated")}} for v in tried if "seconds" in v]
    counting = [v for v in times if v["body"] not in o.silent] if o else []
    pick = lambda among: min(among, key=lambda v: v["seconds"], default=None)
    same = [v for v in counting if v["precision"] == "f32" or c["rounding"] != "f32"]
    alike = pick(same)
    line = dict(configuration=configuration, operation=built, comparable=a.comparable and c["rows"] == c["batch"] * c["length"],
                rounding=c["rounding"], flops=flops, hardneg=mine, torch=None)
    if alike:
        seconds = alike["seconds"]
        line["torch"] = {**alike, "of_floor": ratio(mine["floor"], seconds), **rates(flops, seconds, facts, alike["precision"])}
        line["ratio_hardneg_to_torch"] = ratio(mine["seconds"], alike["seconds"])
        line["ratio_repeated"] = ratio(mine["seconds"], min(v["repeated"] for v in same))
        if c["rounding"] == "f32" and any(v["precision"] == "tf32" for v in counting):
            line["ratio_to_tf32"] = ratio(mine["seconds"], pick(counting)["seconds"])
    line["variants"] = [dict(variant=v["variant"], seconds=v["seconds"], repeated=v["repeated"], timed=v["timed"],
                             peak_bytes=v["peak_bytes"]) for v in times]
    line["compiled"] = any(v["compiled"] for v in tried)
    line["failed"] = {v["variant"]: v["failed"] for v in tried if "failed" in v}
    if name == "other":
        line["named"] = sorted(kind["call"] for kind in group)
    return line


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="of PyTorch")
    p.add_argument("--hardneg-device", choices=["cuda", "emulator"], help="default: cuda, or emulator beside a cpu")
    p.add_argument("--small", action="store_true", help="sizes for the emulator")
    p.add_argument("--seconds", type=float, default=300, help="for everything; what does not fit is named in the summary")
    p.add_argument("--limit", type=float, default=60, help="seconds for a variant, its compilation included")
    p.add_argument("--rounds", type=int, default=9, help="of hardneg's profile")
    p.add_argument("--each", type=float, default=0.15, help="seconds of measuring a variant")
    p.add_argument("--configurations", default=",".join(CONFIGURATIONS))
    p.add_argument("--operations", default=",".join(ORDER), help="those to time in PyTorch")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--modes", default="default", help="of torch.compile: " + ", ".join(MODES))
    p.add_argument("--out", help="file to append the lines to")
    p.add_argument("--hardneg", default=str(HERE.parent.parent / "target/release/hardneg"))
    a = p.parse_args()
    a.hardneg_device = a.hardneg_device or ("emulator" if a.device == "cpu" else "cuda")
    a.comparable = a.device == a.hardneg_device == "cuda" and not a.small
    for key, choices in (("modes", MODES), ("configurations", CONFIGURATIONS), ("operations", ORDER)):
        words = getattr(a, key).split(",")
        setattr(a, key, words)
        for word in set(words) - set(choices):
            p.error(f"`{word}` is none of {', '.join(choices)}")
    worker = Worker(a.device)
    try:
        return compare(a, worker)
    finally:
        worker.end()


def compare(a, worker):
    ends, left_out, known, lines = STARTED + a.seconds, [], {}, {}

    def say(line):
        text = json.dumps(line)
        print(text, flush=True)
        if a.out:
            with open(a.out, "a") as file:
                file.write(text + "\n")

    def left():
        return ends - time.monotonic()

    def try_all(name, c, modes):
        """The variants of an operation, each once in this call for equal sizes."""
        tried = []
        drawn = name in ("sampled_loss", "top_k", "drawing") or name == "optimizer" and c["lazy"]
        sizes = json.dumps({**c, "rounding": None, "loss": None, "negatives": c["negatives"] if drawn else 0})
        for variant in variants(name, c, modes):
            body, precision, mode = variant
            key = (name, variant, sizes)
            label = f"{body}, {precision}" + (f", compiled ({mode})" if mode else "")
            if key not in known:
                task = dict(operation=name, case=c, variant=variant, graph=True, seconds=a.each)
                answer = worker.ask(task, a.limit, ends) if left() >= 2 else dict(left_out=True)
                if "left_out" in answer:
                    left_out.append(f"{name}: {label}")
                    continue
                known[key] = answer
            tried.append({"variant": label, "body": body, "precision": precision, "compiled": mode is not None, **known[key]})
        return tried

    facts = worker.ask(dict(operation="machine", graph=True), a.limit, ends)
    say({"machine": facts})
    facts = None if "failed" in facts else facts
    found, tried = {}, {}

    def find(configuration):
        """Our side of a configuration: what the program said, its sizes, and the calls of every operation."""
        try:
            if left() < 5:
                raise ValueError("no time left")
            said = profile(a, configuration, min(3 * a.limit, left()))
            c = case_of(said)
            groups = grouped(said["lines"][0]["kinds"], c)
            groups["norms_and_passes"] = groups.get("layer_norm", []) + groups.get("passes", [])
            found[configuration] = (said, c, groups)
        except ValueError as error:
            left_out.append(f"{configuration}: {error}")
            say({"configuration": configuration, "failed": str(error)})

    def line(configuration, name, modes):
        """The line of an operation, once more where compiled variants are new."""
        said, c, groups = found[configuration]
        here = name in a.operations and (not configuration.startswith("topk") or name == "top_k")
        here &= name != "drawing" or said["lines"][0]["sampler"] == "uniform"
        new = try_all(c["loss"] if name == "loss" else name, c, modes) if here else []
        if new or not modes:
            tried[configuration, name] = tried.get((configuration, name), []) + new
            lines[configuration, name] = line_of(configuration, name, groups[name], c, tried[configuration, name], facts, a)
            say(lines[configuration, name])

    for configuration in a.configurations:
        find(configuration)
        if configuration in found:
            groups = found[configuration][2]
            for name in [name for name in ORDER if groups.get(name)] + sorted(set(groups) - set(ORDER)):
                line(configuration, name, [])
    for name, configuration in itertools.product(COMPILED, found) if a.compile else []:
        if found[configuration][2].get(name):
            line(configuration, name, a.modes)

    summary = {}
    for configuration, (said, c, _) in found.items():
        of = {name: line for (where, name), line in lines.items() if where == configuration}
        single = {name: line for name, line in of.items() if name != "norms_and_passes"}
        held = [line for line in single.values() if line["torch"]]
        step = said["lines"][0]
        calls = math.fsum(median(kind) for kind in step["kinds"])
        in_lines = math.fsum(line["hardneg"]["seconds"] for line in single.values())
        assert math.isclose(calls, in_lines, rel_tol=1e-9), (calls, in_lines)
        both = [math.fsum(line[side]["seconds"] for line in held) for side in ("hardneg", "torch")]
        summary[configuration] = dict(
            rows=c["rows"], items=c["items"], step_seconds=step["step"]["median"], calls_seconds=calls, calls=step["count"],
            compared_seconds=both[0], torch_seconds=both[1], ratio_of_compared=ratio(*both),
            ratios={line["operation"]: line["ratio_hardneg_to_torch"] for line in of.values() if line["torch"]},
            to_tf32={line["operation"]: line["ratio_to_tf32"] for line in of.values() if "ratio_to_tf32" in line},
            fastest={line["operation"]: line["torch"]["variant"] for line in of.values() if line["torch"]},
            alone={line["operation"]: line["hardneg"]["seconds"] for line in single.values() if not line["torch"]})
    failed = sorted({f"{line['operation']}: {variant}" for line in lines.values() for variant in line["failed"]})
    say(dict(comparable=a.comparable, machine=facts, configurations=summary, failed=failed, left_out=left_out,
             seconds=round(a.seconds - left(), 1)))
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
