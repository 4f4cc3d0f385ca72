"""The decoder of guardian-mini in plain PyTorch: exactly the arithmetic of LlamaForCausalLM (RMSNorm,
rotate-half RoPE, grouped-query attention, SwiGLU, tied embeddings), with parameter names of their own
that export.py maps to Hugging Face names. Plain, because training needs two things the stock model
lacks: masks of our own (several answer branches share one trajectory), trajectories of any length one behind
the other without padding, and logits at chosen places only.
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

    @staticmethod
    def of(v):
        """From the "config" of a checkpoint."""
        return Config(**{k: x for k, x in v.items() if k != "head_dim"})


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

    def forward(self, x, cos, sin, groups, back):
        c = self.c
        qkv = self.qkv(self.norm1(x)).view(-1, c.heads + 2 * c.kv_heads, c.head_dim)
        qk, v = qkv.split([c.heads + c.kv_heads, c.kv_heads], dim=1)
        half = c.head_dim // 2
        rot = torch.cat((-qk[..., half:], qk[..., :half]), dim=-1)
        qk = (qk * cos + rot * sin).to(v.dtype)
        q, k = qk.split([c.heads, c.kv_heads], dim=1)
        g = c.heads // c.kv_heads
        k, v = k.repeat_interleave(g, dim=1), v.repeat_interleave(g, dim=1)
        y = []
        for rows, mask in groups:  # [n, t, heads, head_dim] -> [n, heads, t, head_dim]
            qg, kg, vg = (z[rows].transpose(1, 2) for z in (q, k, v))
            out = F.scaled_dot_product_attention(qg, kg, vg, attn_mask=mask.to(qg.dtype))
            y.append(out.transpose(1, 2).flatten(0, 1))
        x = x + self.o(torch.cat(y)[back].flatten(1))
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

    frozen = 0

    def freeze(self, layers):
        """The embedding and the first layers are not trained (nothing flows back into them)."""
        self.frozen = layers
        for p in [self.embed.weight] + [p for l in self.layers[:layers] for p in l.parameters()]:
            p.requires_grad_(False)

    def forward(self, ids, pos, groups, back):
        """-> hidden [t, dim]

        ids, pos    [t] tokens of several trajectories, one behind the other
        groups      [(rows [n, width], mask [n, 1, width, width])]: trajectories of similar length, the place
                    of each token (0 where a row is padded), and bool: what may be seen
        back        [t] where each token stands in the groups, laid one behind the other
        """
        groups = [
            (rows, torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, float("-inf")))
            for rows, mask in groups
        ]
        x = self.embed(ids)
        cos, sin = self.cos[pos].unsqueeze(1), self.sin[pos].unsqueeze(1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            for layer in self.layers[: self.frozen]:
                x = layer(x, cos, sin, groups, back)
        for layer in self.layers[self.frozen :]:
            x = layer(x, cos, sin, groups, back)
        return self.norm(x)
