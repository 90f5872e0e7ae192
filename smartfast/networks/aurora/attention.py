"""Attention of Aurora's generator, by distance or by dot product."""

from torch import Tensor, nn

from smartfast.kernels import l2_attention
from smartfast.networks.aurora.experts import Experts, FeedForward, Routing
from smartfast.networks.aurora.layers import Dense, GroupNorm, LayerNorm, ModulatedConv, PlainConv
from smartfast.networks.aurora.options import AuroraOptions
from smartfast.networks.aurora.tokens import as_image, as_tokens

GROUPS = 32


class SelfAttention(nn.Module):
    """Tokens [N, L, C] look at one another; the last projection is modulated.

    Rows of the projections are ordered by heads, and within a head by queries, keys and values.
    """

    def __init__(self, width: int, head_dim: int, options: AuroraOptions) -> None:
        super().__init__()
        self.heads, self.head_dim = width // head_dim, head_dim
        self.by_distance, self.tie = options.l2_attention, options.tie
        self.scale, self.scale_in = head_dim**-0.5, options.scale_in
        if options.l2_attention:
            self.to_qk = Dense(width, width if options.tie else 2 * width, bias=None)
            self.to_v = Dense(width, width, bias=None)
        else:
            self.to_qkv = Dense(width, 3 * width, bias=None)
        self.proj_out = ModulatedConv(width, width, options.w_dim, 1)

    def forward(self, x: Tensor, w: Tensor, size: tuple[int, int]) -> Tensor:
        q, k, v = self._heads(x)
        y = self._attend(q, k, v).transpose(1, 2).flatten(2)
        return as_tokens(self.proj_out(as_image(y, size), w))

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [N, heads, L, head_dim]."""
        if not self.by_distance:
            q, k, v = self._split(self.to_qkv(x), 3)
            return q, k, v
        qk, (v,) = self._split(self.to_qk(x), 1 if self.tie else 2), self._split(self.to_v(x), 1)
        return qk[0], qk[-1], v

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        return x.unflatten(2, (self.heads, parts * self.head_dim)).transpose(1, 2).split(self.head_dim, dim=3)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.by_distance:  # a distance scales as its vectors do
            return l2_attention(q, k, v, scale=self.scale)
        scale = self.scale**2 if self.scale_in else self.scale
        return nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)


class CrossAttention(nn.Module):
    """Tokens look at one token of w, of which a softmax leaves nothing to choose: all of them get its value.

    What would ask for it has its place among the tensors and no part in the result.
    """

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.to_q = Dense(width, width, bias=None)
        self.to_kv = Dense(context, 2 * width, bias=None)
        self.proj_out = nn.Sequential(Dense(width, width))

    def forward(self, context: Tensor) -> Tensor:
        """[N, 1, C] of [N, context]."""
        return self.proj_out(self.to_kv(context).chunk(2, dim=1)[1])[:, None]


class AttentionBlock(nn.Module):
    """Self-attention and a feed-forward layer on tokens [N, L, C], each of normalised tokens and added to them."""

    def __init__(self, width: int, head_dim: int, experts: int, options: AuroraOptions) -> None:
        super().__init__()
        self.has_context, self.has_feed_forward = options.context > 0, options.feed_forward
        self.norm1 = LayerNorm(width)
        self.self_attn = SelfAttention(width, head_dim, options)
        if self.has_context:
            self.norm2 = LayerNorm(width)
            self.align_dim = Dense(options.w_dim, options.context, bias=1.0)
            self.cross_attn = CrossAttention(width, options.context)
        if self.has_feed_forward:
            self.norm3 = LayerNorm(width)
            self.ff: Experts | FeedForward
            if experts < 2:
                self.ff = FeedForward(width, gated=options.gated)
            else:
                self.ff = Experts(width, options.w_dim, experts, gated=options.gated)

    def forward(self, x: Tensor, w: Tensor, size: tuple[int, int]) -> tuple[Tensor, Routing | None]:
        x = x + self.self_attn(self.norm1(x), w, size)
        if self.has_context:
            x = x + self.cross_attn(self.align_dim(w)).to(x.dtype)
        if not self.has_feed_forward:
            return x, None
        y, routing = self.ff(self.norm3(x), w, size)
        return x + y, routing


class ResidualAttention(nn.Module):
    """Blocks of attention on an image [N, C, H, W] at their own width, added to it; a gain scales the sum."""

    def __init__(self, channels: int, depth: int, experts: int, options: AuroraOptions) -> None:
        super().__init__()
        self.gain = options.attention_gain
        head_dim = options.head_dim or channels // options.heads
        width = options.heads * head_dim
        self.norm = GroupNorm(GROUPS, channels)
        self.proj_in = PlainConv(channels, width, clamp=options.conv_clamp)
        self.attn_blocks = nn.ModuleList(AttentionBlock(width, head_dim, experts, options) for _ in range(depth))
        self.proj_out = PlainConv(width, channels, clamp=options.conv_clamp, start=0.0 if options.zero_out else 1.0)

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, list[Routing]]:
        """The image, and the routing of those of its blocks that have experts."""
        size = (x.shape[2], x.shape[3])
        tokens, routings = as_tokens(self.proj_in(self.norm(x))), []
        for block in self.attn_blocks:
            tokens, routing = block(tokens, w, size)
            routings += [] if routing is None else [routing]
        return (x + self.proj_out(as_image(tokens, size))) * self.gain, routings
