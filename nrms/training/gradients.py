"""How do the gradients of a batch come about? At once, with vectors that stand in, or in two passes where memory is short."""

from collections.abc import Callable

import torch
from accelerate import Accelerator

from nrms.config.parameters import GRAPHS
from nrms.config.resolved import Config
from nrms.data.batches import Batch
from nrms.models.recommender import Recommender, distinct
from nrms.runtime import distributed
from nrms.training.losses import OBJECTIVES, TERMS, Rows
from nrms.training.vector_reuse import Reuse


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


class Share:
    """What of a batch this process does: the rows of some of its readers. Scores and views of all processes together are those of the batch."""

    def __init__(self, batch: Batch):
        readers = [distributed.share(len(batch.history), of) for of in range(distributed.process_count())]
        parts = [batch.of_readers(r.start, r.stop) for r in readers] if len(readers) > 1 else [(batch, torch.arange(len(batch)))]
        self.readers, self.rows = [len(r) for r in readers], [len(rows) for _, rows in parts]
        self.back = torch.cat([rows for _, rows in parts]).argsort()
        # who has no reader reads the first one, and then says nothing of it
        self.batch = parts[distributed.process_index()][0] if self.readers[distributed.process_index()] else batch.of_readers(0, 1)[0]

    def scores(self, own: torch.Tensor) -> torch.Tensor:
        """Scores (B, C) of the whole batch, given those of this process's rows."""
        return distributed.gather(own[: self.rows[distributed.process_index()]], self.rows)[self.back] if len(self.rows) > 1 else own

    def views(self, own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Views of all readers, given those of this process's."""
        return {name: distributed.gather(view[: self.readers[distributed.process_index()]], self.readers) for name, view in own.items()}


def backward(model: Recommender, batch: Batch, config: Config, accelerator: Accelerator, reuse: Reuse | None) -> tuple[dict[str, torch.Tensor], int]:
    """One batch's gradients. Returns its loss by part, the objective first, and how many items were encoded."""
    share = Share(batch)

    def objective(scores: torch.Tensor) -> torch.Tensor:
        return loss_of(config, batch, share.scores(scores))

    if config.encode_at_once:
        loss, encoded = backward_in_two_passes(model, share.batch, objective, config.encode_at_once, accelerator)
        parts = {config.objective: loss}
    else:
        scores, encoded, views = model(share.batch, reuse)
        parts = {config.objective: objective(scores)}
        whole = config.users in GRAPHS  # every process has the views of all nodes, and all of a term's gradient
        terms = terms_of(config, batch, views if whole else share.views(views))
        accelerator.backward(sum(parts.values()) + sum(terms.values()) / (distributed.process_count() if whole else 1))
        parts |= terms
    distributed.all_reduce_gradients(model.parameters())
    encoded = distributed.all_reduce_sum(torch.tensor(reuse.encoded if reuse else encoded)).item()
    return {name: part.detach() for name, part in parts.items()}, encoded


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
