"""What is put in the place of a value: texts, numbers and structures that have done harm somewhere."""

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CANARY = "imgbench_canary"  # a module at hand that no file may have imported
SECRET = "S3CR3T-of-the-environment"

# What runs nothing, leads nowhere and is looked up by nobody.
TEXTS = (
    "", " ", "../../outside.csv", "../secret.txt", "/etc/passwd", "{outside}", "{outside}/made.csv", "a\0b", "\x1b[31m",
    "\ud800", "‮gpj", "=cmd|'/C calc'!A0", "<script>x</script>", "http://127.0.0.1:9/x", "file:///etc/passwd",
    "https://example.invalid/w.ckpt", "${{oc.env:IMGBENCH_SECRET}}", "${{data}}", "${{", "${{model_name}}", "os.system",
    f"{CANARY}.Net", f"imgbench.{CANARY}", "torch.hub.load", "imgbench.files.write_atomically",
    "imgbench.models.weights.os.system", "timm.create_model", "torchvision.models.list_models", "torch.nn.Module",
    "__import__('os').system('touch {outside}/made')", "!!python/object/apply:os.system ['touch {outside}/made']",
    "nan", "inf", "-1", "1e999", "9" * 400, "x" * 70_000, "[" * 5_000, "*alias", "&a [x]", "\r\n", "null", "~", "%s%n",
    "hf-hub:nobody/none", "hub", "CON", "C:\\x", "//server/x", "~/x.csv", "$HOME", "`id`", "$(id)", ";id", "--help",
)  # fmt: skip
NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 1e308, -0.0, 1e-320, math.nan, math.inf, -math.inf, True)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@dataclass(frozen=True)
class Bait:
    """What mutations name: a folder that nothing may be read from or written to."""

    outside: Path

    def text(self, rng: random.Random) -> str:
        return rng.choice(TEXTS).replace("{outside}", str(self.outside)).replace("{{", "{").replace("}}", "}")

    def value(self, rng: random.Random) -> Any:
        kind = rng.randrange(12)
        if kind < 5:
            return self.text(rng)
        if kind < 8:
            return rng.choice(NUMBERS)
        return rng.choice(
            [
                None,
                [],
                {},
                [None],
                [[]],
                {"": None},
                nested(rng.choice((3, 60))),
                [self.text(rng)] * 3,
                {"_target_": self.text(rng), "path": str(self.outside / "made")},
                {"_target_": "os.system", "command": "id"},
                {"_args_": [self.text(rng)]},
                {self.text(rng): self.text(rng)},
                [1] * 5_000,
                {"value": {}},
            ]
        )
