"""CSV that a spreadsheet opens: no text is a formula, numbers are numbers, nothing is lost."""

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from probejax.analysis.published import read
from probejax.analysis.report import report
from probejax.analysis.tables import results_table
from probejax.spreadsheet import encode_csv, plain_text
from tests.report_cases import ARROWS, NARROW, TASKS, unit, without_figures

BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
TEXTS = st.lists(
    st.one_of(
        st.text(max_size=6),
        st.builds("{}{}{}".format, st.sampled_from(["", "'", "''"]), st.sampled_from(BEGINNINGS),
                  st.text(max_size=4)),
    ),
    min_size=1, max_size=5,
)  # fmt: skip


@pytest.mark.parametrize("quoted", [False, True])
@given(texts=TEXTS)
@example(texts=["=1+1", "'=1+1", "-1", "it's", "'", "a=b", ""])
def test_no_text_is_a_formula_and_all_of_it_comes_back(quoted, texts):
    table = pd.DataFrame({"text": texts, "number": np.linspace(-1.5, 1, len(texts))})
    data = encode_csv(table, quoted=quoted)
    back = pd.read_csv(
        io.BytesIO(data), dtype={"text": str}, keep_default_na=False, na_filter=False
    )
    assert not any(text.startswith(BEGINNINGS) for text in back["text"])
    assert plain_text(back["text"]).tolist() == texts
    np.testing.assert_array_equal(back["number"], table["number"])


@pytest.mark.parametrize("quoted", [False, True])
def test_negative_numbers_of_every_type_stay_numbers(quoted):
    table = pd.DataFrame(
        {"float": [-0.25, np.nan], "int": [-3, 2], "object": pd.array([-1, None], dtype="Int64")}
    )
    text = encode_csv(table, quoted=quoted).decode()
    assert text == "float,int,object\n-0.25,-3,-1\n,2,\n"


def test_plain_tables_are_as_they_were():
    table = results_table([unit(TASKS[0], *ARROWS[2])])
    assert encode_csv(table) == table.to_csv(index=False).encode()


def test_every_csv_file_of_a_report_is_safe_and_the_study_s_are_read_back(tmp_path):
    table = results_table([unit(task, *arrow) for task in TASKS[:2] for arrow in ARROWS[:4]])
    table["task"] = table["task"].map(lambda task: f"=HYPERLINK({task})")
    table["sae_id"] = table["sae_id"].map(lambda sae_id: sae_id and f"@{sae_id}")
    table.loc[table["method"] == "pca", "method"] = "-pca"
    table.loc[table["regime"] == "standard", "regime"] = "+standard"
    table["protocol"] = "\tpaper"
    with without_figures():
        report(tmp_path, table)
    files = sorted(tmp_path.rglob("*.csv"))
    assert len(files) >= 8
    for path in files:
        cells = pd.read_csv(path, dtype=str, keep_default_na=False).select_dtypes("str")
        for name, column in cells.items():
            bad = column[column.str.startswith(BEGINNINGS)]
            assert pd.to_numeric(bad, errors="coerce").notna().all(), (path, name, bad)
    back = read(tmp_path / "study", "gemma-3-270m", ks=None)
    assert set(back["task"]) == set(table["task"])
    assert set(back["method"]) == {"logreg", "-pca", "sae_k16", "sae_k128"}
    assert set(back["sae_id"]) == {"", f"@{NARROW}"}
