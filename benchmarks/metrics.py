"""Metrics against their peers: seconds, ratios and memory of one run.

    python benchmarks/metrics.py

Calibration: ECE + NLL + Brier + temperature on float32 logits against torchmetrics' ECE alone plus a torch LBFGS
temperature fit (log T, strong Wolfe line search, the quickest of its settings). Detection: AUROC and both FPRs against
scikit-learn's `roc_auc_score` + `roc_curve`. Exits with 1 if a target is missed.
"""

import argparse
import sys
import time
import tracemalloc

import numpy as np
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from clipsafe_utils import metrics


def calibration(logits, labels):
    confidence, correct = metrics.confidence_and_correct(logits, labels)
    return {
        "ece": metrics.expected_calibration_error(confidence, correct),
        "nll": metrics.negative_log_likelihood(logits, labels),
        "brier": metrics.brier_score(logits, labels),
        "temperature": metrics.fit_temperature(logits, labels),
    }


def peer_calibration(logits, labels):
    logits, labels = torch.from_numpy(logits), torch.from_numpy(labels)
    ece = multiclass_calibration_error(logits, labels, num_classes=logits.shape[1], n_bins=15)
    log_temperature = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits / log_temperature.exp(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return {"ece": ece.item(), "temperature": log_temperature.exp().item()}


def detection(id_scores, ood_scores):
    return {
        "auroc": metrics.auroc(id_scores, ood_scores),
        "fpr_ood_at_tpr_id95": metrics.fpr_ood_at_tpr_id95(id_scores, ood_scores),
        "fpr_id_at_tpr_ood95": metrics.fpr_id_at_tpr_ood95(id_scores, ood_scores),
    }


def peer_detection(id_scores, ood_scores):
    scores = np.concatenate([id_scores, ood_scores])
    is_ood = np.repeat([0, 1], [len(id_scores), len(ood_scores)])
    fpr, tpr, _ = roc_curve(is_ood, scores, drop_intermediate=False)
    return {
        "auroc": roc_auc_score(is_ood, scores),
        "fpr_id_at_tpr_ood95": fpr[np.argmax(tpr >= 0.95)],
        "fpr_ood_at_tpr_id95": 1 - tpr[np.flatnonzero(1 - fpr >= 0.95)[-1]],
    }


def best_of(function, *arguments, repeats):
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def compare(name, ours, peer, arguments, repeats):
    seconds, values = best_of(ours, *arguments, repeats=repeats)
    peer_seconds, peer_values = best_of(peer, *arguments, repeats=repeats)
    print(f"{name}: ours {seconds:.3f} s, peer {peer_seconds:.3f} s, ratio {seconds / peer_seconds:.2f} (target <= 1)")
    for metric, value in values.items():
        print(f"  {metric} {value:.6f}" + (f"  peer {peer_values[metric]:.6f}" if metric in peer_values else ""))
    return seconds <= peer_seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    labels = rng.integers(options.classes, size=options.samples)
    logits = 3 * rng.standard_normal((options.samples, options.classes), dtype=np.float32)
    logits[np.arange(options.samples), labels] += 8
    scores = rng.normal(0, 1, options.samples), rng.normal(1, 1.2, options.samples // 5)

    met = [
        compare("calibration", calibration, peer_calibration, (logits, labels), options.repeats),
        compare("detection", detection, peer_detection, scores, 5 * options.repeats),
    ]
    tracemalloc.start()
    calibration(logits, labels)
    copies = tracemalloc.get_traced_memory()[1] / logits.nbytes
    print(f"calibration memory: {copies:.3f} extra copies of the {logits.nbytes / 2**20:.0f} MB input (target < 1)")
    sys.exit(0 if all(met) and copies < 1 else 1)


if __name__ == "__main__":
    main()
