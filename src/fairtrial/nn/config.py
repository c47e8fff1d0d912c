"""What a model is, as data: one frozen config with a letter per layer, its parameter count and its cache bytes.

Loads without torch. Letters: K Kimi Delta Attention (KDA), G scalar gate with delta rule (GDN), N KDA's gate without
the delta rule, C KDA without short convolution, M multi-head latent attention (MLA), D MLA with a DSA indexer,
S MLA on the selection of the last D before it, F full attention (rotary), P full attention without positions,
W sliding-window attention (rotary). Sources: Kimi Linear report, section 4; DeepSeek-V3.2-Exp report, section 2;
GLM-5 report (2602.15763).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fairtrial.core.config import Config

LINEAR = "KGNC"
"""Letters whose cache does not grow: one fp32 state matrix per head."""
LATENT = "MDS"
"""Letters that cache one latent row per token."""
SOFTMAX = "FPW"
"""Letters that cache keys and values per token."""
LETTERS = LINEAR + LATENT + SOFTMAX

Count = Annotated[int, Field(ge=1)]
Layout = Literal["none", "half", "interleaved"]


class ModelConfig(Config):
    """One decoder. Widths are in numbers (features), never bytes; defaults are sensible for a model of 1-5 M."""

    vocab: Count
    """Number of token ids."""
    hidden: Count
    """Width D of the residual stream."""
    layers: Count
    """Number of decoder layers (MTP not counted)."""
    pattern: str
    """One letter per layer, tiled over `layers` ("KKKM" over 8 layers = KKKMKKKM)."""
    intermediate: Count
    """Width of the dense SwiGLU."""
    tied: bool = False
    """Whether the output head is the embedding matrix."""
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    """Added to the mean square in RMSNorm."""
    init_std: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of every linear and of the embedding at the start."""

    heads: Count = 4
    """Query heads of the softmax layers (F, P, W, M, D, S)."""
    kv_heads: Count | None = None
    """Key/value heads of F, P, W; None: as many as `heads`."""
    head_dim: Count = 64
    """Width of a head of F, P, W."""
    window: Count = 256
    """W: number of positions a token sees, itself included."""
    rope_theta: Annotated[float, Field(gt=0)] = 10000.0
    """Base of the rotary frequencies."""
    yarn_factor: Annotated[float, Field(ge=1)] = 1.0
    """MLA: YaRN context extension factor (1: none)."""
    yarn_original: Count = 4096
    """MLA: context in tokens before YaRN's extension."""

    kda_heads: Count = 4
    """Query/key heads of K, G, N, C."""
    kda_value_heads: Count | None = None
    """Value heads of K, G, N, C (a multiple of `kda_heads`); None: as many as `kda_heads`."""
    kda_key_dim: Count = 64
    """Width of a key of K, G, N, C."""
    kda_value_dim: Count | None = None
    """Width of a value of K, G, N, C; None: as `kda_key_dim`."""
    kda_gate: Literal["softplus", "bounded"] = "softplus"
    """Forget gate: -exp(A) softplus(z) (Kimi-Linear-48B) or lower * sigmoid(exp(A) z) (Kimi K3, GLM-5.3-Flash)."""
    kda_gate_lower: Annotated[float, Field(lt=0)] = -5.0
    """Bounded gate: the smallest log decay per token."""
    kda_gate_rank: Count | None = 64
    """Rank of the forget and the output gate's projections; None: full rank."""
    kda_negative_eigenvalues: bool = False
    """beta in [0, 2] instead of [0, 1]."""
    conv_width: Annotated[int, Field(ge=2)] = 4
    """Taps of the depthwise causal convolution over q, k, v (not in C)."""
    softmax_conv: bool = False
    """Whether F, P, W have that convolution too: small models then copy from their context after far fewer steps."""

    q_rank: Count | None = None
    """MLA: width of the query latent; None: queries straight from the residual stream."""
    kv_rank: Count = 128
    """MLA: width of the cached latent."""
    nope_dim: Count = 64
    """MLA: width of a head's part that comes from the latent."""
    rope_dim: Count = 32
    """MLA: width of the key part shared by all heads (rotated unless `mla_rope` is none)."""
    mla_value_dim: Count = 64
    """MLA: width of a head's value."""
    latent_norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    """MLA: added to the mean square where the latents are normalised."""
    mla_rope: Layout = "none"
    """MLA: rotary layout of `rope_dim`; none: NoPE (Kimi Linear)."""

    index_heads: Count = 4
    """DSA: heads of the lightning indexer."""
    index_dim: Count = 32
    """DSA: width of an indexer head."""
    index_topk: Count = 64
    """DSA: keys that a token attends to."""
    index_rope_dim: Annotated[int, Field(ge=0)] = 0
    """DSA: rotated part of `index_dim` (its first features)."""
    index_rope: Layout = "none"
    """DSA: rotary layout in the indexer (DeepSeek-V3.2: half, GLM-5: interleaved)."""
    index_pool: Count = 1
    """DSA: tokens per indexer key (GLM-5.3-Flash: 16); above 1 whole pools are chosen, and the open one is added."""

    experts: Annotated[int, Field(ge=0)] = 0
    """Routed experts; 0: every layer has the dense SwiGLU."""
    experts_per_token: Count = 1
    """Routed experts that a token uses."""
    shared_experts: Annotated[int, Field(ge=0)] = 1
    """Experts that every token uses (one SwiGLU of that many times `expert_intermediate`)."""
    expert_intermediate: Count = 64
    """Width of an expert."""
    dense_layers: Annotated[int, Field(ge=0)] = 1
    """First layers that keep the dense SwiGLU in a model with experts."""
    expert_groups: Count = 1
    """Groups that the experts are divided into for the selection."""
    expert_topk_groups: Count = 1
    """Groups that a token may choose experts from."""
    route_scale: Annotated[float, Field(gt=0)] = 1.0
    """Factor on the routed experts' weights."""
    route_renormalise: bool = True
    """Whether the chosen experts' weights are divided by their sum first."""

    mtp_steps: Annotated[int, Field(ge=0)] = 0
    """Multi-token-prediction steps beyond the next token; all share one set of weights."""

    @field_validator("pattern")
    @classmethod
    def _known_letters(cls, pattern: str) -> str:
        if not pattern:
            raise ValueError(f"needs at least one letter of {LETTERS}")
        for position, letter in enumerate(pattern, start=1):
            if letter not in LETTERS:
                raise ValueError(f'unknown letter "{letter}" at position {position}; known: {" ".join(LETTERS)}')
        return pattern

    @model_validator(mode="after")
    def _fits_together(self) -> ModelConfig:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> list[str]:
        """What does not fit together, each naming its field."""
        letters, out = set(self.letters), list[str]()

        def need(ok: bool, message: str) -> None:
            if not ok:
                out.append(message)

        need(len(self.pattern) <= self.layers, f"pattern has {len(self.pattern)} letters for {self.layers} layers")
        groups = f"{self.expert_groups} expert_groups"
        if letters & set(SOFTMAX):
            need(self.heads % self.key_heads == 0, f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if letters & set("FW"):
            need(self.head_dim % 2 == 0, f"head_dim {self.head_dim} must be even for rotary layers (F, W)")
        if letters & set(LINEAR):
            need(
                self.value_heads % self.kda_heads == 0,
                f"kda_value_heads {self.kda_value_heads} is not a multiple of kda_heads {self.kda_heads}",
            )
        if letters & set(LATENT) and self.mla_rope != "none":
            need(self.rope_dim % 2 == 0, f"rope_dim {self.rope_dim} must be even where mla_rope is {self.mla_rope}")
        if "D" in letters:
            need(self.index_rope_dim <= self.index_dim, f"index_rope_dim exceeds index_dim {self.index_dim}")
            need(self.index_rope_dim % 2 == 0, f"index_rope_dim {self.index_rope_dim} must be even")
            pool = f"index_pool {self.index_pool}"
            need(self.index_topk % self.index_pool == 0, f"index_topk {self.index_topk} is not a multiple of {pool}")
            need(self.index_pool == 1 or self.index_rope == "none", f"index_rope must be none with {pool} (no place)")
        if "S" in letters:
            first = self.letters.index("S")
            need("D" in self.letters[:first], f"pattern: S in layer {first + 1} has no D before it to share with")
        if self.experts:
            need(self.experts_per_token <= self.experts, f"experts_per_token exceeds experts {self.experts}")
            need(self.experts % self.expert_groups == 0, f"experts {self.experts} is not a multiple of {groups}")
            need(self.expert_topk_groups <= self.expert_groups, f"expert_topk_groups exceeds {groups}")
            need(
                self.expert_groups == 1 or self.experts // self.expert_groups >= 2,
                f"experts {self.experts} leaves groups of one with {groups}; a group needs two",
            )
            reach = self.expert_topk_groups * (self.experts // self.expert_groups)
            need(self.experts_per_token <= reach, f"experts_per_token exceeds the {reach} of expert_topk_groups")
        return out

    @property
    def letters(self) -> str:
        """The pattern tiled over the layers: one letter per layer."""
        return (self.pattern * (self.layers // len(self.pattern) + 1))[: self.layers]

    @property
    def key_heads(self) -> int:
        """Key/value heads of F, P, W."""
        return self.kv_heads or self.heads

    @property
    def value_heads(self) -> int:
        """Value heads of K, G, N, C."""
        return self.kda_value_heads or self.kda_heads

    @property
    def value_dim(self) -> int:
        """Width of a value of K, G, N, C."""
        return self.kda_value_dim or self.kda_key_dim

    @property
    def latent_dim(self) -> int:
        """MLA: width of the row cached per token."""
        return self.kv_rank + self.rope_dim

    def is_moe(self, layer: int) -> bool:
        """Whether layer `layer` (from 0; `layers` is the MTP block) has experts."""
        return bool(self.experts) and layer >= self.dense_layers

    def parameters(self, *, active: bool = False) -> int:
        """Number of trained parameters; `active`: those that one token's forward pass multiplies with.

        Active counts the chosen and the shared experts and the output head, not the embedding lookup and not MTP.
        """
        from fairtrial.nn.shapes import count

        return count(self, active=active)

    def cache_bytes(self, context: int, batch: int = 1, dtype_bytes: int = 4) -> int:
        """Bytes of the decode cache after `context` tokens in each of `batch` sequences, by formula.

        KDA's states are fp32 whatever `dtype_bytes` says; everything else has `dtype_bytes` per number. One int64
        position per sequence is counted.
        """
        return batch * (8 + sum(self.layer_cache_bytes(letter, context, dtype_bytes) for letter in self.letters))

    def layer_cache_bytes(self, letter: str, context: int, dtype_bytes: int = 4) -> int:
        """Bytes that one layer of kind `letter` keeps for one sequence after `context` tokens."""
        if letter in LINEAR:
            state = self.value_heads * self.kda_key_dim * self.value_dim * 4
            width = 2 * self.kda_heads * self.kda_key_dim + self.value_heads * self.value_dim
            return state + (0 if letter == "C" else (self.conv_width - 1) * width * dtype_bytes)
        if letter in LATENT:
            index = 0
            if letter == "D":  # keys of complete pools, and of the last tokens key and gate
                index = (context // self.index_pool + 2 * (self.index_pool - 1)) * self.index_dim
            return (context * self.latent_dim + index) * dtype_bytes
        rows = min(context, self.window) if letter == "W" else context
        tail = (self.conv_width - 1) * (self.heads + 2 * self.key_heads) if self.softmax_conv else 0
        return (rows * 2 * self.key_heads + tail) * self.head_dim * dtype_bytes
