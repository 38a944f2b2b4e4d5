"""Float64 references in NumPy, written from DESIGN's formulas alone: slow, plain, and independent."""

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
    one_hot = np.eye(len(theta))[target]
    q = np.exp(log_q)
    return float(theta @ p - divergence(p, q, alpha) + divergence(one_hot, q, alpha) - theta[target])


def margin(name, cosine, m, scale):
    """Target logit and log q_y of one target cosine (DESIGN 2.2)."""
    if name == "ArcMargin":
        angle = np.arccos(cosine) + m
        return scale * (np.cos(angle) if angle <= np.pi else cosine - m * np.sin(m)), 0.0
    return {
        "NoMargin": (scale * cosine, 0.0),
        "CosMargin": (scale * (cosine - m), 0.0),
        "QMargin": (scale * cosine, -scale * m),
    }[name]


def cosines(embeddings, weight):
    e = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    w = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    return e @ w.T


def head_loss(embeddings, weight, labels, name, m, alpha, scale):
    """Mean loss of a batch through unit prototypes."""
    losses = []
    for row, y in zip(cosines(embeddings, weight), labels):
        theta = scale * row
        theta[y], log_q = margin(name, row[y], m, scale)
        losses.append(loss(theta, y, alpha, log_q))
    return float(np.mean(losses))
