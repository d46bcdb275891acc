"""AdaLN at the sizes of LeWM (W 192, each row its own modulation) and of V-JEPA 2-AC (W 1024, a frame's tokens share one)."""

from aot import Budget, Variant

from fastwm.triton import _rows, adaln

SIZES = {192: False, 1024: True}  # width: whether rows share a modulation


def variants(W: int, shared: bool, kind: str) -> list[Variant]:
    """Forward and backward, with the second norm. N is 1 where rows share nothing."""
    tile = _rows.tile(W)
    shape = {"ROWS": tile["ROWS"], "COLUMNS": tile["COLUMNS"], "AFFINE": True}
    data = f"*{kind}"
    rows = {
        "rows": "i32",
        "W": "i32:16",
        "x_stride": "i32:16",
        "shift_stride": "i32:16",
        "scale_stride": "i32:16",
    }
    group = ({"N": "i32"}, {}) if shared else ({}, {"N": 1})
    inputs = {name: data for name in ("X", "SHIFT", "SCALE", "GAIN")} | {"STATISTICS": "*fp32"}
    return [
        Variant(
            adaln.adaln_forward,
            types=inputs | {"BIAS": data, "Y": data, "eps": "fp32", "affine_eps": "fp32"} | rows | group[0],
            constants=shape | group[1],
            warps=tile["num_warps"],
            budget=Budget(registers=128, wide_loads=0.6),
            name=f"adaln forward {W} {kind}",
        ),
        Variant(
            adaln.adaln_backward,
            types=inputs
            | {"GRADIENT": data, "DX": data, "DSHIFT": data, "DSCALE": data, "PARTS": "*fp32"}
            | {"gradient_stride": "i32:16"}
            | rows
            | group[0],
            constants=shape | group[1] | {"SHARED": shared},
            warps=tile["num_warps"],
            budget=Budget(registers=176, wide_loads=0.4),  # statistics are loaded one by one
            name=f"adaln backward {W} {kind}",
        ),
    ]


VARIANTS = [
    *(v for W, shared in SIZES.items() for kind in ("bf16", "fp32") for v in variants(W, shared, kind)),
    Variant(
        _rows.add_parts,
        types={"PARTS": "*fp32", "SUM": "*bf16", "parts": "i32", "width": "i32:16"},
        constants={"COLUMNS": 128},
        budget=Budget(registers=32),
    ),
]
