"""What is measured of an answer: the table behind every column of a report, in the order in which people should read it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of a row.

    Attributes:
        key: in rows, `report.json` and the CSV.
        name: for people.
        better: "high" or "low".
        solid: it is of a solid (NaN, left out of means, where the answer has none); else of the program.
        scale: what the raw value is multiplied with where it is shown (chamfer distances are shown x 1000, shares in %).
        digits: shown behind the point.
        source: where the definition is from.
    """

    key: str
    name: str
    better: str
    solid: bool
    scale: float = 1.0
    digits: int = 3
    source: str = ""


METRICS: tuple[Metric, ...] = (
    Metric("iou", "IoU %", "high", True, 100.0, 1, "cadrille, ICLR 2026"),
    Metric("f_score_0.01", "F-score 0.01 %", "high", True, 100.0, 1, "Knapitsch et al. 2017, eq. 5"),
    Metric("f_score_0.02", "F-score 0.02 %", "high", True, 100.0, 1, "Knapitsch et al. 2017, eq. 5"),
    Metric("f_score_0.05", "F-score 0.05 %", "high", True, 100.0, 1, "Knapitsch et al. 2017, eq. 5"),
    Metric("cd", "CD x1000 (cadrille)", "low", True, 1000.0, 3, "cadrille, ICLR 2026"),
    Metric("cd_deepcad", "CD x1000 (DeepCAD)", "low", True, 1000.0, 3, "Wu et al., DeepCAD, ICCV 2021"),
    Metric("normal_consistency", "NC %", "high", True, 100.0, 1, "Mescheder et al., CVPR 2019, sec. 4"),
    Metric("seg_e", "SegE", "low", True, 1.0, 3, "CAD-MLLM, arXiv 2411.04954"),
    Metric("dang_el", "DangEL", "low", True, 1.0, 4, "CAD-MLLM, arXiv 2411.04954"),
    Metric("sir", "SIR %", "low", True, 100.0, 2, "CAD-MLLM, arXiv 2411.04954"),
    Metric("flux_ee", "FluxEE", "low", True, 1.0, 5, "CAD-MLLM, arXiv 2411.04954"),
    Metric("acc_cmd", "ACC_cmd %", "high", False, 100.0, 1, "Wu et al., DeepCAD, ICCV 2021"),
    Metric("acc_param", "ACC_param %", "high", False, 100.0, 1, "Wu et al., DeepCAD, ICCV 2021"),
    *(
        Metric(f"{curve}_{key}", f"{curve} {name} %", "high", False, 100.0, 1, "Khan et al., Text2CAD, NeurIPS 2024")
        for curve in ("line", "arc", "circle", "extrude")
        for key, name in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
    ),
)
KEYS: tuple[str, ...] = tuple(metric.key for metric in METRICS)
