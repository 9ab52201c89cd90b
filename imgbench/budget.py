"""The minutes that a command may take, by a clock that neither jumps nor counts while the machine sleeps."""

import time
from dataclasses import dataclass, replace

import psutil

LONGEST_START = 120.0  # seconds: a process that is older when it asks was not started for this command


@dataclass(frozen=True)
class Budget:
    """`minutes` as they were given, and the moments of `time.monotonic()` at which they began and are over.

    `processor` is what `time.process_time()` was when they began.
    """

    minutes: float
    start: float
    end: float
    processor: float

    @classmethod
    def from_now(cls, minutes: float) -> "Budget":
        now = time.monotonic()
        return cls(minutes, now, now + 60 * minutes, time.process_time())

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

    @property
    def slowdown(self) -> float:
        """How many times as long as on an idle machine all has taken until now, because others use its processor."""
        used = time.process_time() - self.processor
        return max(1.0, self.spent / used) if used > 0 else 1.0

    def but(self, seconds: float) -> "Budget":
        """The same minutes, begun and over so many seconds earlier."""
        return replace(
            self, start=self.start - seconds, end=self.end - seconds, processor=self.processor - max(seconds, 0)
        )

    def part(self, share: float) -> "Budget":
        """The same minutes, over when this share of what is left now has passed."""
        return replace(self, end=self.end - (1 - share) * max(self.left, 0))

    def before(self, share: float, seconds: float) -> "Budget":
        """The same minutes, over so early that what comes after has its time.

        Args:
            share: that it has at least of what is left now.
            seconds: that it takes on an idle machine. It has at most half of what is left.
        """
        rest = max(share, min(0.5, seconds * self.slowdown / max(self.left, 1e-9)))
        return self.part(1 - rest)
