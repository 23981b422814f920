"""What a report takes on the disk, which a run is told before and a report, too."""

_FIGURES, _FIT, _PAGE = 13e6, 900, 95e3  # bytes, measured: BUILD_NOTES.md, "Report"


def report_bytes(fits: int, pages: int) -> float:
    """Returns about what a report takes on the disk, in bytes.

    Args:
      fits: that it shows.
      pages: of examples, one for each task with test scores.
    """
    return _FIGURES + _FIT * fits + _PAGE * pages
