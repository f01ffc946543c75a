"""How many requests a server gets at once, learned from what it answers.

One URL may be one GPU or a gateway before fifty. While requests wait for a place, the limit rises step by step as long
as each step raises throughput, measured in tokens a second over a window of requests. It falls when the server has too
many requests or does not answer in time. It stays within fixed bounds.
"""

from __future__ import annotations

START, LEAST, MOST = 64, 4, 512  # requests at once
GAIN = 1.05  # the least growth of throughput that justifies a step
_STEP = 4  # a step is this part of the limit
_FALL = 0.7
_HOLD = 8  # windows between two attempts to rise


class Limit:
    """value: requests at once. A fixed one neither rises nor falls."""

    def __init__(self, fixed: int | None = None) -> None:
        self.value = fixed or START
        self._fixed = fixed is not None
        self._known = self.value  # the highest value that justified its step
        self._throughput = 0.0  # tokens a second at that value
        self._hold = 0
        self._since_fall = self.value  # answers
        self._begin(0.0)

    def answered(self, tokens: int, now: float, *, full: bool) -> None:
        """Count an answer. full: the limit was reached, without which throughput shows nothing about it."""
        self._since_fall += 1
        if self._fixed or not full:
            self._begin(now)
            return
        if not self._count:
            self._since = now  # the first answer only begins the window
        else:
            self._tokens += tokens
        self._count += 1
        if self._count > 2 * self.value:
            self._judge(self._tokens / max(now - self._since, 1e-6))
            self._begin(now)

    def refused(self) -> None:
        """The server had too many requests. Refusals with few answers between them are one."""
        if self._fixed or self._since_fall < self.value // 2:
            return
        self.value = self._known = max(LEAST, int(self.value * _FALL))
        self._throughput, self._hold, self._since_fall = 0.0, _HOLD, 0
        self._count = 0

    def _begin(self, now: float) -> None:
        self._since, self._count, self._tokens = now, 0, 0

    def _judge(self, throughput: float) -> None:
        if self.value > self._known and throughput < GAIN * self._throughput:
            self.value, self._hold = self._known, _HOLD
            return
        self._known, self._throughput = self.value, throughput
        if self._hold:
            self._hold -= 1
        else:
            self.value = min(MOST, self.value + max(1, self.value // _STEP))
