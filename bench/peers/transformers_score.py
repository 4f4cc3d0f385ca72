#!/usr/bin/env python3
"""The traces of bench_offline through PyTorch and Hugging Face transformers: the same weights, tokens, choices and
number of threads, or the same GPU.

    bench_offline MODEL_DIR --trace NAME --threads N --dump trace.jsonl
    bench/peers/transformers_score.py --model MODEL_DIR --dump trace.jsonl ... --threads N [--limit N]
        [--device cpu|cuda:0] [--dtype float32|bfloat16] [--mode cold|cached|both] [--batch 1,4,8,16] [--repeat 2]
        [--seconds-max 300] [--compile SECONDS]

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

Attention is PyTorch's scaled_dot_product_attention. --compile runs the fastest batch size once more with
torch.compile, which may take so many seconds to compile before it is given up (the line says so; nothing of it counts
otherwise). Where torch or transformers is missing there is one line that says so, and the exit status is 77.

On prompts of more than some 500 tokens most of max_delta is the rotary frequencies: transformers computes them in
float32, Guardian in double, so that some differ in the last bit.
"""

import argparse
import gc
import json
import signal
import sys
import time

try:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, DynamicCache
except ImportError as e:
    print(json.dumps({"bench": "transformers", "skipped": "no torch or transformers here: %s" % e}))
    sys.exit(77)


class Peer:
    def __init__(self, a, head):
        torch.set_num_threads(a.threads)
        transformers.logging.set_verbosity_error()
        model = AutoModelForCausalLM.from_pretrained(a.model, dtype=getattr(torch, a.dtype), attn_implementation="sdpa")
        self.model = model.eval().to(a.device)
        self.choices = torch.tensor(head["choices"], device=a.device)
        self.device = a.device

    def score(self, ids, mask=None, positions=None, cache=None):
        """Logits of the choices after the last position of each row."""
        ids, mask, positions = (x if x is None else x.to(self.device) for x in (ids, mask, positions))
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


def best_of(attempts, repeat, device):
    """(label, run) pairs; the fastest whole run, the best seconds of each, and gflops_mm before and after."""
    best, tried, mm = None, {}, gflops_mm(device)
    for label, run in attempts * repeat:
        gc.collect()
        begin = time.perf_counter()
        got = run()
        if got is not None:
            got = {i: x.cpu() for i, x in got.items()}  # a GPU is waited for
        seconds = time.perf_counter() - begin
        if got is None:
            tried.setdefault(label, None)
            continue
        tried[label] = round(min(seconds, tried.get(label) or seconds), 3)
        if best is None or seconds < best[1]:
            best = (label, seconds, got)
    return best, tried, [mm, gflops_mm(device)]


def gflops_mm(device):
    """On a GPU, where all is queued first: bf16, 8192 x 8192 x 8192."""
    m, n, times, dtype = (512, 1024, 1, torch.float32) if device == "cpu" else (8192, 8192, 10, torch.bfloat16)
    a, b = torch.randn(m, n, dtype=dtype, device=device), torch.randn(n, n, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(30 if device == "cpu" else 4):
        begin = time.perf_counter()
        for _ in range(times):
            out = torch.mm(a, b)
        out[0, 0].item()
        best = min(best, (time.perf_counter() - begin) / times)
    return round(2e-9 * m * n * n / best, 1)


def delta(requests, got):
    worst = 0.0
    for r in requests:
        worst = max(worst, float((got[r["id"]] - torch.tensor(r["logits"])).abs().max()))
    return worst


def tell(a, head, requests, mode, best, tried, mm, n_cached):
    logical = sum(len(r["tokens"]) for r in requests)
    line = {"bench": "transformers", "torch": torch.__version__, "transformers": transformers.__version__,
            "trace": head["trace"], "seed": head["seed"], "hash": head["hash"], "mode": mode, "device": a.device,
            "dtype": a.dtype, "threads": a.threads, "requests": len(requests), "logical_tokens": logical, "gflops_mm": mm,
            "tried_s": tried}
    if best is not None:
        label, seconds, got = best
        line.update(best=label, wall_s=round(seconds, 3), new_tokens=logical - n_cached,
                    new_tokens_per_s=round((logical - n_cached) / seconds, 1),
                    logical_tokens_per_s=round(logical / seconds, 1),
                    verdicts_per_s=round(len(requests) / seconds, 2), max_delta=delta(requests, got))
    print(json.dumps(line), flush=True)
    return best is not None and line["max_delta"] <= a.tolerance


class TooLong(Exception):
    pass


def too_long(number, frame):
    raise TooLong


def compiled(a, head, peer, requests, attempts, best, mode, n_cached):
    """One more line, of the best batch size, after compiling within a.compile seconds."""
    label = best[0]
    run = dict(attempts)[label]
    eager = peer.model.forward
    signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, a.compile, 1)  # again and again: compilers catch exceptions
    begin = time.perf_counter()
    try:
        peer.model.forward = torch.compile(eager, dynamic=True)
        run()
        signal.setitimer(signal.ITIMER_REAL, 0)
        spent = round(time.perf_counter() - begin, 1)
        again, tried, mm = best_of([(label + " compiled in %s s" % spent, run)], a.repeat, a.device)
        tell(a, head, requests, mode + " compiled", again, tried, mm, n_cached)
    except Exception as e:  # whatever compiling may raise: the eager figures stand
        signal.setitimer(signal.ITIMER_REAL, 0)
        late = isinstance(e, TooLong) or time.perf_counter() - begin > a.compile
        print(json.dumps({"bench": "transformers", "trace": head["trace"], "mode": mode + " compiled",
                          "skipped": "compiling took longer than %d s" % a.compile if late
                          else "compiling failed: %s" % str(e)[:200]}), flush=True)
    finally:
        peer.model.forward = eager


def measure(a, peer, head, requests):
    sizes = [int(x) for x in a.batch.split(",")]
    limit = lambda: time.perf_counter() + a.seconds_max
    ok = True
    if a.mode != "cached":
        run_cold(peer, requests[:2 * max(sizes)], max(sizes), limit())
        attempts = [("batch %d" % n, lambda n=n: run_cold(peer, requests, n, limit())) for n in sizes]
        found = best_of(attempts, a.repeat, a.device)
        ok = tell(a, head, requests, "cold", *found, 0) and ok
        if a.compile and found[0]:
            compiled(a, head, peer, requests, attempts, found[0], "cold", 0)
    prefix = head["prefix"]
    if a.mode != "cold" and prefix:
        cache = prefix_cache(peer, prefix)
        run_prefix(peer, requests[:2 * max(sizes)], max(sizes), limit(), cache, len(prefix))
        attempts = [("batch %d" % n, lambda n=n: run_prefix(peer, requests, n, limit(), cache, len(prefix)))
                    for n in sizes]
        reused = n_reused(requests, len(prefix))
        found = best_of(attempts, a.repeat, a.device)
        ok = tell(a, head, requests, "cached", *found, reused) and ok
        if a.compile and found[0]:
            compiled(a, head, peer, requests, attempts, found[0], "cached", reused)
    elif a.mode != "cold" and head["trace"] in ("growing", "bursts"):
        run_sessions(peer, requests[:4], limit())
        attempts = [("session", lambda: run_sessions(peer, requests, limit()))]
        ok = tell(a, head, requests, "cached", *best_of(attempts, a.repeat, a.device), n_reused(requests, 0)) and ok
    return ok


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--dump", required=True, nargs="+")
    p.add_argument("--threads", type=int, required=True)
    p.add_argument("--limit", type=int)
    p.add_argument("--device", default="cpu")
    p.add_argument("--dtype", default="float32")
    p.add_argument("--compile", type=int, metavar="SECONDS")
    p.add_argument("--mode", choices=("cold", "cached", "both"), default="both")
    p.add_argument("--batch", default="1,4,8,16")
    p.add_argument("--repeat", type=int, default=2)
    p.add_argument("--seconds-max", type=float, default=300)
    p.add_argument("--tolerance", type=float, default=1e-3)
    a = p.parse_args()
    peer, ok = None, True
    with torch.inference_mode():
        for path in a.dump:
            with open(path, encoding="utf-8") as f:
                head = json.loads(f.readline())
                requests = [json.loads(x) for x in f][:a.limit]
            peer = peer or Peer(a, head)
            ok = measure(a, peer, head, requests) and ok
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
