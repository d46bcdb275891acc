"""Attention in training: LeWM's windows of 3 tokens, 16 heads of 64; and 256 tokens a frame."""

from aot import Budget, Variant

from fastwm.triton import attention

STRIDES = {f"{x}_{of}": "i32:16" for x in "qkvo" for of in ("row", "token", "head")}
SIZES = {"windows": "i32", "n": "i32", "H": "i32:16", "frame": "i32", "scale": "fp32", **STRIDES}


def variants(kind: str, small: bool) -> list[Variant]:
    narrow = kind == "bf16"
    tensors = {name: f"*{kind}" for name in ("Q", "K", "V", "O")} | {"LSE": "*fp32"}
    constants = {"D": 64, "BD": 64, "SMALL": small, "PRECISION": "ieee"}
    name = f"{'3' if small else '256'} tokens, {'bfloat16' if narrow else 'float32'}"
    kernels = (
        (attention._forward, {}, "forward", 64 if narrow else 32),
        (
            attention._of_queries,
            {"DO": f"*{kind}", "DQ": f"*{kind}"},
            "backward, queries",
            64 if narrow else 16,
        ),
        (attention._of_keys, {"DO": f"*{kind}", "DK": f"*{kind}", "DV": f"*{kind}"}, "backward, keys", 32),
    )
    return [
        Variant(
            kernel,
            types=tensors | more | SIZES,
            constants=constants | {"SIDE": side, "P": 4 if small else side},
            warps=8,
            stages=1,
            budget=Budget(registers=255, tensor_cores=("HMMA",) if narrow else (), wide_loads=0.5),
            but={90: {"tensor_cores": ("HGMMA",)}, 100: {"tensor_cores": ("UTCHMMA",)}} if side == 64 else {},
            name=f"attention {what}, {name}",
        )
        for kernel, more, what, side in kernels
    ]


VARIANTS = [one for kind in ("bf16", "fp32") for small in (True, False) for one in variants(kind, small)]
