"""One query for each detected person reads the image by cross-attention and gives the body.

Modules are named as in the released files of Multi-HMR, which therefore load as they are. Axes:
P people of all images together, B images, C context channels, h w grid, R rotations.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alumnus.heads.people.rotations import matrix_from_six
from alumnus.heads.people.spec import PeopleSpec

__all__ = ["BodyParameters", "BodyRegressor", "Cells"]


class Cells(NamedTuple):
    """Where people are on the grid: one entry for each, of all images together."""

    image: Tensor  # [P] int64
    row: Tensor  # [P]
    column: Tensor  # [P]


class BodyParameters(NamedTuple):
    """What is regressed for each person."""

    rotations: Tensor  # [P, R, 3, 3]; the first is the root's
    shape: Tensor  # [P, betas]
    camera: Tensor  # [P, 3]; the first is the nearness, the others are unused
    expression: Tensor  # [P, expressions]


class BodyRegressor(nn.Module):
    """Queries at the people's cells, through self- and cross-attention, to body parameters.

    The query of a person is the context at its cell, with the embedding of its row and column,
    and the initial parameters. In each layer the people of one image attend to each other, then
    to all cells of their image; cells where people are carry embeddings of their own. The results
    are added to the initial parameters; six numbers make a rotation only after that.

    Source: Multi-HMR (arXiv 2402.14654), section 3.2.
    """

    cross_queries_x: Tensor  # [grid, C]; x goes with the row
    cross_queries_y: Tensor
    cross_values_x: Tensor
    cross_values_y: Tensor
    init_body_pose: Tensor  # [1, 6 R]
    init_betas: Tensor
    init_cam: Tensor

    def __init__(self, spec: PeopleSpec) -> None:
        super().__init__()
        self.spec = spec
        six = 6 * spec.rotations
        for name in ("cross_queries_x", "cross_queries_y", "cross_values_x", "cross_values_y"):
            embedding = nn.Parameter(0.02 * torch.randn(spec.grid, spec.context_dim))
            self.register_parameter(name, embedding)
        self.transformer = _Queries(spec, spec.context_dim + six + spec.betas + 3)
        self.decpose = nn.Linear(spec.width, six)
        self.decshape = nn.Linear(spec.width, spec.betas)
        self.deccam = nn.Linear(spec.width, 3)
        for decoder in (self.decpose, self.decshape, self.deccam):
            nn.init.xavier_uniform_(decoder.weight, gain=0.01)  # begin at the initial parameters
            nn.init.zeros_(decoder.bias)
        identity = torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(spec.rotations)
        self.register_buffer("init_body_pose", identity[None])
        self.register_buffer("init_betas", torch.zeros(1, spec.betas))
        self.register_buffer("init_cam", torch.zeros(1, 3))
        if spec.kid_betas:
            self.register_buffer("init_betas_kid", torch.zeros(1, spec.kid_betas))
        if spec.expressions:
            self.decexpression = nn.Linear(spec.width, spec.expressions)
            self.register_buffer("init_expression", torch.zeros(1, spec.expressions))

    def forward(self, context: Tensor, people: Cells) -> BodyParameters:  # [B, C, h, w]
        """The parameters of the people at these cells.

        Two people at one cell have the same query, and so the same body; their cell carries its
        embeddings once.
        """
        image, row, column = people
        cells = context[image, :, row, column]  # [P, C]
        rows = context.permute(0, 2, 3, 1)  # [B, h, w, C]
        taken = torch.zeros_like(rows[..., :1])
        taken[image, row, column] = 1.0
        rows = rows + taken * self.cross_values_x[:, None] + taken * self.cross_values_y
        query = cells + self.cross_queries_x[row] + self.cross_queries_y[column]
        initial = torch.cat([self.init_body_pose, self.init_betas, self.init_cam], dim=1)
        query = torch.cat([query, initial.expand(len(query), -1)], dim=1)
        found = self.transformer(query, rows.flatten(1, 2), image)

        six = self.init_body_pose + self.decpose(found).float()
        if self.spec.expressions:
            expression = self.init_expression + self.decexpression(found).float()
        else:
            expression = found.new_zeros(len(found), 0)
        return BodyParameters(
            matrix_from_six(six.unflatten(1, (self.spec.rotations, 6))),
            self.init_betas + self.decshape(found).float(),
            self.init_cam + self.deccam(found).float(),
            cast(Tensor, expression),
        )


class _Queries(nn.Module):
    """Embeds the queries, then the layers."""

    def __init__(self, spec: PeopleSpec, input_dim: int) -> None:
        super().__init__()
        self.to_token_embedding = nn.Linear(input_dim, spec.width)
        self.pos_embedding = nn.Parameter(0.02 * torch.randn(1, 1, spec.width))
        self.transformer = nn.Module()
        layers = [
            nn.ModuleList(
                [
                    _Normed(spec.width, _SelfAttention(spec)),
                    _Normed(spec.width, _CrossAttention(spec)),
                    _Normed(spec.width, _FeedForward(spec)),
                ]
            )
            for _ in range(spec.depth)
        ]
        self.transformer.layers = nn.ModuleList(layers)

    def forward(self, query: Tensor, context: Tensor, image: Tensor) -> Tensor:
        """Queries [P, I] of the people of images [P], context [B, h w, C]; gives [P, width]."""
        x: Tensor = self.to_token_embedding(query) + self.pos_embedding[0]
        together = image[:, None] == image
        for attend, read, think in self.transformer.layers:  # type: ignore[union-attr]
            x = x + attend(x, together)
            x = x + read(x, context, image)
            x = x + think(x)
        return x


class _Normed(nn.Module):
    """A function of normalised queries."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.fn = fn

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        return cast(Tensor, self.fn(self.norm(x), *others))


class _SelfAttention(nn.Module):
    """Among the people of one image."""

    def __init__(self, spec: PeopleSpec) -> None:
        super().__init__()
        self.heads, inner = spec.heads, spec.heads * spec.head_dim
        self.to_qkv = nn.Linear(spec.width, 3 * inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, spec.width))

    def forward(self, x: Tensor, together: Tensor) -> Tensor:  # [P, width], [P, P] bool
        q, k, v = self.to_qkv(x).unflatten(1, (3, self.heads, -1)).permute(1, 2, 0, 3)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=together)  # [heads, P, d]
        return cast(Tensor, self.to_out(mixed.transpose(0, 1).flatten(1)))


class _CrossAttention(nn.Module):
    """From each person to all cells of its image, which are not normalised."""

    def __init__(self, spec: PeopleSpec) -> None:
        super().__init__()
        self.heads, inner = spec.heads, spec.heads * spec.head_dim
        self.to_q = nn.Linear(spec.width, inner, bias=False)
        self.to_kv = nn.Linear(spec.context_dim, 2 * inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, spec.width))

    def forward(self, x: Tensor, context: Tensor, image: Tensor) -> Tensor:
        q = self.to_q(x).unflatten(1, (self.heads, 1, -1))  # [P, heads, 1, d]
        k, v = (  # [P, heads, N, d]
            part[image].unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.to_kv(context).chunk(2, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)  # [P, heads, 1, d]
        return cast(Tensor, self.to_out(mixed.flatten(1)))


class _FeedForward(nn.Module):
    """Linear, GELU, linear; numbered as where dropouts lay between them."""

    def __init__(self, spec: PeopleSpec) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(spec.width, spec.mlp_dim),
            nn.GELU(),
            nn.Identity(),
            nn.Linear(spec.mlp_dim, spec.width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.net(x))
