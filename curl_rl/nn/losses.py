"""The losses, as pure functions of tensors."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def squashed_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Sample a = tanh(mean + std * noise) and its log-probability.

    Args: mean, log_std and standard normal noise, each (B, A). Returns a (B, A) and log pi(a) (B,), in float32.
    Source: Haarnoja et al. 2018, appendix C; log(1 - tanh(u)^2) is written as 2 (log 2 - u - softplus(-2u)), which is
    exact where the original's log(1 - a^2 + 1e-6) saturates.
    """
    mean, log_std, noise = mean.float(), log_std.float(), noise.float()
    u = mean + log_std.exp() * noise
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    squash = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))
    return u.tanh(), (gaussian - squash).sum(-1)


def soft_q_target(reward: Tensor, discount: Tensor, next_q: Tensor, next_log_prob: Tensor, alpha: Tensor) -> Tensor:
    """Return r + discount * (min_i Q_i - alpha * log pi), shape (B,).

    Args: reward, discount and next_log_prob (B,), next_q (2, B). Source: Haarnoja et al. 2018, equation 3.
    """
    return reward + discount * (next_q.amin(0) - alpha * next_log_prob)


def twin_q_loss(q: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted squared error summed over both heads and averaged over the batch.

    Args: q (2, B), target and importance weights (B,).
    """
    return ((q - target).square() * weight).mean(1).sum()


def project_distribution(probabilities: Tensor, reward: Tensor, discount: Tensor, support: Tensor) -> Tensor:
    """Move a distribution over returns by r + discount * z and project it back onto its atoms, shape (B, atoms).

    Args: probabilities (B, atoms), reward and discount (B,), evenly spaced support (atoms,). Source: Bellemare et al.
    2017, equation 7, whose triangular kernel is written out: no scatter, so the sum's order is fixed on every device.
    """
    low, high = support[0], support[-1]
    moved = (reward[:, None] + discount[:, None] * support).clamp(low, high)
    place = (moved - low) / (high - low) * (len(support) - 1)
    atoms = torch.arange(len(support), device=support.device)
    share = (place[:, None] - atoms[:, None]).abs_().neg_().add_(1).clamp_(min=0)  # (B, to, from)
    return (share @ probabilities[..., None]).squeeze(-1)


def categorical_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return each sample's cross-entropy against a distribution over atoms, shape (B,); both arguments (B, atoms)."""
    return -(target * logits.float().log_softmax(-1)).sum(-1)


def huber_loss(value: Tensor, target: Tensor) -> Tensor:
    """Return each sample's Huber loss (B,) of its value (B, 1) against a target (B, 1) (Mnih et al. 2015)."""
    return F.huber_loss(value.float(), target, reduction="none").sum(1)


def _full(x: Tensor) -> Tensor:
    """Return in float32 what is narrower."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def bilinear_logits(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    """Return the similarities q_i W k_j in float32, shape (B, B), each row's maximum subtracted.

    Args: query (B, d), key (B, d), weight (d, d). Source: Laskin et al. 2020 (CURL), algorithm 1.
    """
    logits = query.float() @ (weight.float() @ key.float().T)
    return logits - logits.amax(1, keepdim=True).detach()


def info_nce(logits: Tensor, positive: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of each row against its positive, and the share of rows whose maximum lies there.

    Args: logits (B, N), each row's column of the positive (B,) int64, or None for the diagonal. Source: van den Oord et
    al. 2018, equation 4.
    """
    labels = torch.arange(logits.shape[0], device=logits.device) if positive is None else positive
    accuracy = (logits.argmax(1) == labels).float().mean()
    return F.cross_entropy(_full(logits), labels), accuracy


def masked_info_nce(logits: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy of the valid rows against their diagonal, and the share of them that peak there.

    Args: logits (..., B, B), positives on the diagonal; valid (..., B) bool. What is not valid is neither an anchor nor
    a negative; without a valid row both results are 0. Source: van den Oord et al. 2018, equation 4.
    """
    logits = _full(logits)
    # The least number instead of -inf: a row without any valid negative stays finite.
    logits = logits.masked_fill(~(valid[..., :, None] & valid[..., None, :]), torch.finfo(logits.dtype).min)
    losses = -logits.log_softmax(-1).diagonal(dim1=-2, dim2=-1)
    correct = logits.argmax(-1) == torch.arange(logits.shape[-1], device=logits.device)
    count = valid.sum().clamp(min=1)
    return torch.where(valid, losses, 0).sum() / count, (correct & valid).sum() / count


def residual_information(sample: Tensor, forward: Tensor, backward: Tensor, valid: Tensor) -> Tensor:
    """Return the valid rows' mean of log e(z) - log b(z) in nats, which bounds I(X; Z | Y) from above; 0 without one.

    Args: z drawn from e, and the means of e and b, Gaussians of variance 1, each (B, d); valid (B,) bool. Source:
    Fischer 2020 (The conditional entropy bottleneck), section 3.
    """
    sample = _full(sample)
    each = 0.5 * ((sample - _full(backward)).square() - (sample - _full(forward)).square()).sum(1)
    return torch.where(valid, each, 0).sum() / valid.sum().clamp(min=1)


def predictive_information(sample: Tensor, backward: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the valid rows' mean of log b(z_i | y_i) / mean_k b(z_i | y_k) in nats, and how often y_i is likeliest.

    A bound of I(Y; Z) from below, at most the logarithm of how many are valid; what is not valid is no negative.
    Args: as above. Source: Fischer 2020, section 3 (CatGen).
    """
    sample, backward = _full(sample), _full(backward)
    # log b(z_i | y_k) but for what all k have in common.
    loss, accuracy = masked_info_nce(sample @ backward.T - 0.5 * backward.square().sum(1), valid)
    return valid.sum().clamp(min=1).to(loss.dtype).log() - loss, accuracy


def latent_prediction_loss(prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosine distances summed over the steps and averaged over the batch, and the valid steps' mean cosine.

    Args: prediction and target (B, K, d), valid (B, K) bool. What is not valid adds 0; without a valid step both are 0.
    Source: Schwarzer et al. 2021 (SPR), section 2.2; 1 is added to each term, so that 0 is the least.
    """
    cosine = _cosine(prediction, target)
    similarity = torch.where(valid, cosine, 0).sum() / valid.sum().clamp(min=1)
    return torch.where(valid, 1 - cosine, 0).sum() / len(cosine), similarity.detach()


def queue_logits(query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
    """Return each query's similarity to its key, then to every row of the queue, in float32, shape (B, 1 + K).

    Args: query and key (B, d), queue (K, d), all of unit length. Source: He et al. 2020 (MoCo), algorithm 1.
    """
    query, key, queue = _full(query), _full(key), _full(queue)
    return torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], 1)


def mix_negatives(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Return share * first + (1 - share) * second at unit length, shape (B, s, d); no gradient passes.

    Args: first and second (B, s, d), or (B, 1, d) for a query that all mixtures share, share (B, s, 1). Source:
    Kalantidis et al. 2020 (MoCHi), section 4: two negatives with a share below 1, or a query with one below 0.5.
    """
    first, second = _full(first.detach()), _full(second.detach())
    return F.normalize(share * first + (1 - share) * second, dim=-1)


def supervised_contrastive(embeddings: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy of each row against all others of its class, and how often the nearest is one.

    Args: embeddings (N, d) of any length, labels (N,), each held by at least two rows. Source: Khosla et al. 2020,
    equation 2 (L_out): the mean over a row's positives lies outside the logarithm.
    """
    embeddings = F.normalize(_full(embeddings), dim=1)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    logits = (embeddings @ embeddings.T / temperature).masked_fill(itself, -math.inf)
    positive = (labels[:, None] == labels) & ~itself
    log_share = logits.log_softmax(1).masked_fill(~positive, 0)
    accuracy = positive.gather(1, logits.argmax(1, keepdim=True)).float().mean()
    return -(log_share.sum(1) / positive.sum(1)).mean(), accuracy


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of each view against the other of its image, and how often that is the nearest.

    Args: embeddings of both views (B, d), of any length. Source: Chen et al. 2020 (SimCLR), equation 1: the supervised
    loss where every image is a class.
    """
    labels = torch.arange(len(first), device=first.device).repeat(2)
    return supervised_contrastive(torch.cat([first, second]), labels, temperature)


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, *, iterations: int = 3, counted: Tensor | None = None) -> Tensor:
    """Return soft assignments of samples to prototypes that use all prototypes alike, shaped as the scores.

    Args: scores (..., n, K); epsilon, the weight of the assignments' entropy; `counted` (n,) bool leaves out samples
    whose rows then mean nothing. Each row sums to 1; each column's sum nears the n-th part of K with the iterations.
    Source: Cuturi 2013 (Sinkhorn-Knopp); Caron et al. 2020 (SwAV), equations 3 to 5.
    """
    kernel = _full(scores) / epsilon
    if counted is None:
        counted = torch.ones(kernel.shape[-2], dtype=torch.bool, device=kernel.device)
    kernel += torch.where(counted, 0, -1e37)[:, None]
    # Without the maxima of its columns, then of its rows, each of them keeps an entry of 1: no sum can underflow.
    kernel -= kernel.amax(-2, keepdim=True)
    peaks = kernel.amax(-1, keepdim=True)
    kernel.sub_(peaks).exp_()
    samples, prototypes = peaks.exp(), torch.ones_like(kernel[..., :1, :])
    for _ in range(iterations):
        prototypes = 1 / (samples.mT @ kernel)
        prototypes = (prototypes / prototypes.amax(-1, keepdim=True)).clamp(min=1e-30)  # nor can they overflow
        samples = counted[:, None] / (kernel @ prototypes.mT)
    kernel *= prototypes
    return kernel / kernel.sum(-1, keepdim=True)


def swapped_prediction(logits: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy of each view against the other's codes, and the share of views that agree on top.

    Args: logits and codes, both (2, B, K). Source: Caron et al. 2020 (SwAV), equations 1 and 2.
    """
    log_probabilities = _full(logits).log_softmax(-1)
    swapped = codes.flip(0)
    accuracy = (logits.argmax(-1) == swapped.argmax(-1)).float().mean()
    return -(swapped * log_probabilities).sum(-1).mean(), accuracy


def cluster_cross_entropy(query: Tensor, key: Tensor, centroids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of queries against their keys' nearest centroids, and the share whose nearest it is too.

    Args: query and key (B, d), centroids (K, d), all of unit length. Source: Caron et al. 2018 (DeepCluster), equations
    1 and 2; Caron et al. 2020 (SwAV), DeepCluster-v2, for centroids and a temperature in the classifier's place.
    """
    query, key, centroids = _full(query), _full(key), _full(centroids)
    return info_nce(query @ centroids.T / temperature, (key @ centroids.T).argmax(1))


def cosine_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Return 1 minus the cosine of the angle between rows, averaged over the batch: 0 at the least, 2 at the most.

    Args: prediction and target (B, d). Source: Chen and He 2020 (SimSiam), equation 1, plus 1; Grill et al. 2020
    (BYOL), equation 2, is twice this.
    """
    return 1 - _cosine(prediction, target).mean()


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    # As in SPR's code a length below 1e-3 counts as 1e-3: a row near 0 would take a huge gradient.
    one, other = (F.normalize(_full(x), dim=-1, eps=1e-3) for x in (one, other))
    return (one * other).sum(-1)


def barlow_twins_loss(one: Tensor, other: Tensor, redundancy_weight: float) -> Tensor:
    """Return how far the cross-correlation C of two views is from the identity, divided by the dimension d.

    That is mean_i (1 - C_ii)^2 + redundancy_weight * sum_{i != j} C_ij^2 / d, which is 1 where features are constant.
    Args: one and other (B, d). Source: Zbontar et al. 2021 (Barlow Twins), equations 1 and 2.
    """
    # The paper's sum over dimensions would outweigh an agent's loss by the width of the embedding.
    correlation = _standardised(one).T @ _standardised(other) / len(one)
    diagonal = correlation.diagonal()
    redundancy = (correlation - diagonal.diag()).square().sum() / len(diagonal)
    return (1 - diagonal).square().mean() + redundancy_weight * redundancy


def _standardised(x: Tensor) -> Tensor:
    x = _full(x)
    variance, mean = torch.var_mean(x, 0, correction=0)
    # Batch normalisation's epsilon, which keeps a constant feature at 0.
    return (x - mean) * (variance + 1e-5).rsqrt()


def vicreg_terms(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return invariance, variance and covariance terms, unweighted.

    They are the mean squared difference; the mean shortfall of each feature's standard deviation from 1, averaged over
    both views; and the squared covariances between different features over d, added over both views.
    Args: one and other (B, d). Source: Bardes et al. 2022 (VICReg), equations 1 to 5; like the authors' code the
    invariance is averaged over features too and the variance over views.
    """
    one, other = _full(one), _full(other)
    terms = torch.stack([_variance_and_covariance(x) for x in (one, other)])
    return F.mse_loss(one, other), terms[:, 0].mean(), terms[:, 1].sum()


def _variance_and_covariance(x: Tensor) -> Tensor:
    covariance = _covariance(x - x.mean(0))
    variance = covariance.diagonal()
    # The authors' epsilon: the root's slope is finite where a feature is constant.
    shortfall = (1 - (variance + 1e-4).sqrt()).relu().mean()
    return torch.stack([shortfall, (covariance - variance.diag()).square().sum() / len(variance)])


def _covariance(centred: Tensor) -> Tensor:
    return centred.T @ centred / (len(centred) - 1)


def whiten(x: Tensor, epsilon: float) -> Tensor:
    """Return L^-1 (x - mean) with L L^T the covariance of the rows, so that their own covariance is the identity.

    Args: x (B, d), B > d; epsilon, the share of the covariance that gives way to a multiple of the identity.
    Source: Ermolov et al. 2021 (W-MSE), section 3, by Cholesky's factor as there.
    """
    x = _full(x)
    centred = x - x.mean(0)
    covariance = _covariance(centred)
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    # The authors shrink towards the identity; the mean variance is added so that the factor exists at any scale.
    shrunk = (1 - epsilon) * covariance + epsilon * (1 + covariance.diagonal().mean()) * identity
    # `cholesky` would wait for the device to say whether it succeeded, which the shrinkage ensures.
    factor = torch.linalg.cholesky_ex(shrunk).L
    return torch.linalg.solve_triangular(factor, centred.T, upper=False).T


def wmse_loss(one: Tensor, other: Tensor, epsilon: float) -> Tensor:
    """Return the mean squared distance between whitened rows of length 1: 0 to 4, and 2 where features are constant.

    Args: one and other (B, d), B > d, each whitened by itself; epsilon as in `whiten`. Source: Ermolov et al. 2021
    (W-MSE), section 3.
    """
    return 2 * cosine_distance(whiten(one, epsilon), whiten(other, epsilon))


@torch.no_grad()
def concentration(
    points: Tensor, centres: Tensor, assignment: Tensor, temperature: float, *, smoothing: float = 10.0
) -> Tensor:
    """Return each cluster's concentration, the temperature of its prototype, shape (K,), `temperature` in the mean.

    Args: points (n, d), centres (K, d), each point's cluster (n,) int64. Source: Li et al. 2021 (PCL), equation 12, and
    as in its code the largest value for clusters of one point or none, and none beyond the outer tenths.
    """
    points, centres = _full(points), _full(centres)
    members = F.one_hot(assignment, len(centres)).to(points.dtype)
    size = members.sum(0)
    spread = members.T @ (points - centres[assignment]).norm(dim=1)
    phi = torch.where(size > 1, spread / (size * (size + smoothing).log()).clamp(min=1), 0)
    phi = torch.where(size > 1, phi, phi.amax())
    phi = phi.clamp(*phi.quantile(phi.new_tensor([0.1, 0.9])))
    mean = phi.mean()
    # Not in the original: replayed frames repeat, and a cluster of copies has no spread to divide by.
    return temperature * torch.where(mean > 0, phi / mean, 1).clamp(min=0.1)


def proto_nce(query: Tensor, prototypes: Tensor, assignment: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of queries against their prototypes, and the share whose nearest by the logits it is.

    Args: query (B, d) and prototypes (K, d) of unit length, each query's prototype (B,) int64, concentrations (K,).
    Source: Li et al. 2021 (PCL), equation 11, with all other prototypes as negatives.
    """
    return info_nce(_full(query) @ _full(prototypes).T / _full(phi), assignment)


def hybrid_contrast(
    query: Tensor, memory: Tensor, labels: Tensor, rows: Tensor, valid: Tensor, *, clusters: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the valid queries' cross-entropy against centroids and lone instances, and the share whose nearest is own.

    Args: query (B, d) and memory (M, d) of unit length; labels (M,) int64: a row's cluster below `clusters`, -1 for an
    instance alone, -2 for an empty row; each query's own row (B,) int64, valid (B,) bool. A centroid is the mean of a
    cluster's rows, not scaled to unit length. Source: Ge et al. 2020 (SpCL), equation 1 without a source domain.
    """
    similarity = _full(query) @ _full(memory).T / temperature
    members = (labels[:, None] == torch.arange(clusters, device=labels.device)).to(similarity.dtype)
    size = members.sum(0)
    least = torch.finfo(similarity.dtype).min
    centroids = (similarity @ members / size.clamp(min=1)).masked_fill(size == 0, least)
    logits = torch.cat([centroids, similarity.masked_fill(labels != -1, least)], 1)
    own = torch.where(labels[rows] >= 0, labels[rows], clusters + rows)
    losses = F.cross_entropy(logits, own, reduction="none")
    count = valid.sum().clamp(min=1)
    return torch.where(valid, losses, 0).sum() / count, ((logits.argmax(1) == own) & valid).sum() / count


def hinged_distances(
    embeddings: Tensor, classes: Tensor, prototypes: Tensor, made: Tensor, margin: float
) -> tuple[Tensor, Tensor]:
    """Return the mean over embeddings of |z - p_c| and of max(0, margin - |z - p_k|) for all other classes k, summed.

    And the share whose nearest prototype is their class's. An embedding whose class has no prototype does not count,
    nor does such a class.
    Args: embeddings (B, d), classes (B,) int64, -1 where unknown; prototypes (C, d), made (C,) bool. Source: Joseph et
    al. 2021, equations 1 and 2.
    """
    differences = _full(embeddings)[:, None] - prototypes
    distances = differences.square().sum(2).clamp(min=1e-12).sqrt()  # whose slope at zero is none, not infinite
    own = classes[:, None] == torch.arange(len(prototypes), device=classes.device)
    terms = torch.where(own, distances, F.relu(margin - distances)) * made
    valid = (own & made).any(1)
    count = valid.sum().clamp(min=1)
    nearest = distances.detach().masked_fill(~made, math.inf).argmin(1)
    return torch.where(valid, terms.sum(1), 0).sum() / count, ((nearest == classes) & valid).sum() / count


def pixel_nce(logits: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy of each positive against all negatives, and the share whose nearest is positive.

    Each anchor averages its positives first; one without a positive or without a negative does not count.
    Args: logits (A, M), masks of the same shape. Source: Wang et al. 2021, equation 3.
    """
    logits = _full(logits)
    rest = logits.masked_fill(~negative, -math.inf).logsumexp(1, keepdim=True)
    # -log(e^p / (e^p + sum of e^n)) = softplus(log sum of e^n - p)
    losses = F.softplus((rest - logits).masked_fill(~positive, 0)).masked_fill(~positive, 0)
    losses = losses.sum(1) / positive.sum(1).clamp(min=1)
    valid = positive.any(1) & negative.any(1)
    nearest = logits.detach().masked_fill(~(positive | negative), -math.inf).argmax(1, keepdim=True)
    right = positive.gather(1, nearest).squeeze(1) & valid
    count = valid.sum().clamp(min=1)
    return torch.where(valid, losses, 0).sum() / count, right.sum() / count
