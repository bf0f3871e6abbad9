"""Projectors: expendable heads from student tokens into one teacher's feature space."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from alumnus.encoders.attention import choose_attention
from alumnus.spelling import unknown
from alumnus.tokens import TOKEN_TYPES, EncoderOutput, Tokens, TokenType, resize_grid

__all__ = [
    "Ladder",
    "LinearProjector",
    "Projector",
    "ProjectorKind",
    "ProjectorSpec",
    "TransformerProjector",
    "build_projector",
    "last_block_mlp",
]

ProjectorKind = Literal["mlp", "ladder", "transformer", "linear"]
NORM_EPS = 1e-6  # of the transformer projector, as in encoders


@dataclass(frozen=True, kw_only=True)
class ProjectorSpec:
    """One teacher's projector; `options` are keyword arguments of its builder."""

    kind: ProjectorKind
    dim: int  # the teacher's width
    token_types: tuple[TokenType, ...] = TOKEN_TYPES
    options: Mapping[str, Any] = field(default_factory=dict)


class Projector(nn.Module):
    """EncoderOutput in, tokens of the teacher's width out."""

    blocks: tuple[int, ...]  # encoder blocks whose raw outputs it reads

    def forward(self, output: EncoderOutput) -> Tokens:
        raise NotImplementedError


class Ladder(Projector):
    """UNIC's ladder of projectors: one MLP per encoder block, the outputs summed.

        y_k = sum_l W2_kl gelu(W1_kl x_l + b1_kl) + b2_kl      for each token type k

    `x_l` is the raw output of block l; [CLS] and patches have MLPs of their own. Stages with
    other grids than the last one are resampled to it before their MLP.

    Source: UNIC (arXiv 2408.05088).
    """

    def __init__(
        self,
        block_dims: Sequence[int],  # width of each encoder block
        dim: int,
        *,
        token_types: Sequence[TokenType] = TOKEN_TYPES,
        hidden_dim: int = 768,
        last_hidden_dim: int = 3072,  # of the encoder's last block
        blocks: Sequence[int] | None = None,  # None: all
        prenorm: bool = False,  # LayerNorm in front of each MLP
        midnorm: bool = False,  # LayerNorm before its GELU
        std: float = 0.02,  # of the initial weights
    ) -> None:
        super().__init__()
        depth = len(block_dims)
        self.blocks = tuple(range(depth)) if blocks is None else tuple(sorted(set(blocks)))
        if not self.blocks or not all(0 <= block < depth for block in self.blocks):
            raise ValueError(
                f"a ladder over blocks {list(self.blocks)} does not fit an encoder whose blocks "
                f"are 0 to {depth - 1}"
            )
        hidden = {
            block: last_hidden_dim if block == depth - 1 else hidden_dim for block in self.blocks
        }
        self.heads = nn.ModuleDict(
            {
                token_type: nn.ModuleDict(
                    {
                        str(block): _mlp(
                            block_dims[block], hidden[block], dim, prenorm=prenorm, midnorm=midnorm
                        )
                        for block in self.blocks
                    }
                )
                for token_type in token_types
            }
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)

    def forward(self, output: EncoderOutput) -> Tokens:
        inputs = self._inputs(output)

        def climb(token_type: TokenType) -> Tensor | None:
            if token_type not in self.heads:
                return None
            total: Tensor | None = None
            for block in self.blocks:  # one by one: rungs need not lie in memory together
                rung = self._rung(inputs, token_type, block)
                total = rung if total is None else total + rung
            return total

        patches = climb("patch")
        grid = None if patches is None else output.final.grid
        return Tokens(patches=patches, grid=grid, cls=climb("cls"))

    def rungs(self, output: EncoderOutput) -> dict[TokenType, dict[int, Tensor]]:
        """What each block says, [B, D] or [B, N, D]; the prediction is the sum over blocks."""
        inputs = self._inputs(output)
        return {
            token_type: {block: self._rung(inputs, token_type, block) for block in self.blocks}
            for token_type in TOKEN_TYPES
            if token_type in self.heads
        }

    def _inputs(self, output: EncoderOutput) -> dict[int, Tokens]:
        grid = output.final.grid
        assert grid is not None, "an encoder's patch tokens carry their grid"
        return {block: resize_grid(output.blocks[block], grid) for block in self.blocks}

    def _rung(self, inputs: Mapping[int, Tokens], token_type: TokenType, block: int) -> Tensor:
        head = self.heads.get_submodule(token_type).get_submodule(str(block))
        rung: Tensor = head(inputs[block].of(token_type))
        return rung


def last_block_mlp(
    block_dims: Sequence[int],
    dim: int,
    *,
    token_types: Sequence[TokenType] = TOKEN_TYPES,
    hidden_dim: int = 3072,
    prenorm: bool = False,
    midnorm: bool = False,
    std: float = 0.02,
) -> Ladder:
    """The ladder's last rung alone: the single MLP that UNIC compares its ladder with."""
    return Ladder(
        block_dims,
        dim,
        token_types=token_types,
        last_hidden_dim=hidden_dim,
        blocks=[len(block_dims) - 1],
        prenorm=prenorm,
        midnorm=midnorm,
        std=std,
    )


class TransformerProjector(Projector):
    """DUNE's projector: transformer blocks over [CLS] and patches, then a linear layer.

    Reads the tokens before the encoder's final norm, without registers; every block is
    pre-norm with LayerScale. [CLS] takes part in attention even where only patches are wanted.
    PyTorch's default initialisation.

    Source: DUNE (arXiv 2503.14405).
    """

    def __init__(
        self,
        width: int,  # the encoder's
        dim: int,
        *,
        token_types: Sequence[TokenType] = TOKEN_TYPES,
        num_heads: int,
        num_blocks: int = 1,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = 1e-4,
        qkv_bias: bool = True,
        norm_affine: bool = True,
        scale: float | Literal["learned"] = 1.0,  # of the output; learned from 1
        apply_last_norm: bool = False,  # read the tokens after the encoder's final norm
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"a projector of width {width} cannot have {num_heads} heads")
        self.blocks = ()
        self.token_types, self.apply_last_norm = tuple(token_types), apply_last_norm
        self.scale = nn.Parameter(torch.ones(1)) if scale == "learned" else float(scale)
        self.layers = nn.Sequential(
            *(
                Block(
                    width,
                    num_heads,
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    init_values=layer_scale,
                    norm_layer=partial(nn.LayerNorm, eps=NORM_EPS, elementwise_affine=norm_affine),
                )
                for _ in range(num_blocks)
            )
        )
        self.linear = nn.Linear(width, dim)

    def forward(self, output: EncoderOutput) -> Tokens:
        tokens = output.final if self.apply_last_norm else output.prenorm
        x = tokens.of("patch")
        if tokens.cls is not None:
            x = torch.cat([tokens.cls.unsqueeze(1), x], dim=1)  # [B, 1 + N, D]
        choose_attention(self.layers, x)
        y = self.linear(self.layers(x)) * self.scale
        patches = Tokens(patches=y[:, -tokens.of("patch").shape[1] :], grid=tokens.grid)
        both = patches if tokens.cls is None else patches._replace(cls=y[:, 0])
        return both.only(self.token_types)


class LinearProjector(Projector):
    """One linear layer for each token type, from the tokens after the encoder's final norm.

    What it predicts is linear in what users of the bare encoder see. Initialised as the ladder.
    """

    def __init__(
        self,
        width: int,  # the encoder's
        dim: int,
        *,
        token_types: Sequence[TokenType] = TOKEN_TYPES,
        std: float = 0.02,  # of the initial weights
    ) -> None:
        super().__init__()
        self.blocks = ()
        self.heads = nn.ModuleDict({kind: nn.Linear(width, dim) for kind in token_types})
        for head in self.heads.values():
            nn.init.trunc_normal_(head.get_parameter("weight"), std=std)
            nn.init.zeros_(head.get_parameter("bias"))

    def forward(self, output: EncoderOutput) -> Tokens:
        made = {kind: head(output.final.of(kind)) for kind, head in self._heads()}
        grid = output.final.grid if "patch" in made else None
        return Tokens(patches=made.get("patch"), grid=grid, cls=made.get("cls"))

    def _heads(self) -> list[tuple[TokenType, nn.Module]]:
        return [(kind, self.heads[kind]) for kind in TOKEN_TYPES if kind in self.heads]


def build_projector(
    spec: ProjectorSpec, *, block_dims: Sequence[int], width: int, num_heads: int
) -> Projector:
    """The projector of a spec on an encoder with these blocks, final width and heads."""
    if spec.kind not in get_args(ProjectorKind):
        raise unknown("projector kind", spec.kind, get_args(ProjectorKind))
    if not spec.token_types or not set(spec.token_types) <= set(TOKEN_TYPES):
        raise ValueError(f"a projector gives cls, patch or both, not {list(spec.token_types)}")
    builder: dict[ProjectorKind, Callable[..., Projector]] = {
        "mlp": last_block_mlp,
        "ladder": Ladder,
        "transformer": TransformerProjector,
        "linear": LinearProjector,
    }
    known = [
        name
        for name, parameter in inspect.signature(builder[spec.kind]).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "token_types"
    ]
    for option in spec.options:
        if option not in known:
            raise unknown(f"option of the {spec.kind} projector", option, known)
    types = spec.token_types
    if spec.kind == "transformer":
        options = {"num_heads": num_heads, **spec.options}
        return TransformerProjector(width, spec.dim, token_types=types, **options)
    if spec.kind == "linear":
        return LinearProjector(width, spec.dim, token_types=types, **spec.options)
    if spec.kind == "mlp":
        return last_block_mlp(block_dims, spec.dim, token_types=types, **spec.options)
    return Ladder(block_dims, spec.dim, token_types=types, **spec.options)


def _mlp(width: int, hidden: int, dim: int, *, prenorm: bool, midnorm: bool) -> nn.Sequential:
    """[LayerNorm] Linear [LayerNorm] GELU Linear; LayerNorm's default eps 1e-5."""
    layers: list[nn.Module] = [nn.LayerNorm(width)] if prenorm else []
    layers.append(nn.Linear(width, hidden))
    if midnorm:
        layers.append(nn.LayerNorm(hidden))
    layers += [nn.GELU(), nn.Linear(hidden, dim)]
    return nn.Sequential(*layers)
