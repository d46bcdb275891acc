"""The gated residual at the sizes of LeWM (W 192, each row its own gate) and of V-JEPA 2-AC (W 1024, shared)."""

from aot import Budget, Variant

from fastwm.triton import _rows, gated_residual


def variants(W: int, shared: bool) -> list[Variant]:
    tile = _rows.tile(W)
    shape = {"ROWS": tile["ROWS"], "COLUMNS": tile["COLUMNS"]}
    rows = {"rows": "i32", "W": "i32:16", "gate_stride": "i32:16", "y_stride": "i32:16"}
    group = ({"N": "i32"}, {}) if shared else ({}, {"N": 1})
    inputs = {"GATE": "*bf16", "Y": "*bf16"}
    return [
        Variant(
            gated_residual.gated_forward,
            types=inputs | {"X": "*bf16", "OUT": "*bf16", "x_stride": "i32:16"} | rows | group[0],
            constants=shape | group[1],
            warps=tile["num_warps"],
            budget=Budget(registers=64, wide_loads=0.9),
            name=f"gated residual forward {W}",
        ),
        Variant(
            gated_residual.gated_backward,
            types=inputs
            | {"GRADIENT": "*bf16", "DGATE": "*bf16", "DY": "*bf16", "gradient_stride": "i32:16"}
            | rows
            | group[0],
            constants=shape | group[1] | {"SHARED": shared},
            warps=tile["num_warps"],
            budget=Budget(registers=128, wide_loads=0.9),
            name=f"gated residual backward {W}",
        ),
    ]


VARIANTS = [*variants(192, False), *variants(1024, True)]
