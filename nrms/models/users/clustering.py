"""Which vectors belong together? k-means and DPC-KNN, in blocks, so that memory does not grow with the square of their number.

Both give every token (T, D) a cluster number (T,) and every cluster the mean of its tokens (K, D). A cluster without tokens keeps its centre.
"""

import torch

BLOCK = 1 << 22  # distances at a time: bounds memory
EXACT = 20_000  # tokens among which DPC-KNN looks for centres; of more a sample is drawn, which bounds its time
ROUNDS = 10  # of k-means, unless nothing moves before


def distances(tokens: torch.Tensor, others: torch.Tensor):
    """(first row, squared distances (b, n) from a block of tokens to all others), block by block.

    Both are seen from the mean of the others: what all vectors have in common would cost precision, not change a distance.
    """
    mean = others.mean(0)
    others = others - mean
    square = others.square().sum(1)
    size = max(1, BLOCK // max(len(others), 1))
    for begin in range(0, len(tokens), size):
        block = tokens[begin : begin + size] - mean
        yield begin, torch.addmm(square, block, others.T, alpha=-2).add_(block.square().sum(1, keepdim=True)).clamp_min_(0)


def closest(tokens: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """The number of the nearest centre of every token, (T,)."""
    return torch.cat([d.argmin(1) for _, d in distances(tokens, centres)])


def means(tokens: torch.Tensor, label: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """The mean of each cluster's tokens (K, D)."""
    count = torch.bincount(label, minlength=len(centres))[:, None]
    return torch.where(count > 0, torch.zeros_like(centres).index_add_(0, label, tokens) / count.clamp_min(1), centres)


def kmeans(tokens: torch.Tensor, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Lloyd's algorithm from `count` tokens drawn without replacement: labels (T,), means (K, D)."""
    centres = tokens[torch.randperm(len(tokens), generator=generator)[:count].to(tokens.device)]
    label = closest(tokens, centres)
    for _ in range(ROUNDS):
        centres, before = means(tokens, label, centres), label
        label = closest(tokens, centres)
        if torch.equal(label, before):
            break
    return label, means(tokens, label, centres)


def peaks(tokens: torch.Tensor, share: float) -> torch.Tensor:
    """How much each token is a centre, (T,): log of its density times its distance to the nearest token that is denser; Du et al., KBS 2016.

    Distances are over sqrt(D). Density: exp of minus the mean squared distance to the nearest tokens, that `share` of all, the token itself counted,
    as in MISSRec's code; of equals the first is the denser. The densest token takes the largest distance there is. Minus infinity: another token is
    the same.
    """
    k = max(1, round(share * len(tokens) + 0.5 - 1e-9))  # rounded up
    sparsity = torch.cat([d.topk(min(k, len(tokens)), largest=False).values.mean(1) for _, d in distances(tokens, tokens)]) / tokens.shape[1]
    rank = sparsity.argsort(stable=True).argsort()
    separation = torch.empty_like(sparsity)
    for begin, d in distances(tokens, tokens):
        block = rank[begin : begin + len(d)]
        denser = rank < block[:, None]
        separation[begin : begin + len(d)] = torch.where(block == 0, d.max(1).values, d.masked_fill(~denser, torch.inf).min(1).values)
    return (separation / tokens.shape[1]).log() / 2 - sparsity  # the product itself would be 0 where distances are large


def dpc_knn(tokens: torch.Tensor, count: int, generator: torch.Generator, share: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres are the `count` tokens of highest `peaks`, every token goes to the nearest: labels (T,), means (K, D).

    Distances are over the tokens' standard deviation, for `peaks` depends on their unit: where it is small distance alone decides, where it is
    large density alone. Exact up to EXACT tokens; of more, centres are found in a sample of that size, and those beyond it are drawn.
    """
    order = torch.randperm(len(tokens), generator=generator).to(tokens.device)
    sample = order[:EXACT].sort().values
    spread = (tokens - tokens.mean(0)).square().mean().sqrt().clamp_min(torch.finfo(tokens.dtype).tiny)
    highest = peaks(tokens[sample] / spread, share).topk(min(count, len(sample))).indices
    centres = tokens[torch.cat([sample[highest], order[EXACT : max(count, EXACT)]])]
    label = closest(tokens, centres)
    return label, means(tokens, label, centres)


CLUSTERS = {"kmeans": kmeans, "dpc": dpc_knn}
