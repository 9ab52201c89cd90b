"""What a compressed run shall reach, as a user writes it: `size<=2MB,latency<=10ms,drop<=1pt`."""

import re
from dataclasses import dataclass

from imgbench.errors import UserError
from imgbench.number import Number

UNITS = {"size": "MB", "latency": "ms", "drop": "pt"}


@dataclass(frozen=True)
class Target:
    """Upper bounds; None is none.

    `size` of the weights' file in MB of 10^6 bytes, `latency` of one image on this machine in milliseconds, `drop` of
    the validation accuracy in percentage points.
    """

    size: float | None = None
    latency: float | None = None
    drop: float | None = None

    @classmethod
    def parse(cls, text: str, option: str = "--target ") -> "Target":
        """Reads `size<=2MB`, `latency<=10ms`, `drop<=1pt`, or several of them joined by commas.

        Args:
            option: where it was given, as an error names it.

        Raises:
            UserError: something else.
        """
        bounds: dict[str, float] = {}
        for part in text.split(","):
            match = re.fullmatch(r"\s*(size|latency|drop)\s*<=\s*(\d+\.?\d*|\.\d+)\s*(MB|ms|pt)?\s*", part)
            name = match[1] if match else ""
            if match is None or match[3] not in (None, UNITS[name]) or name in bounds:
                raise UserError(
                    f'{option}{text!r}: {part.strip()!r} is not understood. Expected "size<=2MB", "latency<=10ms", '
                    '"drop<=1pt" (percentage points of validation accuracy), each at most once, joined by commas.'
                )
            bounds[name] = float(match[2])
        return cls(**bounds)

    @property
    def limits_cost(self) -> bool:
        """Whether size or latency is bounded: neither depends on training."""
        return self.size is not None or self.latency is not None

    def __str__(self) -> str:
        bounds = ((name, getattr(self, name)) for name in UNITS)
        return ",".join(f"{name}<={bound:g}{UNITS[name]}" for name, bound in bounds if bound is not None)

    def unmet(self, size: float | None = None, latency: float | None = None, drop: float | None = None) -> list[str]:
        """Which of the given measurements exceed their bounds, in words."""
        measured = {"size": size, "latency": latency, "drop": drop}
        return [
            f"{name} {value:.4g} {UNITS[name]}, above {bound:.4g} {UNITS[name]}"
            for name, value in measured.items()
            # Rounded as an accuracy is, so that a drop of exactly one point is not more than one.
            if value is not None and (bound := getattr(self, name)) is not None and round(value, 6) > bound
        ]

    def doubt(self, difference: Number) -> str | None:
        """Why validation images cannot tell that no more accuracy is lost than the bound; None where they can.

        Args:
            difference: of the accuracies on these images, as a share; a loss is negative.
        """
        if self.drop is None or round(-100 * difference.low, 6) <= self.drop:
            return None
        n = max(difference.n, 1)
        return (
            f"{difference.n} validation images are too few to tell whether the loss is at most {self.drop:.4g} pt: the "
            f"difference is {100 * difference.value:+.1f} pt "
            f"({100 * difference.low:+.1f} to {100 * difference.high:+.1f}), and one photograph is {100 / n:.2g} pt"
        )
