"""Capacity planning: the partitions, prefilters and GPUs that a load needs.

Prefilters: rate * HEADROOM / rate of one prefilter.

Reasoners: a GPU generates `tokens_per_s` tokens a second over `slots` concurrent judgements, so a judgement that needs
`tokens` completion tokens takes tokens * slots / tokens_per_s seconds. The lengths of answers, and hence the service
times S, have the distribution that was measured. n GPUs give c = n * slots servers for J = rate * share judgements a
second: an M/G/c queue. The share of judgements that take longer than t is

    P(T > t) = P(S > t) + E[C * e^-((t - S) / w); S <= t],   w = (1 + v) / 2 * E[S] / (c - J * E[S])

C is Erlang's C formula, and v the squared coefficient of variation of S. For exponential service times (v = 1) this is
exact. For others, the wait is that of M/M/c, scaled by (1 + v) / 2 (Lee and Longton 1959; Tijms, A First Course in
Stochastic Models, section 9.6). The plan takes the smallest n at which at most 1% of judgements exceed the objective
and at most MAX_UTILIZATION of the servers are busy. Above 100 GPUs, n is within 1% of the smallest. Where a benchmark
measured several numbers of slots, the plan takes the one that needs the fewest GPUs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated

import msgspec

from safeguard_streams.errors import ConfigurationError

HEADROOM = 1.5  # capacity of prefilters and partitions, relative to the mean rate
MAX_UTILIZATION = 0.8  # of the reasoners' slots, on average
MAX_LATE = 0.01  # share of judgements that may take longer than the objective
PARTITION_RATE = 10_000.0  # events/s that one partition with three replicas handles easily
PARTITION_MULTIPLE = 6  # partitions are a multiple of it, which members of a group share evenly
SHARES = (0.1, 0.5, 0.9, 0.99)  # of the answers, up to the lengths of an AnswerLengths
_POINTS = 1000  # of equal weight, for a distribution


class AnswerLengths(msgspec.Struct, frozen=True):
    """The distribution of completion tokens per judgement, by four percentiles.

    Between them, and beyond the first and the last, the logarithm of the length is linear in the share.
    """

    p10: Annotated[float, msgspec.Meta(ge=1)]
    p50: Annotated[float, msgspec.Meta(ge=1)]
    p90: Annotated[float, msgspec.Meta(ge=1)]
    p99: Annotated[float, msgspec.Meta(ge=1)]

    def at(self, share: float) -> float:
        """The length that a share of the answers, 0 to 1, does not exceed."""
        points = list(zip(SHARES, (self.p10, self.p50, self.p90, self.p99), strict=True))
        for (left, shorter), (right, longer) in itertools.pairwise(points):
            if share <= right or right == SHARES[-1]:
                return float(shorter * (longer / shorter) ** ((share - left) / (right - left)))
        raise AssertionError("the last segment reaches to any share")

    def points(self) -> list[float]:
        """Lengths of equal weight, in rising order."""
        return [self.at((number + 0.5) / _POINTS) for number in range(_POINTS)]

    def scaled(self, mean: float) -> AnswerLengths:
        """The same shape with another mean."""
        factor = mean / _mean(self.points())
        return AnswerLengths(self.p10 * factor, self.p50 * factor, self.p90 * factor, self.p99 * factor)


# 6,571 logged outputs of gpt-oss-safeguard-20b with its default effort.
LOGGED = AnswerLengths(72, 171, 749, 1641)


class Load(msgspec.Struct, frozen=True):
    """rate: events/s. share: judgements per event, above 1 where several policies escalate the same event. tokens:
    completion tokens per judgement. slo: seconds from escalation to verdict, for 99% of judgements.
    """

    rate: float
    share: float
    tokens: AnswerLengths
    slo: float


class GpuSpeed(msgspec.Struct, frozen=True):
    """Completion tokens/s of one GPU with `slots` concurrent judgements."""

    slots: int
    tokens_per_s: float


class MeasuredHost(msgspec.Struct, frozen=True):
    """Results of benchmarks. prefilter_rate: events/s of one process. gpu: one entry for each number of slots."""

    prefilter_rate: float
    gpu: Sequence[GpuSpeed]


class CapacityPlan(msgspec.Struct, frozen=True):
    """partitions: of each topic. prefilters: processes. gpus: one reasoner each. slots: of each GPU. busy: the average
    share of the slots in use, 0 to 1. p99: seconds from escalation to verdict, by the formula.
    """

    partitions: int
    prefilters: int
    gpus: int
    slots: int
    busy: float
    p99: float


class Queue:
    """The judgements of one load on one kind of GPU. service: seconds of a judgement, at points of equal weight."""

    def __init__(self, judged: float, service: Sequence[float]) -> None:
        self._judged = judged
        self._service = service
        self.mean = _mean(service)
        self._variation = _mean([(one / self.mean - 1) ** 2 for one in service])

    @property
    def alone(self) -> float:
        """The seconds that fewer than MAX_LATE of the judgements exceed, if none waits."""
        return sorted(self._service)[math.ceil((1 - MAX_LATE) * len(self._service))]

    @property
    def offered(self) -> float:
        """The number of servers that are busy on average."""
        return self._judged * self.mean

    def late(self, seconds: float, servers: int) -> float:
        """The share of judgements that take longer than `seconds`, waiting included."""
        free = servers - self.offered
        if free <= 0:
            return 1.0
        waiting = erlang_c(self.offered, servers)
        wait = (1 + self._variation) / 2 * self.mean / free
        return _mean([waiting * math.exp((one - seconds) / wait) if one <= seconds else 1.0 for one in self._service])

    def p99(self, servers: int) -> float:
        """The seconds that 99% of judgements take at most."""
        low, high = 0.0, self.mean
        while self.late(high, servers) > MAX_LATE:
            high *= 2
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.late(middle, servers) > MAX_LATE else (low, middle)
        return high


def plan(load: Load, host: MeasuredHost) -> CapacityPlan:
    """The smallest plan for a load. Raises ConfigurationError when one judgement alone exceeds the objective."""
    prefilters = max(1, math.ceil(load.rate * HEADROOM / host.prefilter_rate))
    lengths = load.tokens.points()
    queues = [
        (speed.slots, Queue(load.rate * load.share, [one * speed.slots / speed.tokens_per_s for one in lengths]))
        for speed in host.gpu
    ]
    able = [(_gpus(queue, slots, load.slo), slots, queue) for slots, queue in queues if queue.alone <= load.slo]
    if not able:
        slots, queue = min(queues, key=lambda one: one[1].alone)
        raise ConfigurationError(
            f"with {slots} slots, 1% of judgements take more than {queue.alone:.1f} s on any number of GPUs: lower the "
            f"effort or SAFEGUARD_MAX_IN_FLIGHT, or raise --slo, which is {load.slo:g}"
        )
    gpus, slots, queue = min(able, key=lambda one: (one[0], one[2].mean))
    min_partitions = max(prefilters, gpus, math.ceil(load.rate * HEADROOM / PARTITION_RATE))
    return CapacityPlan(
        partitions=PARTITION_MULTIPLE * math.ceil(min_partitions / PARTITION_MULTIPLE),
        prefilters=prefilters,
        gpus=gpus,
        slots=slots,
        busy=round(queue.offered / (gpus * slots), 3),
        p99=round(queue.p99(gpus * slots), 2),
    )


def _gpus(queue: Queue, slots: int, slo: float) -> int:
    gpus = max(1, math.ceil(queue.offered / (MAX_UTILIZATION * slots)))
    while queue.late(slo, gpus * slots) > MAX_LATE:
        gpus += max(1, gpus // 100)
    return gpus


def erlang_c(offered: float, servers: int) -> float:
    """Erlang's C formula: the share of judgements that find all servers busy. offered: servers busy on average.

    It uses the recursion of the B formula, which does not overflow.
    """
    if offered >= servers:
        return 1.0
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
