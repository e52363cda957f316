"""The one tidy table: every number of the study is a row of it."""

from pathlib import Path

import numpy as np
import pandas as pd

from clipsafe_utils.content import whole_file
from clipsafe_utils.errors import ClipsafeError

COLUMNS = {
    "suite": "str",
    "model": "str",
    "test_set": "str",
    "protocol": "str",
    "metric": "str",
    "value": "float64",
    "n": "int64",
    "ci_low": "float64",
    "ci_high": "float64",
    "ci_kind": "str",
    "ci_level": "float64",
    "source": "str",
}
"""Column -> dtype. `source` is "computed" or "published"; `ci_kind` is "" where there is no interval; `n` counts the
samples (images, trials or models) behind the value, 0 where a publisher does not tell."""

KEY = ["suite", "model", "test_set", "protocol", "metric"]


def tidy(rows):
    """Bring rows into the tidy schema.

    Parameters
    ----------
    rows : DataFrame or iterable of dict
        At least model, test_set, metric, value. Missing columns get "" (text), NaN (interval) or 0 (n); `source`
        defaults to "computed".

    Returns
    -------
    DataFrame
        Columns of `COLUMNS` in that order, sorted by `KEY`.

    Raises
    ------
    ClipsafeError
        Unknown columns, or two rows with the same key: a condition must be one row before it is averaged.
    """
    frame = pd.DataFrame(rows if isinstance(rows, pd.DataFrame) else list(rows)).reset_index(drop=True)
    if extra := sorted(set(frame.columns) - set(COLUMNS)):
        raise ClipsafeError(f"columns {extra} are not part of the tidy table; its columns are {list(COLUMNS)}.")
    for column, dtype in COLUMNS.items():
        if column not in frame:
            default = {"str": "", "float64": np.nan, "int64": 0}[dtype]
            frame[column] = "computed" if column == "source" else default
        frame[column] = frame[column].astype(dtype)
    frame = frame[list(COLUMNS)].sort_values(KEY, kind="stable", ignore_index=True)
    if (twins := frame.duplicated(KEY)).any():
        raise ClipsafeError(f"two rows share the key {frame.loc[twins, KEY].iloc[0].to_dict()}; each needs its own.")
    return frame


def save_table(frame, path):
    """Write a frame as Parquet and as CSV beside it; returns the frame."""
    for suffix, write in ((".parquet", frame.to_parquet), (".csv", frame.to_csv)):
        with whole_file(Path(path).with_suffix(suffix)) as temporary:
            write(temporary, index=False)
    return frame
