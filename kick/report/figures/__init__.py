"""Figures: frame -> matplotlib Figure. A new one is a function with @figure in a file of this folder.

    @figure("my_figure", "What it shows", rows)
    def my_figure(rows: DataFrame) -> Figure: ...

`rows` chooses the frame's rows; they are the CSV beside the PNG and the PDF. The files of this folder:
levels (sparsity, N:M, bits, and the paper's figures of them), overview (differences, perplexity, books),
studies (calibration size, shots, seeds, model sizes, divergence).
"""

from kick.report.figures import levels, overview, studies
from kick.report.figures.drawing import PAPERS, Drawn, draw
from kick.report.figures.entry import FigureEntry, figure, figures

__all__ = ["PAPERS", "Drawn", "FigureEntry", "draw", "figure", "figures", "levels", "overview", "studies"]
