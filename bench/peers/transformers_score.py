#!/usr/bin/env python3
"""The traces of bench_offline through PyTorch and Hugging Face transformers: the same weights, tokens, choices and
number of threads.

    bench_offline MODEL_DIR --trace NAME --threads N --dump trace.jsonl
    bench/peers/transformers_score.py --model MODEL_DIR --dump trace.jsonl --threads N [--limit N] [--dtype float32]
        [--mode cold|cached|both] [--batch 1,4,8,16] [--repeat 2] [--seconds-max 300]

One JSON line per mode:
  cold    every prompt in full: prompts ordered by length, padded to the longest of their batch, only the last
          position through the LM head; each batch size is tried and the fastest is told
  cached  keys and values are reused as a careful user would write it: a session keeps its DynamicCache, which is
          cropped to the kept tokens after each call (batch of one); prompts behind a common prefix are batched, its
          keys and values expanded to the batch. The prefix itself is computed before the clock starts.

new_tokens counts what was computed without padding, logical_tokens the prompts. max_delta is the greatest difference
between these logits and those of bench_offline in the dump; above --tolerance the exit status is 1. With --limit only
the first N requests are taken. Each batch size is timed --repeat times and its best counts; one that takes longer
than --seconds-max is given up (null in tried_s).
The first batches are computed once before the clock starts. gflops_mm is what a product of 512 x 1024 x 1024 reaches
in PyTorch before and after a mode: when the two differ, or are far below the ceiling of bench_offline, others had the
processors, and OpenMP's threads suffer more from that than ours; such a comparison is worth nothing.

On prompts of more than some 500 tokens most of max_delta is the rotary frequencies: transformers computes them in
float32, Guardian in double, so that some differ in the last bit.
"""

import argparse
import gc
import json
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache


class Peer:
    def __init__(self, a, head):
        torch.set_num_threads(a.threads)
        transformers.logging.set_verbosity_error()
        self.model = AutoModelForCausalLM.from_pretrained(a.model, dtype=getattr(torch, a.dtype)).eval()
        self.choices = torch.tensor(head["choices"])

    def score(self, ids, mask=None, positions=None, cache=None):
        """Logits of the choices after the last position of each row."""
        out = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
                         use_cache=cache is not None, logits_to_keep=1)
        return out.logits[:, -1].float().index_select(1, self.choices)


def batches(requests, size):
    """By length, so that there is little to pad."""
    order = sorted(requests, key=lambda r: len(r["tokens"]))
    return [order[i:i + size] for i in range(0, len(order), size)]


def padded(rows):
    """Ids, mask and positions of rows of different lengths, padded on the left."""
    longest = max(len(r) for r in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, r in enumerate(rows):
        ids[i, longest - len(r):] = torch.tensor(r)
        mask[i, longest - len(r):] = 1
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def run_cold(peer, requests, size, until):
    got = {}
    for batch in batches(requests, size):
        if time.perf_counter() > until:
            return None
        rows = [r["tokens"] for r in batch]
        if len({len(x) for x in rows}) == 1:
            logits = peer.score(torch.tensor(rows))
        else:
            logits = peer.score(*padded(rows))
        got.update((r["id"], x) for r, x in zip(batch, logits))
    return got


def expanded(prefix, n):
    """The keys and values of the prefix for a batch of n."""
    cache = DynamicCache()
    for i, layer in enumerate(prefix.layers):
        cache.update(layer.keys.expand(n, -1, -1, -1), layer.values.expand(n, -1, -1, -1), i)
    return cache


def prefix_cache(peer, tokens):
    cache = DynamicCache()
    peer.score(torch.tensor([tokens]), cache=cache)
    return cache


def run_prefix(peer, requests, size, until, prefix, n_prefix):
    """Prompts behind the prefix, and those that are not as in run_cold."""
    alone = [r for r in requests if r["shared"] == 0]
    got = run_cold(peer, alone, size, until) if alone else {}
    if got is None:
        return None
    for batch in batches([r for r in requests if r["shared"] > 0], size):
        if time.perf_counter() > until:
            return None
        ids, mask, positions = padded([r["tokens"][n_prefix:] for r in batch])
        whole = torch.cat([torch.ones(len(batch), n_prefix, dtype=torch.long), mask], 1)
        if bool(mask.all()):
            whole = None
        logits = peer.score(ids, whole, positions + n_prefix, expanded(prefix, len(batch)))
        got.update((r["id"], x) for r, x in zip(batch, logits))
    return got


def run_sessions(peer, requests, until):
    """Each session's own cache, cropped to what the next call may reuse. Needs the calls in order."""
    caches, got = {}, {}
    for r in requests:
        if time.perf_counter() > until:
            return None
        cache, kept = caches.get(r["session"], (None, []))
        tokens = r["tokens"]
        n = 0
        while n < min(len(kept), len(tokens) - 1) and kept[n] == tokens[n]:
            n += 1
        if cache is None:
            cache = DynamicCache()
        elif n < len(kept):
            cache.crop(n - len(kept))  # minus the tokens to take off
        got[r["id"]] = peer.score(torch.tensor([tokens[n:]]), cache=cache)[0]
        cache.crop(r["keep"] - len(tokens))
        caches[r["session"]] = (cache, tokens[:r["keep"]])
    return got


def n_reused(requests, n_prefix):
    """Tokens that the cached mode does not compute."""
    total, kept = 0, {}
    for r in requests:
        if n_prefix:
            total += r["shared"]
            continue
        old, n = kept.get(r["session"], []), 0
        while n < min(len(old), len(r["tokens"]) - 1) and old[n] == r["tokens"][n]:
            n += 1
        total += n
        kept[r["session"]] = r["tokens"][:r["keep"]]
    return total


def best_of(attempts, repeat):
    """(label, run) pairs; the fastest whole run, the best seconds of each, and gflops_mm before and after."""
    best, tried, mm = None, {}, gflops_mm()
    for label, run in attempts * repeat:
        gc.collect()
        begin = time.perf_counter()
        got = run()
        seconds = time.perf_counter() - begin
        if got is None:
            tried.setdefault(label, None)
            continue
        tried[label] = round(min(seconds, tried.get(label) or seconds), 3)
        if best is None or seconds < best[1]:
            best = (label, seconds, got)
    return best, tried, [mm, gflops_mm()]


def gflops_mm():
    a, b = torch.rand(512, 1024), torch.rand(1024, 1024)
    best = float("inf")
    for _ in range(30):
        begin = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - begin)
    return round(2e-9 * 512 * 1024 * 1024 / best, 1)


def delta(requests, got):
    worst = 0.0
    for r in requests:
        worst = max(worst, float((got[r["id"]] - torch.tensor(r["logits"])).abs().max()))
    return worst


def tell(a, head, requests, mode, best, tried, mm, n_cached):
    logical = sum(len(r["tokens"]) for r in requests)
    line = {"bench": "transformers", "torch": torch.__version__, "transformers": transformers.__version__,
            "trace": head["trace"], "seed": head["seed"], "hash": head["hash"], "mode": mode, "dtype": a.dtype,
            "threads": a.threads, "requests": len(requests), "logical_tokens": logical, "gflops_mm": mm,
            "tried_s": tried}
    if best is not None:
        label, seconds, got = best
        line.update(best=label, wall_s=round(seconds, 3), new_tokens=logical - n_cached,
                    new_tokens_per_s=round((logical - n_cached) / seconds, 1),
                    logical_tokens_per_s=round(logical / seconds, 1),
                    verdicts_per_s=round(len(requests) / seconds, 2), max_delta=delta(requests, got))
    print(json.dumps(line), flush=True)
    return best is not None and line["max_delta"] <= a.tolerance


def measure(a, head, requests):
    peer = Peer(a, head)
    sizes = [int(x) for x in a.batch.split(",")]
    limit = lambda: time.perf_counter() + a.seconds_max
    ok = True
    if a.mode != "cached":
        run_cold(peer, requests[:2 * max(sizes)], max(sizes), limit())
        attempts = [("batch %d" % n, lambda n=n: run_cold(peer, requests, n, limit())) for n in sizes]
        ok = tell(a, head, requests, "cold", *best_of(attempts, a.repeat), 0) and ok
    prefix = head["prefix"]
    if a.mode != "cold" and prefix:
        cache = prefix_cache(peer, prefix)
        run_prefix(peer, requests[:2 * max(sizes)], max(sizes), limit(), cache, len(prefix))
        attempts = [("batch %d" % n, lambda n=n: run_prefix(peer, requests, n, limit(), cache, len(prefix)))
                    for n in sizes]
        ok = tell(a, head, requests, "cached", *best_of(attempts, a.repeat), n_reused(requests, len(prefix))) and ok
    elif a.mode != "cold" and head["trace"] in ("growing", "bursts"):
        run_sessions(peer, requests[:4], limit())
        attempts = [("session", lambda: run_sessions(peer, requests, limit()))]
        ok = tell(a, head, requests, "cached", *best_of(attempts, a.repeat), n_reused(requests, 0)) and ok
    return ok


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--dump", required=True)
    p.add_argument("--threads", type=int, required=True)
    p.add_argument("--limit", type=int)
    p.add_argument("--dtype", default="float32")
    p.add_argument("--mode", choices=("cold", "cached", "both"), default="both")
    p.add_argument("--batch", default="1,4,8,16")
    p.add_argument("--repeat", type=int, default=2)
    p.add_argument("--seconds-max", type=float, default=300)
    p.add_argument("--tolerance", type=float, default=1e-3)
    a = p.parse_args()
    with open(a.dump, encoding="utf-8") as f:
        head = json.loads(f.readline())
        requests = [json.loads(x) for x in f][:a.limit]
    with torch.inference_mode():
        return 0 if measure(a, head, requests) else 1


if __name__ == "__main__":
    sys.exit(main())
