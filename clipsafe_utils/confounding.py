"""Which facts about models can be told apart: the columns of a regression, and what each of its terms stands for.

Levels of a fact enter from the rarest to the commonest, and one that follows from those before it is what the others
are compared with. That gives the commonest level as reference; where one fact is nested in another (each training
source has one loss) it gives a reference within each, and says exactly what the outer term then stands for.
"""

import numpy as np
import pandas as pd
from scipy.special import ndtr

WIDER = 2.0
"""Terms whose interval the other facts make at least that many times as wide count as nearly confounded."""

NUMBERS = {
    "data size": ("doubling", lambda value: f"{2**value:,.0f} images"),
    "input resolution": ("doubling", lambda value: f"{2**value:.0f} pixels"),
    "ID accuracy": ("standard deviation", lambda value: f"{ndtr(value):.0%}"),
}
"""Fact that is a number -> unit of its effect, and how a value is written."""


class Design:
    """Columns of the models' facts, those that add something to the ones before, and how the others follow.

    Parameters
    ----------
    facts : DataFrame
        One row a model, one column a fact without gaps: numbers, or text for levels.

    Attributes
    ----------
    kept : list of (fact, level)
        Of each column of `matrix`, the intercept first; the level is None where the fact is a number.
    matrix : ndarray of float, shape (n_models, n_kept)
        Numbers are centred.
    dropped : dict of (fact, level) to ndarray of float, shape (n_kept,)
        Column that was left out -> how it adds up from those that were kept.
    """

    def __init__(self, facts):
        self.facts = facts
        self.kept, self.dropped = [("", None)], {}
        matrix = [np.ones(len(facts))]
        for fact in facts:
            for level in self.levels(fact):
                column = self.column(fact, level)
                basis = np.column_stack(matrix)
                coefficients = np.linalg.lstsq(basis, column, rcond=None)[0]
                rest = np.sum((column - basis @ coefficients) ** 2)
                if rest > 1e-8 * np.sum(column**2):
                    self.kept.append((fact, level))
                    matrix.append(column)
                else:
                    self.dropped[fact, level] = coefficients
        self.matrix = np.column_stack(matrix)
        # Columns that were kept later add nothing to one that was dropped before them.
        for key, coefficients in self.dropped.items():
            full = np.pad(coefficients, (0, len(self.kept) - len(coefficients)))
            self.dropped[key] = np.where(np.abs(full) > 1e-6, full, 0)

    def levels(self, fact):
        """Rarest first, equally common ones against the alphabet; None for a number."""
        if is_number(self.facts[fact]):
            return [None]
        counts = self.facts[fact].value_counts()
        return sorted(sorted(counts.index, reverse=True), key=counts.get)

    def column(self, fact, level):
        values = self.facts[fact]
        if level is not None:
            return values.eq(level).to_numpy(float)
        return (values - values.mean()).to_numpy(float) / (values.std() if "standard" in _unit(fact) else 1)

    def against(self, k):
        """Level -> weight: what the k-th column is compared with, of its own fact."""
        fact, _ = self.kept[k]
        return {level: c[k] for (own, level), c in self.dropped.items() if own == fact and level is not None and c[k]}

    def term(self, k):
        fact, level = self.kept[k]
        if level is None:
            return f"{fact}: per {_unit(fact)}"
        against = _and(map(_clean, self.against(k)))
        return f"{fact}: {_clean(level)}{f' against {against}' * bool(against)}"

    def count(self, k):
        """Models of the level and of what it is compared with, "4 against 834"; nothing for a number."""
        fact, level = self.kept[k]
        others = self.facts[fact].isin(list(self.against(k))).sum()
        return "" if level is None else f"{int(self.matrix[:, k].sum()):,} against {others:,}"

    def aliases(self):
        """What each term stands for beside its name, exactly: one row a term and further fact."""
        found = []
        for k in range(1, len(self.kept)):
            own, signs = self.kept[k][0], {}
            for (fact, level), coefficients in self.dropped.items():
                if fact != own and coefficients[k]:
                    signs.setdefault(fact, {})[level] = coefficients[k]
            found += [self._row(k, fact, self._contrast(fact, weights)) for fact, weights in signs.items()]
        return found

    def near_aliases(self):
        """Terms that the other facts make `WIDER`: one row a term, with the fact that goes with it most."""
        found, inverse = [], np.linalg.inv(self.matrix.T @ self.matrix)
        for k in range(1, len(self.kept)):
            own, level = self.kept[k]
            column = self.matrix[:, k]
            weights = {level: 1.0} | self.against(k)
            counts = self.facts[own].value_counts()
            alone = (
                1 / np.sum((column - column.mean()) ** 2)
                if level is None
                else sum(w**2 / counts[name] for name, w in weights.items())
            )
            wider = np.sqrt(inverse[k, k] / alone)
            if wider < WIDER:
                continue
            part = slice(None) if level is None else self.facts[own].isin(list(weights)).to_numpy()
            shared = {fact: self._shared(column[part], fact, part) for fact in self.facts if fact != own}
            shared = {fact: share for fact, share in shared.items() if share < 1 - 1e-8}  # the others are aliases
            if not shared:
                continue
            fact = max(shared, key=shared.get)
            why = (
                f"the other facts make its interval {wider:.1f} times as wide, most of all {fact} ({shared[fact]:.0%})"
            )
            found.append(self._row(k, fact, fact, why))
        return found

    def _shared(self, column, fact, part):
        """Share of a column's variation that goes with a fact."""
        basis = np.column_stack(
            [np.ones(len(column)), *(self.column(fact, level)[part] for level in self.levels(fact))]
        )
        rest = column - basis @ np.linalg.lstsq(basis, column, rcond=None)[0]
        return 1 - np.sum(rest**2) / np.sum((column - column.mean()) ** 2)

    def _contrast(self, fact, weights):
        if None in weights:
            return f"{fact}: per {_unit(fact)}"
        up, down = ([_clean(name) for name, w in weights.items() if w * sign > 0] for sign in (1, -1))
        return f"{fact}: {' and '.join(up)}{f' against {_and(down)}' * bool(up and down)}{_and(down) * (not up)}"

    def _row(self, k, fact, stands_for, why=""):
        """A pair, with the models that both facts have in common counted."""
        own, level = self.kept[k]
        groups = {level: 1.0} | self.against(k) if level is not None else {"": 1.0}
        parts = {name: self.facts if level is None else self.facts[self.facts[own] == name] for name in groups}
        if level is None and not is_number(self.facts[fact]):  # a number: its values within each level
            values = self.facts.groupby(fact)[own].nunique()
            why = why or (f"one {own} in each {fact}" if values.max() == 1 else "follows from the other facts")
        seen = [set(part[fact]) for part in parts.values()]
        apart = len(seen) > 1 and not seen[0] & set().union(*seen[1:])
        why = why or (f"no {fact} has both" if apart else "follows from the other facts together")
        return {"term": self.term(k), "stands_for": stands_for, "why": why} | {
            "models": "; ".join(
                f"{_clean(name)}: {_counts(part[fact])}" if name else _counts(part[fact])
                for name, part in parts.items()
            )
        }


def _counts(levels, most=5):
    if is_number(levels):
        write = NUMBERS[levels.name][1] if levels.name in NUMBERS else "{:.3g}".format
        ends = dict.fromkeys(write(value) for value in (levels.min(), levels.max()))
        return f"{' to '.join(ends)} in {count_models(len(levels))}"
    counts = levels.value_counts()
    listed = [f"{_clean(level)} {n}" for level, n in counts.head(most).items()]
    return ", ".join(listed) + f", {len(counts) - most} more" * (len(counts) > most)


def is_number(column):
    return pd.api.types.is_numeric_dtype(column)


def count_models(n):
    return f"{n:,} model{'s' * (n != 1)}"


def _unit(fact):
    return NUMBERS[fact][0] if fact in NUMBERS else "unit"


def _clean(level):
    return str(level).replace("_", " ")


def _and(names):
    return " and ".join(names)
