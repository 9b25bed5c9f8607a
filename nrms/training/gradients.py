"""How do the gradients of a batch come about? At once, with vectors that stand in, or in two passes where memory is short."""

from collections.abc import Callable

import torch
from accelerate import Accelerator

from nrms.config.resolved import Config
from nrms.data.batches import Batch
from nrms.models.recommender import Recommender, distinct
from nrms.runtime import distributed
from nrms.training.losses import OBJECTIVES, TERMS, Rows
from nrms.training.vector_reuse import VectorReuse

Losses = dict[str, torch.Tensor]


def loss_of(config: Config, batch: Batch, scores: torch.Tensor) -> torch.Tensor:
    """The experiment's loss for scores (B, C) of a batch: divided by the temperature, with the batch's prior."""
    prior = 0.0 if batch.prior is None else batch.prior
    return OBJECTIVES[config.objective](scores.float() / config.temperature + prior, batch.candidate_mask, batch.clicked)


def auxiliary_losses(config: Config, batch: Batch, views: dict[str, torch.Tensor], is_graph: bool) -> Losses:
    """The experiment's auxiliary losses by name, each times its weight. `views` are of all nodes, or of the batch's histories."""
    if not config.terms:
        return {}
    others, mask = batch.candidates.expand(batch.candidate_mask.shape), batch.candidate_mask & ~batch.clicked
    if batch.candidates.dim() == 2:  # the click stands in column 0
        others, mask = others[:, 1:], mask[:, 1:]
    user = batch.history[batch.history_id, 0] if is_graph else batch.history_id
    rows = Rows(user, batch.target, others, mask)
    return {name: weight * TERMS[name](views, rows) for name, weight in config.terms.items()}


def chance_of(config: Config, batch: Batch) -> float:
    """The loss of equal scores on this batch."""
    return loss_of(config, batch, torch.zeros(batch.candidate_mask.shape, device=batch.candidate_mask.device)).item()


class Share:
    """What of a batch this process does: the rows of some of its histories. Scores and views of all processes together are those of the batch."""

    def __init__(self, batch: Batch):
        process, histories = distributed.process_index(), [distributed.share(len(batch.history), i) for i in range(distributed.process_count())]
        parts = [batch.of_histories(h.start, h.stop) for h in histories] if len(histories) > 1 else [(batch, torch.arange(len(batch)))]
        self.histories, self.rows = [len(h) for h in histories], [len(rows) for _, rows in parts]
        self.order = torch.cat([rows for _, rows in parts]).argsort()
        # who has no history reads the first one, and then says nothing of it
        self.batch = parts[process][0] if self.histories[process] else batch.of_histories(0, 1)[0]

    def gathered(self, part: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        """The parts (lengths[i], ...) of all processes one after the other."""
        return distributed.gather(part[: lengths[distributed.process_index()]], lengths)

    def scores(self, part: torch.Tensor) -> torch.Tensor:
        """Scores (B, C) of the whole batch, from those of this process's rows."""
        return self.gathered(part, self.rows)[self.order] if len(self.rows) > 1 else part

    def views(self, part: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Views of all histories, from those of this process's."""
        return {name: self.gathered(view, self.histories) for name, view in part.items()}


def backward(model: Recommender, batch: Batch, config: Config, accelerator: Accelerator, reuse: VectorReuse | None) -> tuple[Losses, int]:
    """One batch's gradients. Returns its losses by name, that of the ranking first, and how many items were encoded."""
    share, is_graph = Share(batch), model.users.is_graph

    def ranking_loss(scores: torch.Tensor) -> torch.Tensor:
        return loss_of(config, batch, share.scores(scores))

    if config.encode_at_once:
        loss, encoded = backward_in_two_passes(model, share.batch, ranking_loss, config.encode_at_once, accelerator)
        losses = {config.objective: loss}
    else:
        scores, encoded, views = model(share.batch, reuse)
        losses = {config.objective: ranking_loss(scores)}
        auxiliary = auxiliary_losses(config, batch, views if is_graph else share.views(views), is_graph)
        # of a graph every process has the views of all nodes, and all of an auxiliary loss's gradient
        accelerator.backward(sum(losses.values()) + sum(auxiliary.values()) / (distributed.process_count() if is_graph else 1))
        losses |= auxiliary
    distributed.all_reduce_gradients(model.parameters())
    encoded = distributed.all_reduce_sum(torch.tensor(reuse.encoded if reuse else encoded)).item()
    return {name: loss.detach() for name, loss in losses.items()}, encoded


def backward_in_two_passes(model: Recommender, batch: Batch, loss_of: Callable, size: int, accelerator: Accelerator) -> tuple[torch.Tensor, int]:
    """The same gradients with the memory of `size` items: GradCache (Gao et al., RepL4NLP 2021). Loss and number of items.

    First all items are encoded without gradients and the gradient of the loss by their vectors is computed; then each part is encoded again, with the
    same random numbers, and that gradient is handed down.
    """
    ids, index = distinct(batch)
    parts, random_states, vectors = ids.split(size), [], []
    with accelerator.autocast():
        with torch.no_grad():
            for part in parts:
                random_states.append(random_state())
                vectors.append(model.items(part))
        table = torch.cat(vectors).requires_grad_()
        _, scores = model.states_and_scores(table, index, batch)
        loss = loss_of(scores)
    accelerator.backward(loss)
    after = random_state()
    for part, state, gradient in zip(parts, random_states, table.grad.split(size), strict=True):
        set_random_state(state)
        with accelerator.autocast():
            again = model.items(part)
        again.backward(gradient)
    set_random_state(after)
    return loss.detach(), len(ids)


def random_state() -> dict[str, torch.Tensor]:
    return {"cpu": torch.get_rng_state()} | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
