"""The picture of what is kept under a shift."""

import pandas as pd
from matplotlib.ticker import MaxNLocator

from probejax.analysis.drawing import BLUE, GREY, INK, ORANGE, SAES, Picture, canvas, legend, style
from probejax.analysis.labels import number
from probejax.auditing.orders import AT_RANDOM, GIVEN, LEAST_MOVED, WEIGHT

LOGREG = "logreg on all dimensions"
_LINES = {LEAST_MOVED: (BLUE, "o-"), WEIGHT: (ORANGE, "s-"), GIVEN: (SAES[2], "^-"),
          AT_RANDOM: (GREY, "--")}  # fmt: skip


def against_kept(curves: pd.DataFrame) -> Picture:
    """Draws the AUC on shifted prompts against the number of latents kept, a line per order.

    Args:
      curves: `order, kept, auc, auc_low, auc_high`; one row has the order `LOGREG`.
    """
    with style():
        picture = canvas("AUC on shifted prompts against the number of latents kept, by order")
        (axes,) = picture.axes
        whole = curves[curves["order"] == LOGREG]["auc"].item()
        axes.axhline(whole, color=INK, linewidth=1, label=f"{LOGREG}: {number(whole, 3)}")
        for name, rows in curves[curves["order"] != LOGREG].groupby("order", sort=False):
            colour, marks = _LINES[str(name)]
            kept = rows["kept"].astype(int)
            if name != AT_RANDOM:
                band = (kept, rows["auc_low"], rows["auc_high"])
                axes.fill_between(*band, color=colour, alpha=0.13, linewidth=0)
            (line,) = axes.plot(kept, rows["auc"], marks, color=colour, label=str(name))
            numbers = rows[["auc", "auc_low", "auc_high"]].map(lambda value: number(value, 3))
            picture.tell(line, [
                f"{count} kept, {name}\nAUC {auc} ({low} to {high})"
                for count, (auc, low, high) in zip(kept, numbers.to_numpy(), strict=True)
            ])  # fmt: skip
        axes.set_xlabel("latents kept")
        axes.set_ylabel("AUC on shifted prompts")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(True)
        legend(axes)
    return picture
