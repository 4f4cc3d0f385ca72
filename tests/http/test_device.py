"""Which device computes: what is asked for, what is told, the way to the CPU, the memory plan, and a device that is lost.

The second half needs the server built over tests/simt, where the CUDA kernels run on the CPU: GUARDIAN_SIMT_BIN names it.
"""
import http.client
import json
import os
import random
import shutil
import struct
import threading
import time

import pytest
from conftest import HERE, ROOT, answered_request, call, cli, eventually, pending_request, run_threads, unique, user

SIMT = os.environ.get("GUARDIAN_SIMT_BIN")
needs_simt = pytest.mark.skipif(not SIMT, reason="GUARDIAN_SIMT_BIN names no server over the host implementation of CUDA")
MINI = ROOT / "weights" / "guardian-mini"
GONE = (ConnectionError, http.client.HTTPException, OSError)


# ---- any build ----

def test_the_cpu_when_asked_for(start):
    s = start("--device", "cpu")
    assert s.guard(pending_request()).status == 200
    about = s.get("/info").json["backend"]
    assert about["device"] == "cpu" and about["device_fallback"] is None and about["device_lost"] is None
    m = s.metrics()
    assert m["guardian_device_fallback"] == 0 and m["guardian_device_lost"] == 0
    assert m['guardian_device_info{device="cpu",name="",isa="%s",dtype="%s"}' % (about["isa"], about["gemm_dtype"])] == 1
    assert not any(x["msg"] == "device fallback" for x in s.lines())


def test_what_is_told(start):
    s = start()
    info, m = s.get("/info").json, s.metrics()
    about, memory = info["backend"], info["memory"]
    assert about["step_tokens"] == info["limits"]["step_tokens"] == m["guardian_step_tokens"]
    assert (about["device_fallback"] is not None) == (m["guardian_device_fallback"] == 1)
    noted = [x for x in s.lines() if x["msg"] == "device fallback"]
    assert [x["error"] for x in noted] == ([about["device_fallback"]] if about["device_fallback"] else [])
    assert memory["kv_bytes"] == info["cache"]["kv_bytes"] and memory["kv_blocks"] == info["cache"]["kv_blocks"]
    assert memory["kv_tokens"] == memory["kv_blocks"] * info["limits"]["kv_block_tokens"]
    plan = s.wait_log("memory plan")
    for key, part in (("weight_bytes", "weights"), ("activation_bytes", "activations"), ("kv_bytes", "kv_cache"),
                      ("left_bytes", "left")):
        assert memory[key] > 0 and plan[key] == memory[key]
        assert m['guardian_device_memory_bytes{part="%s"}' % part] == pytest.approx(memory[key], rel=1e-6)


def test_a_person_is_told_the_memory_plan():
    code, _, err = cli("selftest", "--device", "cpu")
    assert code == 0
    plan = [x for x in err.decode().split("\n") if x.startswith("guardian: memory of cpu")]
    assert len(plan) == 1 and "KV cache" in plan[0] and "left" in plan[0]


def test_fp8_is_never_left_to_the_cpu():
    code, out, err = cli("selftest", "--dtype", "fp8")
    assert (code == 0 and b"fp8" in out) or (code == 3 and b"\n" in err and out == b""), err


def test_a_device_that_no_machine_has():
    code, _, err = cli("selftest", "--device", "cuda:999")
    assert code == 3 and err.startswith(b"guardian selftest: "), err


# ---- the CUDA back end on a CPU ----

def write_model(d):
    """A model of two layers with a head size that the CUDA kernels have; the numbers are random, but far apart."""
    tiny = ROOT / "tests/golden/models/llama_f32_tied"
    d.mkdir()
    shutil.copy(tiny / "tokenizer.json", d)
    config = json.loads((tiny / "config.json").read_text())
    config.update(hidden_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=64, intermediate_size=64,
                  num_hidden_layers=2, max_position_embeddings=8192, tie_word_embeddings=True)
    (d / "config.json").write_text(json.dumps(config))
    tensors = {"model.embed_tokens.weight": (config["vocab_size"], 64), "model.norm.weight": (64,)}
    for i in range(2):
        for name, shape in {"self_attn.q_proj": (128, 64), "self_attn.k_proj": (64, 64), "self_attn.v_proj": (64, 64),
                            "self_attn.o_proj": (64, 128), "mlp.gate_proj": (64, 64), "mlp.up_proj": (64, 64),
                            "mlp.down_proj": (64, 64), "input_layernorm": (64,), "post_attention_layernorm": (64,)}.items():
            tensors["model.layers.%d.%s.weight" % (i, name)] = shape
    rng, header, data = random.Random(7), {}, b""
    for name, shape in tensors.items():
        n = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = [1.0] * n if len(shape) == 1 else [rng.gauss(0, 0.25) for _ in range(n)]
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(data), len(data) + 4 * n]}
        data += struct.pack("<%df" % n, *values)
    head = json.dumps(header).encode()
    (d / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + data)
    return ["--model", str(d), "--policy", str(HERE / "policy_tiny.json")]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("device") / "small")


@pytest.fixture
def simt(start, small):
    """simt(*flags, NAME=value) starts the server over the pretended device; variables lose their GUARDIAN_SIMT_."""
    def make(*args, wait="ready", **env):
        env = {"GUARDIAN_SIMT_" + k: str(v) for k, v in env.items()}
        model = [] if "--model" in args else small
        return start("--kv-cache-mib", "64", "--max-batch-tokens", "512", "--max-queue-ms", "600000", *args, wait=wait, env=env, model=model, program=SIMT)
    return make


def patient(request):
    return {**request, "deadline_ms": 600000}


def requests():
    return [patient(r) for r in (pending_request(), answered_request("Rome"), pending_request("Oslo", 20),
                                 {"messages": [user("x"), call("f", {"a": [1, 2, 3]})]}, answered_request("Berlin"))]


def ask_or_gone(s, request):
    """The answer, or None when nobody listens any more."""
    try:
        return s.guard(request, connection=s.connect(timeout=60))
    except GONE:
        return None


def ended(s, code, timeout=60):
    assert s.process.wait(timeout) == code
    return [x for x in s.lines() if x["severity_text"] == "ERROR"]


@needs_simt
@pytest.mark.parametrize("dtype,near,mini", [("bf16", 0.06, False), ("fp8", 0.25, False), ("bf16", 0.01, True)])
def test_verdicts_of_both_devices(simt, dtype, near, mini):
    if mini and not (MINI / "model.safetensors").exists():
        pytest.skip("weights/guardian-mini is not complete")
    model = ["--model", str(MINI), "--kv-cache-mib", "128"] if mini else []
    cpu, gpu = simt("--device", "cpu", *model), simt("--device", "cuda:0", "--dtype", dtype, *model)
    about = gpu.get("/info").json["backend"]
    assert about["device"] == "cuda:0" and about["gemm_dtype"] == dtype and about["device_fallback"] is None
    assert about["device_name"] != "" and about["isa"].startswith("sm_")
    assert gpu.metrics()["guardian_device_fallback"] == 0
    sure = 0
    for r in requests()[:2 if mini else None]:
        a, b = cpu.guard(r).json, gpu.guard(r).json
        assert all(abs(a["scores"][k] - b["scores"][k]) <= near for k in a["scores"])
        first, second = sorted(a["scores"].values(), reverse=True)[:2]
        if first - second > 2 * near:
            sure += 1
            assert a["label"] == b["label"] and a["choice"] == b["choice"]
        again = gpu.guard(r)
        assert again.json["scores"] == b["scores"] and again.headers["x-cache"] == "hit"
    assert sure > 0 or dtype == "fp8"
    if not mini:
        assert gpu.batch(requests()).json["data"][1]["scores"] == gpu.guard(requests()[1]).json["scores"]
    assert gpu.stop() == 0 and cpu.stop() == 0


@needs_simt
@pytest.mark.parametrize("env,level", [({"DEVICES": 0}, "INFO"), ({"DRIVER": 11000}, "WARN"), ({"CAPABILITY": "7.5"}, "WARN"),
                                       ({"MEMORY_MIB": 8}, "WARN")])
def test_auto_falls_back_and_says_so(simt, env, level):
    s = simt("--device", "auto", **env)
    about = s.get("/info").json["backend"]
    assert about["device"] == "cpu" and len(about["device_fallback"]) > 10
    assert s.metrics()["guardian_device_fallback"] == 1
    noted = [x for x in s.lines() if x["msg"] == "device fallback"]
    assert [(x["severity_text"], x["error"]) for x in noted] == [(level, about["device_fallback"])]
    assert s.guard(patient(pending_request())).status == 200
    assert s.stop() == 0


@needs_simt
@pytest.mark.parametrize("flags,env,words", [
    (["--device", "cuda:1"], {}, ["device"]), (["--device", "cuda:0"], {"DEVICES": 0}, ["device"]),
    (["--device", "cuda"], {"DRIVER": 11000}, ["driver"]), (["--device", "cuda"], {"CAPABILITY": "7.5"}, ["7.5"]),
    (["--device", "cuda"], {"MEMORY_MIB": 8}, ["memory", "MiB"]),
    (["--device", "cuda", "--kv-cache-mib", "900"], {}, ["cuda:0", "left", "weights", "activations of 512", "KV cache", "GiB"]),
    (["--dtype", "fp8"], {"DEVICES": 0}, ["device"]),
    (["--dtype", "fp8"], {"CAPABILITY": "8.0"}, ["fp8"]), (["--device", "cuda"], {"FAIL_CALL": 20}, ["cuda"]),
])
def test_no_other_device_when_asked_for_one(simt, flags, env, words):
    s = simt(*flags, wait="listening", **env)
    errors = ended(s, 3)
    assert len(errors) == 1 and errors[0]["msg"] == "model not loaded"
    assert all(w.lower() in errors[0]["error"].lower() for w in words), errors


@needs_simt
def test_lost_before_it_serves(simt, tmp_path):
    fault = tmp_path / "fault"
    fault.write_text("")
    assert ended(simt("--device", "cuda:0", wait="listening", FAIL_FILE=fault), 3)
    s = simt("--device", "auto", FAIL_FILE=fault)
    assert s.get("/info").json["backend"]["device"] == "cpu"
    assert s.guard(patient(pending_request())).status == 200 and s.stop() == 0


def check_not_ready(s):
    """Right after the first refusal, as long as it is there."""
    try:
        ready = s.get("/readyz")
        assert ready.status == 503 and ready.json["status"] == "device_lost" and "cuda:0" in ready.json["reason"]
        raw, closed = s.raw(b"POST /v1/guard HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        assert closed and (raw == b"" or raw.startswith(b"HTTP/1.1 503"))  # its body is not asked for
        assert s.get("/healthz").status == 200
        m = s.metrics()
        assert m["guardian_device_lost"] == 1 and m["guardian_ready"] == 0
        assert m['guardian_rejected_total{reason="device_lost"}'] >= 1
    except GONE:
        pass


@needs_simt
def test_a_lost_device_ends_the_server(simt, tmp_path):
    fault = tmp_path / "fault"
    s = simt("--device", "cuda:0", FAIL_FILE=fault)
    kept = patient(pending_request())
    assert s.guard(kept).status == 200 and s.guard(kept).headers["x-cache"] == "hit"
    fault.write_text("")
    r = s.guard(patient(pending_request(unique())))
    check_not_ready(s)
    assert r.status == 503 and r.error["code"] == "backend_error" and "cuda:0" in r.error["message"]
    assert int(r.headers["retry-after"]) >= 1 and "action" not in r.json
    for request in (kept, patient(pending_request(unique()))):  # kept or not
        r = ask_or_gone(s, request)
        assert r is None or (r.status == 503 and r.error["code"] == "backend_error")
    errors = ended(s, 1, timeout=5)
    assert [x["msg"] for x in errors] == ["device lost"] and "cuda:0" in errors[0]["error"]


@needs_simt
def test_those_in_flight_are_told(simt, tmp_path):
    fault = tmp_path / "fault"
    s = simt("--device", "cuda:0", FAIL_FILE=fault)
    kept = patient(pending_request())
    assert s.guard(kept).status == 200
    lock, lost_at, answers = threading.Lock(), [], []

    def client(i):
        while True:
            sent = time.monotonic()
            if i % 4 == 0:
                r = ask_or_gone(s, kept)
            elif i % 4 == 1:
                try:
                    r = s.batch([patient(pending_request(unique())) for _ in range(3)], connection=s.connect(timeout=60))
                except GONE:
                    r = None
            else:
                r = ask_or_gone(s, patient(pending_request(unique(), 10)))
            with lock:
                answers.append((sent, time.monotonic(), r))
                if r is not None and r.status != 200 and not lost_at:
                    lost_at.append(time.monotonic())
            if r is None or r.status != 200:
                return

    def breaker():
        eventually(lambda: sum(r is not None for _, _, r in answers) >= 12, timeout=300)
        eventually(lambda: s.get("/info").json["queue"]["running"] > 0)
        fault.write_text("")

    run_threads(9, lambda i: breaker() if i == 8 else client(i))
    assert lost_at
    for sent, _, r in answers:
        if sent > lost_at[0]:
            assert r is None or r.status == 503
        elif r is not None and r.status != 200:
            assert r.status == 503 and r.error["code"] == "backend_error" and "action" not in r.json
    assert sum(r is not None and r.status == 503 for _, _, r in answers) >= 4  # they waited, and were answered
    assert [x["msg"] for x in ended(s, 1, timeout=5)] == ["device lost"]


@needs_simt
def test_lost_while_it_drains(simt, tmp_path):
    fault = tmp_path / "fault"
    s = simt("--device", "cuda:0", FAIL_FILE=fault)
    answers = []
    t = threading.Thread(target=lambda: answers.append(s.batch([patient(pending_request(unique(), 300)) for _ in range(20)])))
    t.start()
    eventually(lambda: s.get("/info").json["queue"]["running"] > 0)
    s.process.terminate()
    s.wait_log("draining")
    fault.write_text("")
    t.join()
    assert [x["msg"] for x in ended(s, 1, timeout=5)] == ["device lost"]
    assert answers[0].status == 503 and answers[0].error["code"] == "backend_error"
