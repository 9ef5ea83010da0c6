#!/usr/bin/env python3
"""SASRec in PyTorch, the baseline that hardneg is timed and checked against, on a CPU or a GPU.

Same model, data order, loss and number of negatives as `hardneg train`; every choice that makes PyTorch faster was taken
and can be switched, so that the best of them is the baseline:

  --layout packed   linear layers and norms on the packed rows, padding only around attention  (or: padded)
  --sampled gather  gathers (rows, N, D) of negatives; dense: scores all items and picks        (both exact)
  --compile         torch.compile of the model; --compile-loss of the loss; --compile-mode reduce-overhead and max-autotune run
                    the model as CUDA graphs, for which every batch is padded to the same shape
  --attention flash one of the implementations of attention: flash, efficient, cudnn, math, or flex (without dropout), compiled
  --device cuda     batches prepared ahead and sent from pinned memory, no synchronisation within the timed steps
  --precision       f32, tf32 (products on tensor cores) or bf16 (autocast)

Needs: pip install torch numpy.   Reads "user item" text in time order, plain or gzip.
Prints one JSON line per epoch: seconds, rows, mean loss.
"""
import argparse
import contextlib
import functools
import gzip
import json
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
            "math": SDPBackend.MATH}
M0, M1, W0, W1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85


def philox(seed, stream, lane, step, index):
    """Words of hardneg's generator for an array of indexes: (n, 4) uint64 holding 32-bit words."""
    mask = np.uint64(0xFFFFFFFF)
    index = np.asarray(index, dtype=np.uint64)
    c = [index & mask, index >> np.uint64(32), np.full_like(index, step & 0xFFFFFFFF),
         np.full_like(index, (stream << 24) | (lane << 16) | (step >> 32))]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = np.uint64(M0) * c[0], np.uint64(M1) * c[2]
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), p1 & mask, (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), p0 & mask]
        k0, k1 = (k0 + W0) & 0xFFFFFFFF, (k1 + W1) & 0xFFFFFFFF
    return np.stack(c, axis=-1)


def epoch_order(seed, epoch, n):
    """The keyed bijection of 0..n of src/data/order.rs."""
    half = max(1, (((n - 1).bit_length()) + 1) // 2)
    mask = np.uint64((1 << half) - 1)

    def permute(code):
        left, right = code >> np.uint64(half), code & mask
        for r in range(6):
            left, right = right, left ^ (philox(seed, 2, r, epoch, right)[:, 0] & mask)
        return (left << np.uint64(half)) | right

    code = permute(np.arange(n, dtype=np.uint64))
    while (code >= n).any():
        out = code >= n
        code[out] = permute(code[out])
    return code.astype(np.int64)


def read(path):
    """Sequences of dense item numbers, users in order of first appearance, items by descending frequency."""
    opened = gzip.open(path, "rt") if path.endswith(".gz") else open(path)
    users, names = {}, {}
    with opened as lines:
        for line in lines:
            user, item = line.split()[:2]
            users.setdefault(user, []).append(names.setdefault(item, len(names)))
    count = np.zeros(len(names), dtype=np.int64)
    for items in users.values():
        np.add.at(count, items, 1)
    rank = np.empty(len(names), dtype=np.int64)
    rank[np.argsort(-count, kind="stable")] = np.arange(len(names))
    return [rank[np.array(items)] for items in users.values()], len(names)


class Block(torch.nn.Module):
    def __init__(self, d, heads, p, flex):
        super().__init__()
        self.heads, self.p, self.flex = heads, p, flex
        self.norm1, self.norm2 = torch.nn.LayerNorm(d), torch.nn.LayerNorm(d)
        self.qkv, self.project = torch.nn.Linear(d, 3 * d), torch.nn.Linear(d, d)
        self.expand, self.contract = torch.nn.Linear(d, d), torch.nn.Linear(d, d)

    def forward(self, x, pad, unpad):
        d = x.shape[-1]
        qkv = pad(self.qkv(self.norm1(x)))  # (B, L, 3D)
        q, k, v = (t.view(*t.shape[:2], self.heads, -1).transpose(1, 2) for t in qkv.split(d, dim=-1))
        if self.flex:
            a = self.flex(q, k, v)
        else:
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.p if self.training else 0.0)
        a = unpad(a.transpose(1, 2).reshape(qkv.shape[0], qkv.shape[1], d))
        x = x + F.dropout(self.project(a), self.p, self.training)
        h = self.contract(F.relu(self.expand(self.norm2(x))))
        return x + F.dropout(h, self.p, self.training)


class SASRec(torch.nn.Module):
    """Pre-norm, learned positions counted back from the last event, tied output table, as `model.kind = "sasrec"`."""

    def __init__(self, items, d, layers, heads, length, p, flex=None):
        super().__init__()
        self.items, self.positions = torch.nn.Embedding(items, d), torch.nn.Embedding(length, d)
        torch.nn.init.normal_(self.items.weight, std=0.02)
        torch.nn.init.normal_(self.positions.weight, std=0.02)
        self.blocks = torch.nn.ModuleList(Block(d, heads, p, flex) for _ in range(layers))
        for block in self.blocks:
            for layer in (block.qkv, block.project, block.expand, block.contract):
                torch.nn.init.normal_(layer.weight, std=0.02)
                torch.nn.init.zeros_(layer.bias)
        self.norm, self.p, self.scale = torch.nn.LayerNorm(d), p, d ** 0.5

    def forward(self, items, ages, pad, unpad):
        x = self.items(items) * self.scale + self.positions(ages)
        x = F.dropout(x, self.p, self.training)
        for block in self.blocks:
            x = block(x, pad, unpad)
        return self.norm(x)


def load(model, path):
    """Copies the weights of a hardneg checkpoint, to compare losses step by step."""
    with open(path, "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        blob = f.read()

    def tensor(name):
        at = header[name]
        a, b = at["data_offsets"]
        return torch.from_numpy(np.frombuffer(blob[a:b], dtype=np.float32).reshape(at["shape"]).copy())

    def linear(layer, name):
        layer.weight.data.copy_(tensor(name + ".weight").T)
        layer.bias.data.copy_(tensor(name + ".bias"))

    def norm(layer, name):
        layer.weight.data.copy_(tensor(name + ".gain"))
        layer.bias.data.copy_(tensor(name + ".bias"))

    prefix = "model." if any(k.startswith("model.") for k in header) else ""
    model.items.weight.data.copy_(tensor(prefix + "items"))
    model.positions.weight.data.copy_(tensor(prefix + "positions"))
    for i, block in enumerate(model.blocks):
        b = f"{prefix}block{i}."
        norm(block.norm1, b + "norm1")
        norm(block.norm2, b + "norm2")
        linear(block.qkv, b + "attention.qkv")
        linear(block.project, b + "attention.project")
        linear(block.expand, b + "feed_forward.expand")
        linear(block.contract, b + "feed_forward.contract")
    norm(model.norm, prefix + "norm")


def sampled_loss(h, targets, table, chunk, n, how):
    """Softmax over the target and n uniform negatives per row, summed over rows; in chunks so that a CPU's cache holds them."""
    items, total = table.shape[0], 0.0
    for h, y in zip(h.split(chunk), targets.split(chunk)):
        negatives = torch.randint(items - 1, (len(y), n), device=y.device)
        negatives += negatives >= y[:, None]  # uniform over all items but the target
        if how == "dense":
            scores = (h @ table.T).gather(1, torch.cat([y[:, None], negatives], 1))
        else:
            candidates = F.embedding(torch.cat([y[:, None], negatives], 1), table)  # (chunk, 1+n, D)
            scores = torch.bmm(candidates, h[:, :, None]).squeeze(2)
        total = total + F.cross_entropy(scores, torch.zeros_like(y), reduction="sum")
    return total


def full_loss(h, targets, table, chunk):
    total = 0.0
    for h, y in zip(h.split(chunk), targets.split(chunk)):
        total = total + F.cross_entropy(h @ table.T, y, reduction="sum")
    return total


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("log")
    p.add_argument("--loss", choices=["softmax", "sampled"], default="softmax")
    p.add_argument("--negatives", type=int, default=256)
    p.add_argument("--sampled", choices=["gather", "dense"], default="gather")
    p.add_argument("--layout", choices=["packed", "padded"], default="packed")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--compile-mode", choices=["default", "reduce-overhead", "max-autotune"], help="implies --compile")
    p.add_argument("--compile-loss", action="store_true")
    p.add_argument("--attention", choices=["auto", *BACKENDS, "flex"], default="auto")
    p.add_argument("--epochs", type=int, default=2)
    p.add_argument("--steps", type=int, default=0, help="stop after so many steps")
    p.add_argument("--losses", action="store_true", help="print the loss of every step")
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--length", type=int, default=200)
    p.add_argument("--dim", type=int, default=64)
    p.add_argument("--layers", type=int, default=2)
    p.add_argument("--heads", type=int, default=1)
    p.add_argument("--dropout", type=float, default=0.1)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--seed", type=int, default=42)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--device", default="cpu")
    p.add_argument("--precision", choices=["f32", "tf32", "bf16"], default="f32")
    p.add_argument("--warmup", type=int, default=0, help="steps before the clock starts")
    p.add_argument("--init", help="weights of a hardneg checkpoint (model.safetensors)")
    a = p.parse_args()
    a.compile |= a.compile_mode is not None
    graphs = a.compile_mode in ("reduce-overhead", "max-autotune")
    if a.attention == "flex" and a.dropout > 0:
        p.error("--attention flex has no dropout: add --dropout 0")
    if (graphs or a.compile and a.attention == "flex") and a.layout != "padded":
        p.error("compiled for fixed shapes it needs --layout padded: packed rows differ in number from batch to batch")
    with sdpa_kernel(BACKENDS[a.attention]) if a.attention in BACKENDS else contextlib.nullcontext():
        train(a, graphs)


def train(a, graphs):
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    device = torch.device(a.device)
    gpu = device.type == "cuda"
    if a.precision != "f32":
        torch.backends.cuda.matmul.allow_tf32 = True
    sequences, items = read(a.log)
    # Leave-one-out: the last two events of everybody are held out; a sequence needs two training events.
    sequences = [s[:-2] if len(s) >= 3 else s for s in sequences]
    sequences = [s[-(a.length + 1):] for s in sequences if len(s) >= 2]
    flex = None
    if a.attention == "flex":
        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, a.length, a.length, device=device)
        # A compiler of the whole model takes it along.
        attend = flex_attention if a.compile else torch.compile(flex_attention, dynamic=False)
        flex = functools.partial(attend, block_mask=mask)
    model = SASRec(items, a.dim, a.layers, a.heads, a.length, a.dropout, flex)
    if a.init:
        load(model, a.init)
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=a.lr, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.0, fused=True)
    run = torch.compile(model, mode=a.compile_mode, dynamic=not (graphs or flex)) if a.compile else model
    loss_of = full_loss if a.loss == "softmax" else sampled_loss
    loss_of = torch.compile(loss_of, dynamic=True) if a.compile_loss else loss_of

    def batch(indexes):
        chosen = [sequences[i] for i in indexes]
        lengths = torch.tensor([len(s) - 1 for s in chosen])
        x = torch.from_numpy(np.concatenate([s[:-1] for s in chosen]))
        y = torch.from_numpy(np.concatenate([s[1:] for s in chosen]))
        length = a.length if graphs or flex else int(lengths.max())
        count = a.batch if graphs else len(chosen)
        valid = torch.zeros(count, length, dtype=torch.bool)
        valid[:len(chosen)] = torch.arange(length)[None, :] < lengths[:, None]
        ages = torch.repeat_interleave(lengths, lengths) - 1 - torch.cat([torch.arange(n) for n in lengths])
        # Places of the rows in the padded matrix: a mask would have to be counted, for which a GPU is waited for.
        places = send(valid.flatten().nonzero().squeeze(1))

        def unpad(t):
            return t.flatten(0, 1).index_select(0, places)

        if a.layout == "packed":
            def pad(t):
                return t.new_zeros(count * length, t.shape[-1]).index_copy(0, places, t).view(count, length, -1)
            return send(x), send(y), send(ages), pad, unpad, same
        xs, age = torch.zeros(count, length, dtype=torch.long), torch.zeros(count, length, dtype=torch.long)
        xs[valid], age[valid] = x, ages
        return send(xs), send(y), send(age), same, same, unpad

    def same(t):
        return t

    def send(t):
        return t.pin_memory().to(device, non_blocking=True) if gpu else t

    def wait():
        if gpu:
            torch.cuda.synchronize()

    step = 0
    chunk = 1 << 30 if gpu else 4096 if a.loss == "sampled" else 2048
    for epoch in range(a.epochs):
        order = epoch_order(a.seed, epoch, len(sequences))
        firsts = list(range(0, len(order), a.batch))[: a.warmup + a.steps if a.steps else None]
        # A GPU must not wait for Python to gather: its batches are ready before the clock starts.
        ready = [batch(order[first:first + a.batch]) for first in firsts] if gpu else None
        started, rows, total = time.perf_counter(), 0, torch.zeros((), device=device)
        for number, first in enumerate(firsts):
            if number == a.warmup:
                wait()
                started, rows, total = time.perf_counter(), 0, torch.zeros((), device=device)
            x, y, ages, pad, unpad, valid = ready[number] if gpu else batch(order[first:first + a.batch])
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=a.precision == "bf16"):
                if graphs:
                    torch.compiler.cudagraph_mark_step_begin()
                h = valid(run(x, ages, pad, unpad))
                more = () if a.loss == "softmax" else (a.negatives, a.sampled)
                loss = loss_of(h, y, model.items.weight, chunk, *more)
            loss = loss / len(y)
            loss.backward()
            optimizer.step()
            rows += len(y)
            total += loss.detach() * len(y)
            if a.losses:
                print(json.dumps({"step": step, "loss": loss.item(), "rows": len(y)}))
            step += 1
        wait()
        seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated() if gpu else None
        print(json.dumps({"epoch": epoch, "steps": len(firsts) - a.warmup, "seconds": round(seconds, 4), "rows": rows,
                          "loss": total.item() / rows, "peak_bytes": peak}), flush=True)
        if a.steps:
            break


if __name__ == "__main__":
    main()
