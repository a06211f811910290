"""Tables: frame -> Markdown, CSV and LaTeX. A new one is a function with @table in a file of this folder.

    @table("my_table", "What it shows")
    def my_table(frame: DataFrame) -> Table: ...

The text cells are what the frame's rows say, written by `kick.report.wording`; the CSV holds the rows behind
them with their full numbers. A function raises `select.Nothing` if the frame cannot feed it. Every file of
this folder is imported here, so that its tables are known.
"""

import kick.report.tables as _package
from kick.registry import import_files
from kick.report.tables.entry import Table, TableEntry, known, markdown_text, table
from kick.report.tables.writing import WrittenTable, make_all, ordered, save, write

import_files(_package)

__all__ = [
    "Table",
    "TableEntry",
    "WrittenTable",
    "known",
    "make_all",
    "markdown_text",
    "ordered",
    "save",
    "table",
    "write",
]
