"""The report: one HTML file that a reader opens first, with nothing to fetch."""

from probejax.analysis.page.page import page as page
