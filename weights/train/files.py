"""Model directories as the server reads them: config.json, model.safetensors, tokenizer.json.

Matrices are stored as int8 with one scale a row (compressed-tensors' "int-quantized", channel-wise, symmetric) and
read as bf16(value * scale), exactly as server/engine/tensor_values.h says; vectors are bf16. load() reads that and
plain bf16, f16 or f32, so that training goes on from any checkpoint that the server serves.
"""

import json
import os
import shutil

import torch
from safetensors.torch import load_file, save_file

from model import Config, Mini

INT8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear", "Embedding"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
            "input_activations": None,
        }
    },
}


def named(m, c):
    """{Hugging Face name: tensor}"""
    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    out = {"model.embed_tokens.weight": m.embed.weight, "model.norm.weight": m.norm.weight}
    for i, l in enumerate(m.layers):
        p = "model.layers.%d." % i
        wq, wk, wv = l.qkv.weight.split([q, kv, kv])
        gate, up = l.gate_up.weight.chunk(2)
        out.update(
            {
                p + "self_attn.q_proj.weight": wq,
                p + "self_attn.k_proj.weight": wk,
                p + "self_attn.v_proj.weight": wv,
                p + "self_attn.o_proj.weight": l.o.weight,
                p + "mlp.gate_proj.weight": gate,
                p + "mlp.up_proj.weight": up,
                p + "mlp.down_proj.weight": l.down.weight,
                p + "input_layernorm.weight": l.norm1.weight,
                p + "post_attention_layernorm.weight": l.norm2.weight,
            }
        )
    return {k: v.detach().float().contiguous() for k, v in out.items()}


def stored(tensors):
    out = {}
    for name, t in tensors.items():
        if t.dim() < 2:
            out[name] = t.to(torch.bfloat16)
            continue
        scale = (t.abs().amax(1, keepdim=True) / 127).clamp(min=1e-30)
        out[name] = (t / scale).round().clamp(-127, 127).to(torch.int8)
        out[name + "_scale"] = scale
    return out


def values(tensors):
    """fp32 of what the server computes with."""
    return {
        n: (t.float() * tensors[n + "_scale"]).to(torch.bfloat16).float() if t.dtype == torch.int8 else t.float()
        for n, t in tensors.items()
        if not n.endswith("_scale")
    }


def config(c, tok):
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": c.dim,
        "intermediate_size": c.ffn,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "vocab_size": c.vocab,
        "max_position_embeddings": c.max_pos,
        "rms_norm_eps": c.eps,
        "rope_theta": c.theta,
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": tok.token_to_id("<|begin_of_text|>"),
        "eos_token_id": tok.token_to_id("<|end_of_text|>"),
        "initializer_range": 0.02,
        "use_cache": True,
        "quantization_config": INT8,
    }


def save(out, m, c, tok, tokenizer):
    """tokenizer: the file of tok, copied beside the model"""
    os.makedirs(out, exist_ok=True)
    path = os.path.join(out, "model.safetensors")
    save_file(stored(named(m, c)), path, metadata={"format": "pt"})
    os.chmod(path, 0o644)
    with open(os.path.join(out, "config.json"), "w") as f:
        json.dump(config(c, tok), f, indent=2)
        f.write("\n")
    if os.path.abspath(os.path.dirname(tokenizer)) != os.path.abspath(out):
        shutil.copy(tokenizer, os.path.join(out, "tokenizer.json"))


def load(path):
    """(model, Config) of a model directory, or of a checkpoint of train.py."""
    if not os.path.isdir(path):
        state = torch.load(path, map_location="cpu")
        c = Config.of(state["config"])
        m = Mini(c)
        m.load_state_dict(state["model"])
        return m, c
    v = json.load(open(os.path.join(path, "config.json")))
    t = values(load_file(os.path.join(path, "model.safetensors")))
    c = Config(
        vocab=v["vocab_size"],
        dim=v["hidden_size"],
        layers=v["num_hidden_layers"],
        heads=v["num_attention_heads"],
        kv_heads=v["num_key_value_heads"],
        ffn=v["intermediate_size"],
        theta=v["rope_theta"],
        max_pos=v["max_position_embeddings"],
        eps=v["rms_norm_eps"],
    )
    m = Mini(c)
    with torch.no_grad():
        m.embed.weight.copy_(t["model.embed_tokens.weight"])
        m.norm.weight.copy_(t["model.norm.weight"])
        for i, l in enumerate(m.layers):
            p = "model.layers.%d." % i
            qkv = [t[p + "self_attn.%s_proj.weight" % x] for x in "qkv"]
            l.qkv.weight.copy_(torch.cat(qkv))
            l.o.weight.copy_(t[p + "self_attn.o_proj.weight"])
            l.gate_up.weight.copy_(torch.cat([t[p + "mlp.%s_proj.weight" % x] for x in ("gate", "up")]))
            l.down.weight.copy_(t[p + "mlp.down_proj.weight"])
            l.norm1.weight.copy_(t[p + "input_layernorm.weight"])
            l.norm2.weight.copy_(t[p + "post_attention_layernorm.weight"])
    return m, c
