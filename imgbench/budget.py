"""The minutes that a command may take, by a clock that neither jumps nor counts while the machine sleeps."""

import time
from dataclasses import dataclass

import psutil

LONGEST_START = 120.0  # seconds: a process that is older when it asks was not started for this command


@dataclass(frozen=True)
class Budget:
    """`minutes` as they were given, and the moment of `time.monotonic()` at which they are over."""

    minutes: float
    end: float

    @classmethod
    def from_now(cls, minutes: float) -> "Budget":
        return cls(minutes, time.monotonic() + 60 * minutes)

    @classmethod
    def of_command(cls, minutes: float) -> "Budget":
        """From the start of this process, whose imports take seconds."""
        started = time.time() - psutil.Process().create_time()
        return cls(minutes, time.monotonic() + 60 * minutes - (started if 0 <= started <= LONGEST_START else 0))

    @property
    def left(self) -> float:
        """Seconds; negative once it is overdrawn."""
        return self.end - time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds."""
        return 60 * self.minutes - self.left

    def but(self, seconds: float) -> "Budget":
        """The same minutes, over so many seconds earlier."""
        return Budget(self.minutes, self.end - seconds)

    def part(self, share: float) -> "Budget":
        """The same minutes, over when this share of what is left now has passed."""
        return self.but((1 - share) * max(self.left, 0))
