"""Is this run learning at all? Guards that stop one which cannot: a first loss that is not that of chance, no number, weights that do not move."""

import math

import torch

from nrms import NrmsError

FIRST_LOSS = 0.35  # nats that the first loss may be above that of equal scores: that of scores with a standard deviation of about 0.8
TOO_GOOD = 0.5  # share of it below which a first loss is suspicious: untrained, what is like the history may win, but not by so much
MOVING = 0.5  # share of the weights with a gradient that a step must change


def check_loss(loss: float, chance: float, step: int, *, knows: bool = False, spread: float = 0.0) -> None:
    """Raises NrmsError when a loss is no number, or when the first is far from that of equal scores; not of a model that `knows` from elsewhere.

    spread: nats that untrained scores of a fixed scale, such as cosines over a small temperature, are above it by nature.
    """
    if not math.isfinite(loss):
        raise NrmsError(f"Training was stopped at step {step}: the loss is {loss}; try a smaller learning rate.")
    if step or knows:
        return
    if loss > chance + FIRST_LOSS + spread:
        raise NrmsError(f"Training was stopped: the first loss is {loss:.2f} nats, but a model that knows nothing has about {chance:.2f}.")
    if loss < TOO_GOOD * chance:
        raise NrmsError(
            f"Training was stopped: the first loss is {loss:.2f} nats, far below the {chance:.2f} of one that knows nothing: is it told the answer?"
        )


def check_losses(losses: dict[str, torch.Tensor], step: int) -> None:
    """Raises NrmsError when one of several losses, or their sum, is no number."""
    if len(losses) > 1 and not math.isfinite(sum(losses.values()).item()):
        wrong = [name for name, loss in losses.items() if not math.isfinite(loss.item())] or ["the sum"]
        raise NrmsError(f"Training was stopped at step {step}: `{wrong[0]}` of the loss is no number; try a smaller learning rate or weight.")


class Movement:
    """How far one step moves each group of weights: |change| / |weights|, and the share of weights with a gradient that changed at all."""

    def __init__(self, groups: dict[str, list[torch.nn.Parameter]]):
        self.groups = groups
        self.before = {name: [p.detach().clone() for p in group] for name, group in groups.items()}

    def measure(self) -> dict[str, dict[str, float]]:
        movement = {}
        for name, group in self.groups.items():
            change = size = moved = driven = 0.0
            for p, before in zip(group, self.before[name], strict=True):
                change += (p.detach() - before).float().pow(2).sum().item()
                size += before.float().pow(2).sum().item()
                if p.grad is not None:
                    has_gradient = p.grad != 0
                    driven += has_gradient.sum().item()
                    moved += ((p.detach() != before) & has_gradient).sum().item()
            movement[name] = {"update_ratio": math.sqrt(change / max(size, 1e-30)), "moved": moved / max(driven, 1)}
        return movement


def check_movement(movement: dict[str, dict[str, float]], optimizer: torch.optim.Optimizer) -> None:
    """Raises NrmsError for a group of which a step changes less than the share MOVING."""
    for group in optimizer.param_groups:
        moved = movement[group["name"]]["moved"]
        if moved < MOVING:
            raise NrmsError(
                f"Training was stopped: a step changed only {moved:.1%} of the weights of the group `{group['name']}` that have a gradient. "
                f"A learning rate of {group['lr']:.1e} is too small for weights stored as {group['params'][0].dtype}; "
                "raise the rate or keep weights in float32."
            )
