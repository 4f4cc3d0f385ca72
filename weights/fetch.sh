#!/usr/bin/env bash
# Downloads the published 8B MCIP Guardian (about 16 GB) and its prompt template from upstream, as they are, and writes the
# policy that uses them:
#   weights/fetch.sh [DIR]        default DIR: weights/mcip-guardian-8b
#   guardian serve --model DIR
# Interrupted downloads are resumed. Nothing of upstream's text is part of this repository. GUARDIAN_HUB and
# GUARDIAN_TEMPLATE name other places to fetch from (a mirror; the tests use one on loopback).
set -euo pipefail

hub=${GUARDIAN_HUB:-https://huggingface.co/AnonymousNodeGAE/MCIP_Guardian/resolve/main}
template=${GUARDIAN_TEMPLATE:-https://raw.githubusercontent.com/HKUST-KnowComp/MCIP/main/prompts/MCP_attack_type.txt}
dir=${1:-$(dirname "$0")/mcip-guardian-8b}
mkdir -p "$dir"

# get URL FILE: a file that is complete stays; a partial one is continued
get() {
    [ -s "$2" ] && return
    printf 'fetching %s\n' "${2##*/}" >&2
    curl --fail --location --silent --show-error --retry 3 --continue-at - --output "$2.part" "$1"
    mv "$2.part" "$2"
}

get "$hub/config.json" "$dir/config.json"
get "$hub/tokenizer.json" "$dir/tokenizer.json"
index=$dir/model.safetensors.index.json
if get "$hub/model.safetensors.index.json" "$index" 2>/dev/null; then
    for shard in $(grep -oE '"[A-Za-z0-9_.-]+\.safetensors"' "$index" | tr -d '"' | sort -u); do
        get "$hub/$shard" "$dir/$shard"
    done
else
    get "$hub/model.safetensors" "$dir/model.safetensors"
fi
get "$template" "$dir/MCP_attack_type.txt"

cat >"$dir/policy.json" <<'JSON'
{
  "name": "mcip-published",
  "version": 1,
  "template_file": "MCP_attack_type.txt",
  "remove": ["Assistant:"],
  "chat": "llama3",
  "system": "You are a helpful assistant.",
  "answer_prefix": "Choice:",
  "choices": [
    {"text": " A", "label": "appropriate"},
    {"text": " B", "label": "function_overlapping"},
    {"text": " C", "label": "excessive_privileges_overlapping"},
    {"text": " D", "label": "function_dependency_injection"},
    {"text": " E", "label": "function_injection"},
    {"text": " F", "label": "causal_dependency_injection"},
    {"text": " G", "label": "wrong_function_intent_injection"},
    {"text": " H", "label": "wrong_arguments_intent_injection"},
    {"text": " I", "label": "data_injection"},
    {"text": " J", "label": "identity_injection"},
    {"text": " K", "label": "replay_injection"}
  ],
  "rendering": "dialogue",
  "render": {"item_bytes": 4096, "tool_bytes": 512, "catalog_bytes": 8192, "similar_tools": 5},
  "thresholds": {"flag": 0.5, "block": 0.8}
}
JSON
printf 'ready: guardian serve --model %s\n' "$dir" >&2
