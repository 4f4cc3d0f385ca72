"""What is kept between requests: prefixes in the KV cache, whole scores; that neither changes a bit, and how it shows."""
import copy

import pytest
from conftest import TOOLS, answered_request, call, model_dir, patient, pending_request, result, unique, user
import json


def scores_of(answer):
    """The text of the scores as it came: equal text is equal bits."""
    assert answer.status == 200, answer.body
    text = answer.body.decode()
    start = text.index('"scores":')
    return text[start:text.index("}", start)], answer.json["score"]


def session(name, n):
    """A growing trajectory: its first n steps, each a call and its result."""
    m = [user("Please compare the weather of many cities for %s." % name)]
    for i in range(n):
        m += [call("get_weather", {"city": "%s %d" % (name, i)}, "c%d" % i),
              result("{\"temp_c\": %d, \"remark\": \"%s\"}" % (i, "nothing special " * 5), "c%d" % i)]
    return {"tools": TOOLS, "messages": m[:-1], "deadline_ms": 300000}


def test_second_time_is_a_hit(server):
    request = answered_request(unique())
    before = server.metrics()
    first, second = server.guard(request), server.guard(request)
    after = server.metrics()
    assert first.headers["x-cache"] == "miss" and second.headers["x-cache"] == "hit"
    assert scores_of(first) == scores_of(second)
    a, b = first.json, second.json
    assert a["id"] != b["id"]
    for key in set(a) - {"id", "created", "context", "timing_ms"}:
        assert a[key] == b[key], key
    assert b["context"]["cached_tokens"] == b["context"]["tokens"] == a["context"]["tokens"]
    assert b["timing_ms"]["prefill"] == 0
    assert after["guardian_verdict_cache_hits_total"] == before["guardian_verdict_cache_hits_total"] + 1
    assert after["guardian_verdict_cache_misses_total"] == before["guardian_verdict_cache_misses_total"] + 1
    assert after["guardian_engine_sequences_total"] == before["guardian_engine_sequences_total"] + 1
    assert after["guardian_verdict_cache_entries"] >= 1


def test_what_the_model_does_not_read_changes_nothing(server):
    request = pending_request(unique())
    first = server.guard(request)
    again = server.guard({**request, "session": "other", "deadline_ms": 60000, "principal": {"id": "u"}})
    assert again.headers["x-cache"] == "hit" and scores_of(first) == scores_of(again)


def changed(request):
    def variant(f):
        r = copy.deepcopy(request)
        f(r)
        return r

    yield variant(lambda r: r["messages"][0].update(content=r["messages"][0]["content"] + " Now."))
    yield variant(lambda r: r["messages"][1]["tool_calls"][0]["function"].update(arguments='{"city": "Elsewhere"}'))
    yield variant(lambda r: r["messages"][1]["tool_calls"][0]["function"].update(name="send_mail"))
    yield variant(lambda r: r["messages"][2].update(content="{\"temp_c\": 22}"))
    yield variant(lambda r: r["messages"].pop())
    yield variant(lambda r: r["messages"].append(user("Thanks.")) or r["messages"].append(call("get_weather", {"city": "B"}, "c2")))
    yield variant(lambda r: r["tools"][0]["function"].update(description="Weather of a city tomorrow"))
    yield variant(lambda r: r["tools"].pop())


def test_every_change_is_a_miss(server):
    request = answered_request(unique())
    server.guard(request)
    for i, r in enumerate(changed(request)):
        assert server.guard(r).headers["x-cache"] == "miss", i
        assert server.guard(r).headers["x-cache"] == "hit", i
    assert server.guard(request).headers["x-cache"] == "hit"


def test_only_single_verdicts_have_the_header(server):
    request = pending_request(unique())
    assert "x-cache" not in server.batch([request]).headers
    assert server.guard(request).headers["x-cache"] == "hit"  # kept by the batch
    for r in (server.guard("{"), server.guard({"messages": 5}), server.get("/healthz"), server.get("/metrics")):
        assert "x-cache" not in r.headers


def test_log_tells_hits(start):
    s = start()
    for name in ("l-1", "l-2"):
        s.guard(pending_request(), headers={"x-request-id": name})
    assert s.wait_log("request", request_id="l-1")["cache_hit"] is False
    assert s.wait_log("request", request_id="l-2")["cache_hit"] is True


def test_without_verdict_cache(server, start):
    s = start("--verdict-cache", "0")
    request = pending_request(unique())
    first, second = s.guard(request), s.guard(request)
    assert "x-cache" not in first.headers and "x-cache" not in second.headers
    assert second.json["context"]["cached_tokens"] < second.json["context"]["tokens"]
    assert scores_of(first) == scores_of(second) == scores_of(server.guard(request))
    m = s.metrics()
    assert m["guardian_verdict_cache_hits_total"] == m["guardian_verdict_cache_entries"] == 0
    cache = s.get("/info").json["cache"]
    assert cache["verdict_entries"] == 0 and cache["verdict_used"] == 0 and cache["prefix"] is True


def test_small_verdict_cache_forgets(start):
    s = start(env={"GUARDIAN_VERDICT_CACHE": "2"})
    a, b, c = (pending_request(unique()) for _ in range(3))
    assert [s.guard(r).headers["x-cache"] for r in (a, b, a, c, a, b)] == ["miss", "miss", "hit", "miss", "hit", "miss"]
    assert s.metrics()["guardian_verdict_cache_entries"] == 2
    assert s.get("/info").json["cache"]["verdict_used"] == 2


def test_without_prefix_cache(server, start):
    s = start("--no-prefix-cache")
    name = unique()
    for n in (1, 2, 4):
        r = s.guard(session(name, n))
        assert r.json["context"]["cached_tokens"] == 0
        assert scores_of(r) == scores_of(server.guard(session(name, n)))
    items = [session(name, 6), session(name, 7)]
    assert [v["context"]["cached_tokens"] for v in s.batch(items).json["data"]] == [0, 0]
    assert s.guard(items[1]).headers["x-cache"] == "hit"
    m = s.metrics()
    assert m["guardian_prefix_cache_hit_tokens_total"] == 0 and m['guardian_kv_cache_blocks{state="cached"}'] == 0
    assert s.get("/info").json["cache"]["prefix"] is False


def test_growing_trajectories_compute_what_is_new(server):
    name = unique()
    got = [server.guard(session(name, n)).json["context"] for n in range(1, 20)]
    tokens = [c["tokens"] for c in got]
    cached = [c["cached_tokens"] for c in got]
    assert tokens == sorted(tokens) and tokens[-1] > 500
    assert cached == sorted(cached) and cached[-1] > cached[1] + 300
    step = max(b - a for a, b in zip(tokens, tokens[1:]))
    assert all(t - c <= step + 64 for t, c in zip(tokens[1:], cached[1:])), got


def test_blocks_are_let_go_in_time(start):
    """More prefixes than the cache holds: the oldest go, and all is counted."""
    config = json.loads((model_dir() / "config.json").read_text())
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    token = config["num_hidden_layers"] * config["num_key_value_heads"] * head * 2 * 4
    context = min(config["max_position_embeddings"], 8192)
    mib = (2 * (context + 32) * token >> 20) + 1
    s = start("--kv-cache-mib", str(mib), "--verdict-cache", "0")
    cache = s.get("/info").json["cache"]
    assert cache["kv_bytes"] <= mib << 20 and cache["evictions"] == 0
    words = min(4000, context // 2)
    first = patient(unique(), words)
    alone = s.guard(first)
    for _ in range(cache["kv_blocks"] * 16 // words + 3):
        assert s.guard(patient(unique(), words)).status == 200
    again = s.guard(first)
    assert scores_of(alone) == scores_of(again)
    m = s.metrics()
    assert m["guardian_kv_cache_evictions_total"] > 0
    assert again.json["context"]["cached_tokens"] < again.json["context"]["tokens"] // 2
    check_blocks(s)


def test_too_small_a_kv_cache_is_refused(start):
    s = start("--kv-cache-mib", "1", wait="listening")
    try:
        code = s.process.wait(20)
    except Exception:
        pytest.skip("the model is so small that 1 MiB is enough")
    assert code == 2
    assert any(x["msg"] == "model not loaded" and "too small" in x["error"] for x in s.lines())


def check_blocks(s):
    m, cache = s.metrics(), s.get("/info").json["cache"]
    states = [m['guardian_kv_cache_blocks{state="%s"}' % x] for x in ("used", "cached", "free")]
    assert sum(states) == cache["kv_blocks"]
    assert states[:2] == [cache["blocks_used"], cache["blocks_cached"]]
    assert cache["blocks_pinned"] <= cache["blocks_used"]
    assert abs(m["guardian_kv_cache_usage_ratio"] - states[0] / sum(states)) < 1e-9
    assert m["guardian_kv_cache_evictions_total"] == cache["evictions"]


def test_metrics_are_what_was_sent(start):
    s = start()
    before = s.metrics()
    name = unique()
    requests = [session(name, n) for n in (1, 2, 3, 5, 3)]
    got = [s.guard(r).json["context"] for r in requests]
    got += [v["context"] for v in s.batch([session(name, 7), session(name, 8), session(name, 1)]).json["data"]]
    new = [c for c in got if c["cached_tokens"] < c["tokens"]]
    assert len(new) == 6
    after = s.metrics()

    def grown(key):
        return after[key] - before[key]

    assert grown("guardian_prefix_cache_query_tokens_total") == sum(c["tokens"] for c in new)
    assert grown("guardian_prefix_cache_hit_tokens_total") == sum(c["cached_tokens"] for c in new)
    assert grown("guardian_engine_tokens_total") == sum(c["tokens"] - c["cached_tokens"] for c in new)
    assert grown("guardian_prompt_tokens_total") == sum(c["tokens"] for c in got)
    assert grown("guardian_engine_sequences_total") == 6
    assert grown("guardian_verdict_cache_hits_total") == 2 and grown("guardian_verdict_cache_misses_total") == 6
    assert grown("guardian_verdict_cache_entries") == 6
    steps = grown("guardian_engine_steps_total")
    assert steps == grown("guardian_batch_size_count") == grown("guardian_batch_tokens_count") >= 5
    assert grown("guardian_batch_tokens_sum") == grown("guardian_engine_tokens_total")
    assert grown("guardian_batch_size_sum") >= 6
    assert after["guardian_queue_seconds"] == 0
    assert after["guardian_requests_running"] == after["guardian_requests_waiting"] == 0
    assert after["guardian_requests_canceled_total"] == 0
    assert not any(k.startswith("guardian_rejected_total") for k in after)
    check_blocks(s)


def test_info(start):
    s = start("--max-batch-tokens", "300", "--max-queue-ms", "1234", "--verdict-cache", "77")
    info = s.get("/info").json
    assert info["limits"]["step_tokens"] == 300 and info["limits"]["queue_ms_max"] == 1234
    assert info["limits"]["kv_block_tokens"] == info["cache"]["block_tokens"] == 16
    assert info["limits"]["context_tokens"] == min(info["model"]["context_max"], 8192)
    assert info["queue"] == {"waiting": 0, "running": 0, "estimated_ms": 0}
    cache = info["cache"]
    assert cache["prefix"] is True and cache["verdict_entries"] == 77
    assert cache["kv_bytes"] > 0 and cache["kv_blocks"] * 16 >= info["limits"]["context_tokens"]
    s.guard(patient(unique(), 1000))
    info = s.get("/info").json
    assert info["cache"]["verdict_used"] == cache["verdict_used"] + 1 and info["cache"]["blocks_cached"] * 16 > 500
    check_blocks(s)
    ready = s.wait_log("ready")
    assert ready["kv_cache_bytes"] == cache["kv_bytes"] and ready["kv_blocks"] == cache["kv_blocks"]
    assert ready["step_tokens"] == 300
