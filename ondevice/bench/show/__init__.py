"""A report as text, CSV, Markdown and HTML; two reports compared; the regression gate."""
