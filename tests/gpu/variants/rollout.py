"""The rollout's kernels at LeWM's size: W 192, 16 heads of 64, hidden 2048."""

from aot import Budget, Variant

from fastwm.triton.rollout import attend, dense, mlp, normalise, qkv, tokens

W, H, D, M = 192, 16, 64, 2048
ROWS = {"rows": "i32", "candidates": "i32", "per_environment": "i32", "first": "i32"}
TENSOR_CORES = ("HMMA",)


def variants(kind: str) -> list[Variant]:
    """All kernels for weights of one type."""
    narrow = kind == "bf16"
    precision, warps, suffix = ("ieee", 4, "bfloat16") if narrow else ("tf32x3", 8, "float32")
    amd = {"PRECISION": "ieee"}  # as fastwm.triton.rollout.dense.precision says
    layer = {"W": W, "BC": 64, "NC": 3, "PRECISION": precision, "AFFINE": False}
    return [
        Variant(
            dense._dense,
            types={
                "X": "*fp32", "WEIGHT": f"*{kind}", "BIAS": "*fp32", "LAST": "*fp32", "Y": f"*{kind}",
                "rows": "i32", "group": "i32", "x_group": "i32:16", "x_row": "i32:16", "last_row": "i32:16",
                "y_row": "i32:16", "N": "i32:16",
            },
            constants={
                "K": W, "BEFORE": "silu", "AFTER": "none", "RESIDUAL": False, "PRECISION": precision,
                "BM": 32, "BN": 64, "BK": 64,
            },
            warps=warps,
            stages=3 if narrow else 2,
            budget=Budget(registers=96 if narrow else 192, copies=8, tensor_cores=TENSOR_CORES),
            amd=amd,
            name=f"modulation {suffix}",
        ),
        Variant(
            qkv._qkv,
            types={
                "X": "*fp32", "MODULATION": f"*{kind}", "GAIN": "*fp32", "SHIFT": "*fp32", "WEIGHT": f"*{kind}",
                "BIAS": "*fp32", "FIRST": f"*{kind}", "SECOND": f"*{kind}", "rows": "i32", "asking_from": "i32",
                "modulation_row": "i32:16",
                "N": "i32:16", "split": "i32:16",
            },
            constants={**layer, "AFTER": "none", "BM": 32, "BN": 256 if narrow else 64},
            warps=warps,
            stages=2,
            budget=Budget(registers=255 if narrow else 144, wide_loads=0.9, tensor_cores=TENSOR_CORES),
            amd=amd,
            name=f"qkv {suffix}",
        ),
        *(
            Variant(
                attend._attend,
                types={
                    "QUERY": f"*{kind}", "SHARED": f"*{kind}", "OWN": f"*{kind}", "WEIGHT": f"*{kind}", "BIAS": "*fp32",
                    "GATE": f"*{kind}", "X": "*fp32", **ROWS, "environments": "i32", "shared": "i32",
                    "gate_row": "i32:16", "W": "i32:16",
                },
                constants={"H": H, "D": D, "PRECISION": precision, "BM": BM, "BN": 64, "BD": 64, "NN": NN},
                warps=4,
                stages=2,
                budget=Budget(registers=144 if NN == 1 else 224, wide_loads=0.8, tensor_cores=TENSOR_CORES),
                amd=amd,
                name=f"attend {suffix}, {BM} rows",
            )
            for BM, NN in (((16, 1), (32, 3)) if narrow else ((16, 1),))
        ),
        *(
            Variant(
                mlp._mlp,
                types={
                    "X": "*fp32", "MODULATION": f"*{kind}", "GAIN": "*fp32", "SHIFT": "*fp32", "FC1": f"*{kind}",
                    "BIAS1": "*fp32", "FC2": f"*{kind}", "BIAS2": "*fp32", "LAST": "*fp32", "OUT": "*fp32",
                    "PARTIAL": "*fp32", "ARRIVED": "*i32",
                    "rows": "i32", "modulation_row": "i32:16", "last_row": "i32:16", "out_row": "i32:16",
                    "M": "i32:16",
                },
                constants={
                    **layer, "N": W, "RESIDUAL": True, "ACTIVATION": "gelu", "PART": M // 8, "PARTS": 8, "SHARE": share,
                    "BM": 32 if narrow else 16, "BH": 64, "NN": 3,
                },
                warps=warps,
                stages=2 if narrow else 1,
                budget=Budget(registers=255, wide_loads=0.8, tensor_cores=TENSOR_CORES),
                amd=amd,
            name=f"mlp {suffix}, {8 // share} programs a tile",
            )
            for share in (1, 8)
        ),
    ]  # fmt: skip


VARIANTS = [
    *variants("bf16"),
    *variants("fp32"),
    Variant(
        tokens._tokens,
        types={
            "CONTEXT": "*fp32", "LATENTS": "*fp32", "POSITION": "*fp32", "X": "*fp32", **ROWS,
            "context_row": "i32:16",
            "latent_row": "i32:16", "place": "i32",
        },
        constants={"E": W, "BM": 16, "BE": 128},
        budget=Budget(registers=64, wide_loads=0.9),
    ),
    Variant(
        normalise._normalise,
        types={"X": "*fp32", "GAIN": "*fp32", "SHIFT": "*fp32", "Y": "*bf16", "rows": "i32"},
        constants={"N": 512, "NORM": True, "ACTIVATION": "mish", "BM": 4, "BN": 512},
        budget=Budget(registers=64, wide_loads=0.9),
        name="normalise, TD-MPC2's 512",
    ),
]  # fmt: skip
