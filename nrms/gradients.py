"""How do the gradients of a batch come about? At once, with vectors that stand in, or in two passes where memory is short."""

from collections.abc import Callable
from functools import partial

import torch
from accelerate import Accelerator

from nrms.config import Config
from nrms.data.batches import Batch
from nrms.items.reuse import Reuse
from nrms.objectives import OBJECTIVES
from nrms.parameters import GRAPHS
from nrms.recommender import Recommender, distinct
from nrms.terms import TERMS, Rows


def loss_of(config: Config, batch: Batch, scores: torch.Tensor) -> torch.Tensor:
    """The experiment's objective for scores (B, C) of a batch: divided by the temperature, with the batch's prior."""
    prior = 0.0 if batch.prior is None else batch.prior
    return OBJECTIVES[config.objective](scores.float() / config.temperature + prior, batch.candidate_mask, batch.clicked)


def terms_of(config: Config, batch: Batch, views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The experiment's further terms by name, each times its weight. `views` are of all nodes, or of the batch's readers."""
    if not config.terms:
        return {}
    mask = batch.candidate_mask & ~batch.clicked
    if batch.candidates.dim() == 2:  # the click stands in column 0
        others, mask = batch.candidates[:, 1:], mask[:, 1:]
    else:
        others = batch.candidates.expand(mask.shape)
    user = batch.history[batch.reader, 0] if config.users in GRAPHS else batch.reader
    rows = Rows(user, batch.target, others, mask)
    return {name: weight * TERMS[name](views, rows) for name, weight in config.terms.items()}


def chance_of(config: Config, batch: Batch) -> float:
    """The loss of equal scores on this batch."""
    return loss_of(config, batch, torch.zeros(batch.candidate_mask.shape, device=batch.candidate_mask.device)).item()


def backward(model: Recommender, batch: Batch, config: Config, accelerator: Accelerator, reuse: Reuse | None) -> tuple[dict[str, torch.Tensor], int]:
    """One batch's gradients. Returns its loss by part, the objective first, and how many items were encoded."""
    objective = partial(loss_of, config, batch)
    if config.encode_at_once:
        loss, encoded = backward_in_two_passes(accelerator.unwrap_model(model), batch, objective, config.encode_at_once, accelerator)
        return {config.objective: loss}, encoded
    scores, encoded, views = model(batch, reuse)
    parts = {config.objective: objective(scores)} | terms_of(config, batch, views)
    accelerator.backward(sum(parts.values()))
    return {name: part.detach() for name, part in parts.items()}, reuse.encoded if reuse else encoded


def backward_in_two_passes(model: Recommender, batch: Batch, loss_of: Callable, part: int, accelerator: Accelerator) -> tuple[torch.Tensor, int]:
    """The same gradients with the memory of `part` items: GradCache (Gao et al., RepL4NLP 2021). Loss and number of items.

    First all items are encoded without gradients and the gradient of the loss by their vectors is found; then each part is encoded again, with the
    same random numbers, and that gradient is handed down.
    """
    ids, place = distinct(batch)
    parts, states, vectors = ids.split(part), [], []
    with accelerator.autocast():
        with torch.no_grad():
            for some in parts:
                states.append(random_state())
                vectors.append(model.items(some))
        table = torch.cat(vectors).requires_grad_()
        loss = loss_of(model.rank(table, place, batch))
    accelerator.backward(loss)
    after = random_state()
    for some, state, gradient in zip(parts, states, table.grad.split(part), strict=True):
        set_random_state(state)
        with accelerator.autocast():
            again = model.items(some)
        again.backward(gradient)
    set_random_state(after)
    return loss.detach(), len(ids)


def random_state() -> dict[str, torch.Tensor]:
    return {"cpu": torch.get_rng_state()} | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
