"""stable-worldmodel's own LeWM with our model's weights: its `get_cost`, observation and goal encoded beforehand."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from bench.peers.peer import Costs, Peer
from bench.problems import Problem


def get_cost(dtype: str, model: Any, problem: Problem, threads: int) -> Costs:
    theirs = lewm(model.model)

    @torch.inference_mode()
    def costs(problem: Problem, actions: Tensor) -> Tensor:
        S, (_, K, E) = actions.shape[1], problem.context.shape
        info = {
            "emb": problem.context[:, None].expand(1, S, K, E),
            "goal_emb": problem.goal[:, None],
            "goal": problem.goal,
            "pixels": actions.new_empty(1, S, K),
        }
        past = problem.past[:, None].expand(1, S, -1, -1)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            return theirs.get_cost(info, torch.cat([past, actions], dim=2)).float()

    return costs


@functools.cache
def lewm(model: Any, encoder: nn.Module | None = None) -> Any:
    """Their module with the predictor, action encoder and heads of a WorldModel of the published form."""
    from stable_worldmodel.wm.lewm import LeWM
    from stable_worldmodel.wm.lewm.module import MLP, Embedder, Predictor

    c = model.config
    E, A = c.embed_dim, c.action_dim

    def head(projector: Any) -> nn.Module:
        made = MLP(E, c.projector_dim, E, norm_fn=nn.BatchNorm1d)
        made.net[0], made.net[1], made.net[3] = projector.fc1, projector.norm, projector.fc2
        return made

    predictor = Predictor(
        num_frames=c.window,
        depth=c.depth,
        heads=c.heads,
        mlp_dim=c.mlp_dim,
        input_dim=E,
        hidden_dim=c.width,
        dim_head=c.head_dim,
    )
    predictor.pos_embedding.data = model.predictor.position.data[None]
    predictor.transformer.norm = model.predictor.norm
    for name in ("input_proj", "cond_proj", "output_proj"):
        setattr(predictor.transformer, name, getattr(model.predictor, name))
    for theirs, ours in zip(predictor.transformer.layers, model.predictor.blocks, strict=True):
        theirs.adaLN_modulation[-1] = ours.modulation[-1]
        theirs.attn.norm, theirs.attn.to_qkv, theirs.attn.to_out[0] = (
            ours.attention.norm,
            ours.attention.qkv,
            ours.attention.out,
        )
        theirs.mlp.net[0], theirs.mlp.net[1], theirs.mlp.net[4] = ours.mlp.norm, ours.mlp.fc1, ours.mlp.fc2
    actions = Embedder(input_dim=A, smoothed_dim=A, emb_dim=E, mlp_scale=1)
    actions.patch_embed.weight.data, actions.patch_embed.bias.data = torch.eye(A)[..., None], torch.zeros(A)
    actions.embed[0], actions.embed[2] = model.action_encoder[0], model.action_encoder[2]
    projector = head(model.projector) if encoder is not None else nn.Identity()
    made = LeWM(encoder or nn.Identity(), predictor, actions, projector, head(model.pred_proj))
    return made.eval().requires_grad_(False)


PEERS = tuple(
    Peer(
        "stable-worldmodel",
        dtype,
        functools.partial(get_cost, dtype),
        needs=("stable_worldmodel",),
        models=("lewm",),
    )
    for dtype in ("float32", "bfloat16")
)
