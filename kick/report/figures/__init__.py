"""Figures: frame -> matplotlib Figure. A new one is a function with @figure in a file of this folder.

    @figure("my_figure", "What it shows", rows)
    def my_figure(rows: DataFrame) -> Figure: ...

`rows` chooses the frame's rows; they are the CSV beside the PNG and the PDF. Every file of this folder is
imported here, so that its figures are known: levels (sparsity, N:M, bits, and the paper's figures of them),
overview (differences, perplexity, books), studies (calibration size, shots, seeds, model sizes, divergence).
"""

import kick.report.figures as _package
from kick.registry import import_files
from kick.report.figures.drawing import PAPERS, Drawn, draw
from kick.report.figures.entry import FigureEntry, figure, known

import_files(_package)

__all__ = ["PAPERS", "Drawn", "FigureEntry", "draw", "figure", "known"]
