"""Attention of a new frame at V-JEPA 2-AC's sizes: 256 tokens a frame, heads of 64 and of 88."""

from aot import Budget, Variant

from fastwm.triton import frame_attention

TENSORS = ("Q", "K", "V", "SHARED_K", "SHARED_V", "O")
STRIDES = {
    f"{x}_{of}": "i32" if of == "head" else "i32:16"
    for x in ("q", "k", "v", "sk", "sv")
    for of in ("row", "token", "head")
}
SIZES = {"H": "i32:16", **dict.fromkeys(("new", "own", "shared", "each", "N"), "i32"), "scale": "fp32"}


def variant(kind: str, D: int, BD: int) -> Variant:
    narrow = kind == "bf16"
    cores = {90: {"tensor_cores": ("HGMMA",)}, 100: {"tensor_cores": ("UTCHMMA",)}}
    return Variant(
        frame_attention._frame_attention,
        types={name: f"*{kind}" for name in TENSORS} | SIZES | STRIDES,
        constants={
            "STEP": 8,
            "D": D,
            "BD": BD,
            "SIDE": 64 if narrow else 32 if D <= 64 else 16,
            "PRECISION": "ieee" if narrow else "tf32x3",
        },
        warps=4 if narrow and D <= 64 else 8,
        stages=1,
        budget=Budget(registers=208, wide_loads=1.0, tensor_cores=("HMMA",)),
        but=cores if narrow else {},
        amd={"PRECISION": "ieee"},
        name=f"frame attention, heads of {D}, {'bfloat16' if narrow else 'float32'}",
    )


VARIANTS = [variant(kind, D, BD) for kind in ("bf16", "fp32") for D, BD in ((64, 64), (88, 128))]
