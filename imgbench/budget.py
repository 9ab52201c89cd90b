"""The minutes that a command may take, by a clock that neither jumps nor counts while the machine sleeps."""

import time
from dataclasses import dataclass

import psutil

LONGEST_START = 120.0  # seconds: a process that is older when it asks was not started for this command


@dataclass(frozen=True)
class Budget:
    """`minutes` as they were given, and the moments of `time.monotonic()` at which they began and are over."""

    minutes: float
    start: float
    end: float

    @classmethod
    def from_now(cls, minutes: float) -> "Budget":
        now = time.monotonic()
        return cls(minutes, now, now + 60 * minutes)

    @classmethod
    def of_command(cls, minutes: float) -> "Budget":
        """From the start of this process, whose imports take seconds."""
        started = time.time() - psutil.Process().create_time()
        return cls.from_now(minutes).but(started if 0 <= started <= LONGEST_START else 0)

    @property
    def left(self) -> float:
        """Seconds; negative once it is overdrawn."""
        return self.end - time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds."""
        return time.monotonic() - self.start

    def but(self, seconds: float) -> "Budget":
        """The same minutes, begun and over so many seconds earlier."""
        return Budget(self.minutes, self.start - seconds, self.end - seconds)

    def part(self, share: float) -> "Budget":
        """The same minutes, over when this share of what is left now has passed."""
        return Budget(self.minutes, self.start, self.end - (1 - share) * max(self.left, 0))
