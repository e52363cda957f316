"""What a notebook shows: tables people can sort, figures with captions, sentences computed from numbers."""

from clipsafe_utils.present.basics import figure, missing, overview, results, table, unreadable
from clipsafe_utils.present.prompt_sentences import (
    choice_costs,
    prompt_front,
    prompt_means,
    prompt_sets,
    variance_shares,
)
from clipsafe_utils.present.sentences import (
    best_scores,
    contrasts,
    correlations,
    findings,
    group_findings,
    shape_by_category,
    shrinkage,
    simpson,
    sizes_needed,
    strata,
)
from clipsafe_utils.present.whole_suite import (
    all_results,
    claims,
    confounding,
    golden_numbers,
    group_summary,
    quarantine,
    regression,
    signatures,
)

__all__ = [
    "all_results",
    "best_scores",
    "choice_costs",
    "claims",
    "confounding",
    "contrasts",
    "correlations",
    "figure",
    "findings",
    "golden_numbers",
    "group_findings",
    "group_summary",
    "missing",
    "overview",
    "prompt_front",
    "prompt_means",
    "prompt_sets",
    "quarantine",
    "regression",
    "results",
    "shape_by_category",
    "shrinkage",
    "signatures",
    "simpson",
    "sizes_needed",
    "strata",
    "table",
    "unreadable",
    "variance_shares",
]
