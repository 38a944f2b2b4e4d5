"""Float64 references in NumPy, written from the formulas in docs/mathematics.md alone: slow, plain and independent."""

import numpy as np


def divergence(p, q, alpha):
    """D(p, q) = sum_j q_j f(p_j / q_j), f(u) = (u^alpha - 1 - alpha (u - 1)) / (alpha (alpha - 1))."""
    u = p / q
    if alpha == 1.0:
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.sum(q * (np.where(u > 0, u * np.log(u), 0.0) - u + 1.0)))
    return float(np.sum(q * (u**alpha - 1.0 - alpha * (u - 1.0)) / (alpha * (alpha - 1.0))))


def softargmax(theta, alpha, log_q):
    """p and tau of one row, by bisection on tau."""
    theta, q = np.asarray(theta, float), np.exp(np.asarray(log_q, float))

    def p(tau):
        if alpha == 1.0:
            return q * np.exp(theta - tau)
        with np.errstate(divide="ignore"):
            base = np.maximum(1.0 + (alpha - 1.0) * (theta - tau), 0.0)
            return q * np.exp(np.log(base) / (alpha - 1.0))

    low, high = theta.min() - 1.0, theta.max() + 1.0
    while p(low).sum() < 1.0:
        low -= 2.0 * (high - low)
    while p(high).sum() > 1.0:
        high += 2.0 * (high - low)
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if p(middle).sum() >= 1.0 else (low, middle)
    return p(low), low


def loss(theta, target, alpha, target_log_q=0.0):
    """max_p <theta, p> - D(p, q) + D(e_y, q) - theta_y of one row, from that definition."""
    theta = np.asarray(theta, float)
    log_q = np.zeros(len(theta))
    log_q[target] = target_log_q
    p, _ = softargmax(theta, alpha, log_q)
    one_hot = (np.arange(len(theta)) == target).astype(float)
    q = np.exp(log_q)
    return float(theta @ p - divergence(p, q, alpha) + divergence(one_hot, q, alpha) - theta[target])


def margin(name, cosine, m, scale, g=0.0):
    """Target logit and log q_y of one target cosine (mathematics, section 2); g is the quality times its weight."""
    if name == "ArcMargin":
        return scale * moved(cosine, m), 0.0
    if name == "AdaMargin":
        return scale * (moved(cosine, -g * m) - (g * m + m)), 0.0
    return {
        "NoMargin": (scale * cosine, 0.0),
        "CosMargin": (scale * (cosine - m), 0.0),
        "QMargin": (scale * cosine, -scale * m * (1.0 + g)),
    }[name]


def moved(cosine, angle):
    """cos(arccos(c) + angle), continued below 0 and above pi."""
    theta = np.arccos(cosine) + angle
    return np.cos(max(theta, 0.0)) if theta <= np.pi else cosine - angle * np.sin(angle)


class Quality:
    """w g of each batch of norms, with AdaFace's running averages of the batches so far."""

    def __init__(self, weight, h=0.333, momentum=0.01):
        self.weight, self.h, self.momentum, self.mean, self.std = weight, h, momentum, 20.0, 100.0

    def update(self, norms):
        norms = np.clip(np.asarray(norms, float), 0.001, 100.0)
        if len(norms) > 0:
            self.mean = self.momentum * norms.mean() + (1 - self.momentum) * self.mean
        if len(norms) > 1:
            self.std = self.momentum * norms.std(ddof=1) + (1 - self.momentum) * self.std

    def of(self, norms):
        norms = np.clip(np.asarray(norms, float), 0.001, 100.0)
        return self.weight * np.clip((norms - self.mean) / (self.std + 0.001) * self.h, -1.0, 1.0)


def cosines(embeddings, weight):
    e = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    w = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    return e @ w.T


def head_loss(embeddings, weight, labels, name, m, alpha, scale, g=None):
    """Mean loss of a batch through unit prototypes."""
    losses = []
    for i, (row, y) in enumerate(zip(cosines(embeddings, weight), labels)):
        theta = scale * row
        theta[y], log_q = margin(name, row[y], m, scale, 0.0 if g is None else g[i])
        losses.append(loss(theta, y, alpha, log_q))
    return float(np.mean(losses))


def kappa_psi(vectors, labels, class_counts, temperature, gamma):
    """kappa and psi of the classes from the vectors that were summed (mathematics, section 3). r is clamped to 0.999;
    classes with fewer than two vectors are left out of mean and std, and get the mean."""
    d, classes = vectors.shape[1], range(len(class_counts))
    kappa = np.full(len(class_counts), np.nan)
    for c in classes:
        z = np.array([v / np.linalg.norm(v) for v, y in zip(vectors, labels) if y == c])
        if len(z) >= 2:
            r = min(np.linalg.norm(z.sum(0)) / len(z), 0.999)
            kappa[c] = r * (d - r**2) / (1 - r**2)
    mean, std = np.nanmean(kappa), np.nanstd(kappa)
    kappa = np.where(np.isnan(kappa), mean, kappa)
    w_k = 1 - 1 / (1 + np.exp(-temperature * (kappa - mean) / std))
    w_s = np.array([(np.cos(np.pi * n / max(class_counts)) + 1) / 2 for n in class_counts])
    return kappa, (1 - gamma) * w_s + gamma * w_k


def remember(memory, vectors, sample_ids, a):
    """One batch into a dictionary of unit vectors: z <- normalize(a z_old + (1 - a) z_new)."""
    for i in sorted(set(sample_ids)):
        copies = [v / np.linalg.norm(v) for v, j in zip(vectors, sample_ids) if j == i]
        new = sum(copies) / np.linalg.norm(sum(copies))
        z = a * memory[i] + (1 - a) * new if i in memory else new
        memory[i] = z / np.linalg.norm(z)


def mean_resultant(kappa, d):
    """A_d(kappa) = I_{d/2}(kappa) / I_{d/2-1}(kappa), the exact r of a von Mises-Fisher distribution, by its
    continued fraction."""
    ratio = 0.0
    for order in range(5000, -1, -1):
        ratio = 1 / ((d + 2 * order) / kappa + ratio)
    return ratio


def score_norm(enrol, test, cohort, kind, cohort_size=None):
    """One trial's normalised score, both sides against the whole cohort, as in SpeechBrain's script."""

    def cosine(a, b):
        return np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))

    def normalised(side):
        scores = sorted((cosine(side, c) for c in np.asarray(cohort, float)), reverse=True)[:cohort_size]
        mean = sum(scores) / len(scores)
        std = (sum((s - mean) ** 2 for s in scores) / (len(scores) - 1)) ** 0.5
        return (cosine(enrol, test) - mean) / max(std, 1e-4)

    enrol, test = np.asarray(enrol, float), np.asarray(test, float)
    return {
        "z-norm": lambda: normalised(enrol),
        "t-norm": lambda: normalised(test),
        "s-norm": lambda: 0.5 * (normalised(enrol) + normalised(test)),
    }[kind]()


def von_mises_fisher(mean, kappa, samples, rng):
    """Samples around the unit vector `mean`, by Wood's rejection (1994)."""
    d = len(mean)
    b = (-2 * kappa + np.sqrt(4 * kappa**2 + (d - 1) ** 2)) / (d - 1)
    x = (1 - b) / (1 + b)
    cosines = []
    while len(cosines) < samples:
        z = rng.beta((d - 1) / 2, (d - 1) / 2)
        w = (1 - (1 + b) * z) / (1 - (1 - b) * z)
        if kappa * (w - x) + (d - 1) * np.log((1 - x * w) / (1 - x**2)) >= np.log(rng.uniform()):
            cosines.append(w)
    across = rng.standard_normal((samples, d))
    across -= (across @ mean)[:, None] * mean
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    w = np.array(cosines)[:, None]
    return w * mean + np.sqrt(1 - w**2) * across


def ida_density(embeddings, anchors, k, tau):
    """F of each embedding: 1 / sum of exp(tau s) over the k largest cosines with the anchors."""
    densities = []
    for f in np.asarray(embeddings, float):
        s = sorted(float(f @ a / (np.linalg.norm(f) * np.linalg.norm(a))) for a in np.asarray(anchors, float))
        densities.append(1.0 / sum(np.exp(tau * s_i) for s_i in s[-k:]))
    return np.array(densities)


def dao(f1, f2, density1, density2, tau):
    """exp(tau <f1, f2>) (F(f1) + F(f2)) of one pair."""
    f1, f2 = np.asarray(f1, float), np.asarray(f2, float)
    cosine = f1 @ f2 / (np.linalg.norm(f1) * np.linalg.norm(f2))
    return np.exp(tau * cosine) * (density1 + density2)


def mutual_likelihood(mean1, variance1, mean2, variance2):
    """log of the integral over z of N(z; mean1, variance1) N(z; mean2, variance2), by quadrature in each dimension."""
    total = 0.0
    for m1, v1, m2, v2 in zip(mean1, variance1, mean2, variance2):
        z = np.linspace(-12.0, 12.0, 48_001)
        densities = [np.exp(-0.5 * (z - m) ** 2 / v) / np.sqrt(2.0 * np.pi * v) for m, v in ((m1, v1), (m2, v2))]
        total += np.log(np.sum(densities[0] * densities[1]) * (z[1] - z[0]))
    return total


def calibration_objective(llr, same, prior):
    """The prior-weighted logistic loss of log-likelihood ratios, one trial at a time."""
    odds = [ratio + np.log(prior / (1 - prior)) for ratio in llr]
    targets = [np.log1p(np.exp(-o)) for o, s in zip(odds, same) if s]
    others = [np.log1p(np.exp(o)) for o, s in zip(odds, same) if not s]
    return prior * sum(targets) / len(targets) + (1 - prior) * sum(others) / len(others)


def ramp(initial, final, start, end, shape, t):
    """A scheduled number at t (mathematics, section 2)."""
    x = 1.0 if t >= end else 0.0 if t < start else (t - start) / (end - start)
    way = {"linear": x, "exponential": 1.0 if t >= end else 1.0 - 10.0 ** (-3.0 * x)}[shape]
    return (1.0 - way) * initial + way * final
