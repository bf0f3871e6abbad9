"""Tables and pictures of what a run has learned."""

from alumnus.report.table import Table, markdown, plain, results_table

__all__ = ["Table", "markdown", "plain", "results_table"]
