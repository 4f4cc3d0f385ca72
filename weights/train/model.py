"""The decoder of guardian-mini in plain PyTorch: exactly the arithmetic of LlamaForCausalLM (RMSNorm,
rotate-half RoPE, grouped-query attention, SwiGLU, tied embeddings), with parameter names of their own
that export.py maps to Hugging Face names. Plain, because training needs two things the stock model
lacks: an explicit mask (several answer branches share one trajectory) and logits at chosen places only.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Config:
    def __init__(
        self,
        vocab=8192,
        dim=256,
        layers=6,
        heads=4,
        kv_heads=2,
        ffn=688,
        theta=10000.0,
        max_pos=8192,
        eps=1e-5,
    ):
        self.vocab, self.dim, self.layers, self.heads = vocab, dim, layers, heads
        self.kv_heads, self.ffn, self.theta, self.max_pos = kv_heads, ffn, theta, max_pos
        self.eps = eps
        self.head_dim = 64


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
        self.norm1 = RMSNorm(c.dim, c.eps)
        self.qkv = nn.Linear(c.dim, q + 2 * kv, bias=False)
        self.o = nn.Linear(q, c.dim, bias=False)
        self.norm2 = RMSNorm(c.dim, c.eps)
        self.gate_up = nn.Linear(c.dim, 2 * c.ffn, bias=False)
        self.down = nn.Linear(c.ffn, c.dim, bias=False)

    def forward(self, x, cos, sin, mask):
        c = self.c
        b, t, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, t, c.heads + 2 * c.kv_heads, c.head_dim)
        qk, v = qkv.split([c.heads + c.kv_heads, c.kv_heads], dim=2)
        half = c.head_dim // 2
        rot = torch.cat((-qk[..., half:], qk[..., :half]), dim=-1)
        qk = (qk * cos + rot * sin).to(v.dtype)
        q, k = qk.split([c.heads, c.kv_heads], dim=2)
        g = c.heads // c.kv_heads
        k = k.repeat_interleave(g, dim=2).transpose(1, 2)
        v = v.repeat_interleave(g, dim=2).transpose(1, 2)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, -1))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Mini(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c.vocab, c.dim)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.norm = RMSNorm(c.dim, c.eps)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                std = 0.02 if "embed" in name else 1.0 / math.sqrt(p.shape[1])
                if name.endswith(("o.weight", "down.weight")):
                    std /= math.sqrt(2 * c.layers)
                nn.init.normal_(p, std=std)
        inv = 1.0 / c.theta ** (torch.arange(0, c.head_dim, 2).float() / c.head_dim)
        ang = torch.outer(torch.arange(c.max_pos).float(), inv)
        ang = torch.cat((ang, ang), dim=-1)
        self.register_buffer("cos", ang.cos(), persistent=False)
        self.register_buffer("sin", ang.sin(), persistent=False)

    def forward(self, ids, pos, mask):
        """ids, pos [b, t]; mask [b, 1, t, t] bool (True = may look) or additive -> hidden [b, t, dim]"""
        x = self.embed(ids)
        cos, sin = self.cos[pos].unsqueeze(2), self.sin[pos].unsqueeze(2)
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        return self.norm(x)
