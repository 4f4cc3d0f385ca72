#!/usr/bin/env python3
"""Speed of the tokenizer beside the `tokenizers` library, one thread each, on the same strings.

  bench/tokenizer.py --tool build/tests/tokenize_lines --text DIR TOKENIZER.json ...
      DIR holds .jsonl.gz files; their lines are the strings. The library is timed by the fastest of
      its calls that gives ids (encode_batch_fast, without its threads); ours is the time inside
      gd_tokenizer_encode. CPU time of the best of --rounds runs.
  bench/tokenizer.py --tool ... --growth TOKENIZER.json ...
      CPU time per byte of one long piece or run, from 1 KiB to 1 MiB: flat means linear.
"""
import argparse
import gzip
import os
import pathlib
import re
import struct
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

UNITS = {"letters": "a", "words": "encyclopaedia", "spaces": " ", "newlines": "\n",
         "space+newline": " \n", "digits": "7", "symbols": "!", "brackets": '{"',
         "emoji": "\U0001F600", "marks": "\u0301\u0327"}
SIZES = [1 << 10, 1 << 14, 1 << 17, 1 << 20]


def ours(tool, path, texts):
    data = b"".join(struct.pack("<I", len(t)) + t for t in texts)
    done = subprocess.run([tool, path, "off"], input=data, check=True, capture_output=True)
    load, seconds, n_bytes, n_ids = re.findall(r"[\d.]+", done.stderr.decode())
    return float(load), float(seconds), int(n_bytes), int(n_ids)


def theirs(tok, texts):
    start = time.process_time()
    n_ids = sum(len(e.ids) for e in tok.encode_batch_fast(texts, add_special_tokens=False))
    return time.process_time() - start, n_ids


def side_by_side(args):
    from tokenizers import Tokenizer, __version__
    lines = []
    for path in sorted(pathlib.Path(args.text).glob("*.jsonl.gz")):
        with gzip.open(path, "rb") as f:
            lines += [line.rstrip(b"\n") for line in f]
    texts = [line.decode() for line in lines]
    for path in args.tokenizer:
        tok = Tokenizer.from_file(path)
        tok.encode_special_tokens = True
        best = min((theirs(tok, texts) for _ in range(args.rounds)), key=lambda r: r[0])
        mine = min((ours(args.tool, path, lines) for _ in range(args.rounds)), key=lambda r: r[1])
        size = mine[2] / 1e6
        print(f"{pathlib.Path(path).stem}: {len(lines)} strings, {size:.1f} MB, "
              f"ids {mine[3]} and {best[1]}: ours {size / mine[1]:.1f} MB/s, "
              f"tokenizers {__version__} {size / best[0]:.1f} MB/s, "
              f"{best[0] / mine[1]:.1f} times as fast; load {mine[0]:.2f} s")


def growth(args):
    for path in args.tokenizer:
        print(f"{pathlib.Path(path).stem}: ns per byte at", *(f"{s >> 10} KiB" for s in SIZES))
        for name, unit in UNITS.items():
            cells = []
            for size in SIZES:
                text = unit.encode() * (size // len(unit.encode()))
                repeat = max(1, (1 << 18) // size)
                _, seconds, n_bytes, _ = ours(args.tool, path, [text] * repeat)
                cells.append(f"{1e9 * seconds / n_bytes:8.1f}")
            print(f"  {name:14}", *cells, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--text")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("tokenizer", nargs="+")
    args = parser.parse_args()
    if not args.growth and not args.text:
        parser.error("--text or --growth is needed")
    if args.growth:
        growth(args)
    else:
        side_by_side(args)


if __name__ == "__main__":
    sys.exit(main())
